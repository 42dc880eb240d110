"""What a change of size does to channels over scales: each copy moves along its row of scales."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import LostError
from symconv.lattice.representations import Field
from symconv.lattice.scales import Scales


def scales_of(field: Field | None) -> Scales | None:
    """The scales that a field's channels stand for; None where they stand for none."""
    if field is None or all(r.size == 1 for r, copies in field.parts if copies):
        return None
    group: object = field.group
    return group if isinstance(group, Scales) else None


def steps_of(scales: Scales, factor: float) -> int | None:
    """How many scales up the features of a rescaled picture come from; None: no whole number.

    What is half as large at scale 1 was at scale 2 before: one step up for octaves.

    Example:
        >>> [steps_of(Scales(factor, 3), 0.5) for factor in (2, 2**0.5, 3)]
        [1, 2, None]
    """
    steps = -math.log(factor) / math.log(scales.factor)
    return round(steps) if abs(steps - round(steps)) < 1e-3 else None


def rounds_apart(scales: Scales, factor: float, size: int) -> bool:
    """Whether grids of the scales have other sizes for the rescaled axis than they had before.

    Example:
        >>> [n for n in range(40, 50) if rounds_apart(Scales(2**0.5, 5), 0.5, n)]
        [43]
    """
    steps, new = steps_of(scales, factor) or 0, round(size * factor)
    pairs = zip(scales.sizes[max(-steps, 0) :], scales.sizes[max(steps, 0) :], strict=False)
    return any(round(new / a) != round(size / b) for a, b in pairs)


def factors_for(scales: Scales | None) -> list[float]:
    """Changes of size worth measuring, the best first: to half, a step down, a step up."""
    if scales is None:
        return [0.5]
    steps = steps_of(scales, 0.5)
    half = [0.5] if steps is not None and steps < scales.count else []
    return [*half, 1 / scales.factor, scales.factor]


def along_scales(
    x: Tensor, axis: int, field: Field | None, factor: float, fill: float = 0.0
) -> Tensor:
    """Channels with every copy moved along its scales, `fill` where none comes from any.

    Raises:
        LostError: The factor is no whole number of steps, or of more than there are, or the
            channels are not the field's.
    """
    scales = scales_of(field)
    if scales is None or field is None:
        return x
    steps = steps_of(scales, factor)
    if steps is None:
        raise LostError(f"{factor:.4g} is no whole number of steps of {scales}")
    if field.channels != x.shape[axis]:
        raise LostError(f"{field} on {x.shape[axis]} channels")
    source, known = _sources(field, steps)
    if not known.any():
        raise LostError(f"{factor:.4g} is more than all steps of {scales}")
    moved = x.index_select(axis, source.to(x.device))
    missing = ~known.to(x.device).view(-1, *(1,) * (x.ndim - 1 - axis))
    return moved.masked_fill(missing, fill)


def partners(field: Field | None, factor: float) -> Tensor | None:
    """Which channels (C,) have an expected value under a change of size; None: all of them."""
    scales = scales_of(field)
    steps = steps_of(scales, factor) if scales is not None else 0
    return _sources(field, steps)[1] if field is not None and steps else None


def _sources(field: Field, steps: int) -> tuple[Tensor, Tensor]:
    """The channel that each comes from, and whether there is one."""
    sizes = [r.size for r, copies in field.parts for _ in range(copies)]
    size = torch.tensor(sizes).repeat_interleave(torch.tensor(sizes))
    place = torch.cat([torch.arange(n) for n in sizes])
    step = torch.where(size > 1, steps, 0)
    known = (place + step >= 0) & (place + step < size)
    return torch.arange(len(place)) + step * known, known
