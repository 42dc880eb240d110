"""Equivariance errors: how far two features are apart, over which units, and what that means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import Move

# Relative errors at which a verdict turns. Rounding grows with depth, so "exact" leaves four to
# five decimal digits above the unit roundoff of the type; Fourier shifts need no more.
EXACT = {
    torch.float64: 1e-10,
    torch.float32: 3e-5,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
BROKEN = 0.1
_CHUNK = 1 << 17  # numbers at a time: they stay in cache, and sums keep their digits


@dataclass(frozen=True)
class Error:
    """The difference of two features.

    Attributes:
        full: ``||a - b|| / ||b||`` over all units; None if something is not finite.
        interior: The same over the units whose receptive field avoids the border.
        rounding: Both are so small beside what they were computed from that only rounding is left.
    """

    full: float | None
    interior: float | None = None
    rounding: bool = False


def verdict(error: float | None, dtype: torch.dtype, rounding: bool = False) -> str:
    """Exact at the rounding level of the type, broken above 0.1, approximate between.

    Example:
        >>> [verdict(e, torch.float32) for e in (1e-7, 0.02, 0.3)]
        ['exact', 'approximate', 'broken']
    """
    if rounding or (error is not None and error <= EXACT.get(dtype, 0.0)):
        return "exact"
    return "approximate" if error is not None and error <= BROKEN else "broken"


def difference(
    got: Tensor,
    expected: Tensor,
    layout: Layout,
    move: Move,
    dimension: int,
    interior: Tensor | None = None,
    scale: float = 0.0,
) -> Error:
    """The error of a feature against the expected one.

    Args:
        got: What was computed.
        expected: What should have come.
        layout: Their axes (before the transform; sizes may differ).
        move: The transform; it may have expected values for some positions only.
        dimension: Axes of space.
        interior: Mask over space of the interior units, if any.
        scale: Root mean square of what they were computed from.
    """
    masks = [None, interior]
    if move.keeps is not None and layout.has("s"):
        keeps = move.keeps(_space_of(expected, layout, dimension))
        masks = [keeps, None if interior is None else interior & keeps]
    if masks[0] is None and masks[1] is None:
        (apart, size), inside = _norms(got, expected), None
    else:
        two = [_energy(a, expected, layout, dimension) for a in (got, None)]
        (apart, size), within = ([_over(e, mask) for e in two] for mask in masks)
        some = masks[1] is not None and bool(masks[1].any())
        inside = _relative(*within) if some else None
    full = _relative(apart, size)
    count = math.sqrt(max(expected.numel(), 1))
    tiny = 1e-3 * EXACT.get(got.dtype, 0.0) * scale
    rounding = math.isfinite(apart) and apart / count <= tiny and size / count <= 1e-3 * scale
    return Error(full, inside, rounding)


def _relative(apart: float, size: float) -> float | None:
    if not (math.isfinite(apart) and math.isfinite(size)):
        return None
    return apart / size if size else (math.inf if apart else 0.0)


def _norms(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """The norms of the difference and of what is expected."""
    apart = size = 0.0
    for a, b in zip(_chunks(got), _chunks(expected), strict=True):
        apart += _square(a - b)
        size += _square(b)
    return math.sqrt(apart), math.sqrt(size)


def _energy(got: Tensor | None, expected: Tensor, layout: Layout, dimension: int) -> Tensor:
    """The squared difference (or squares, without `got`) at each position, all channels summed."""
    tensors = [canonical(t, layout, dimension) for t in (expected, got) if t is not None]
    space = tensors[0].shape[2:]
    total = torch.zeros(space.numel(), dtype=torch.float64, device=expected.device)
    few = max(1, _CHUNK // space.numel())
    for items in zip(*tensors, strict=True):
        for parts in zip(*(item.split(few) for item in items), strict=True):
            apart = parts[0] if got is None else parts[0] - parts[1]
            apart = (apart.float() if apart.element_size() < 4 else apart).flatten(1)
            total += (apart * apart).sum(0)
    return total.view(space)


def _over(energy: Tensor, mask: Tensor | None) -> float:
    return math.sqrt(float((energy if mask is None else energy[mask.to(energy.device)]).sum()))


def _chunks(x: Tensor) -> Iterator[Tensor]:
    """All numbers of a tensor in its logical order, a few at a time; large ones are not copied."""
    if x.numel() <= _CHUNK:
        yield (x.float() if x.element_size() < 4 else x).reshape(-1)
    elif len(x) == 1:
        yield from _chunks(x[0])
    else:
        for part in x.split(max(1, _CHUNK // x[0].numel())):
            yield from _chunks(part)


def _square(x: Tensor) -> float:
    return float(torch.dot(x, x))


def canonical(x: Tensor, layout: Layout, dimension: int) -> Tensor:
    """A feature as (rest, C, *S), class tokens left out.

    Raises:
        LostError: It has no such form.
    """
    layout = layout.resized(tuple(x.shape))
    for axis, count in enumerate(layout.lead):
        if count:
            x = x.narrow(axis, count, x.shape[axis] - count)
            layout = layout.with_axis(axis, layout.axes[axis])
    return layout.canonical(x, dimension)


def _space_of(x: Tensor, layout: Layout, dimension: int) -> tuple[int, ...]:
    return tuple(canonical(x, layout, dimension).shape[2:])


def root_mean_square(x: Tensor) -> float:
    """Of all entries."""
    total = sum(_square(part) for part in _chunks(x)) if x.is_floating_point() else 0.0
    return math.sqrt(total / max(x.numel(), 1))
