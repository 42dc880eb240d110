"""Transforms of feature tensors: what a layer should commute with."""

from __future__ import annotations

import torch

from symconv.errors import StructureError
from symconv.lattice.windows import Size, per_axis


def translate(x: torch.Tensor, shift: Size, mode: str = "circular") -> torch.Tensor:
    """Move the content of `x` by whole positions: ``y[..., i] = x[..., i - shift]``.

    Positive shifts move content to higher indices, I'(x, y) = I(x - 1, y). Exact: values are
    moved, never interpolated.

    Args:
        x: Tensor (..., *space) whose last axes, one an entry of `shift`, are space.
        shift: Positions per axis in tensor order; an integer moves the last axis.
        mode: "circular" (what leaves at one end enters at the other) or "zeros" (it is lost, and
            zeros enter).

    Raises:
        StructureError: The mode is unknown, the shift is not whole, or `x` has too few axes.

    Example:
        >>> translate(torch.tensor([1, 2, 3]), 1), translate(torch.tensor([1, 2, 3]), 1, "zeros")
        (tensor([3, 1, 2]), tensor([0, 1, 2]))
    """
    dimension = 1 if isinstance(shift, int) else len(shift)
    steps = per_axis(shift, dimension, "shift", minimum=-(2**62))
    if x.ndim < dimension:
        raise StructureError(f"a tensor of at least {dimension} axes", f"shape {tuple(x.shape)}")
    if mode not in ("circular", "zeros"):
        raise StructureError('mode "circular" or "zeros"', repr(mode))
    axes = range(x.ndim - dimension, x.ndim)
    if mode == "circular":
        return x.roll(steps, tuple(axes))
    y, here, there = torch.zeros_like(x), [slice(None)] * x.ndim, [slice(None)] * x.ndim
    for axis, step in zip(axes, steps, strict=True):
        length = max(0, x.shape[axis] - abs(step))
        here[axis] = slice(max(0, -step), max(0, -step) + length)
        there[axis] = slice(max(0, step), max(0, step) + length)
    y[tuple(there)] = x[tuple(here)]
    return y
