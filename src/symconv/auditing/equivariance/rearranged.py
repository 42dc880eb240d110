"""The axes of a feature after slices, sums and other arrangements of the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import CHANNELS, Axis, Digit, Layout, LostError
from symconv.auditing.equivariance.operations import Operation


def order(op: Operation, x: Tensor) -> list[int]:
    """Which axis comes where: the function itself says so, on a tensor of unlike sizes."""
    sizes = [2 + i for i in range(x.ndim)]
    with torch._C.DisableTorchFunction():
        probe = torch.empty(sizes, device="meta")
        moved = op.again(probe, *op.args[1:], **op.kwargs)
    return [sizes.index(n) for n in moved.shape]


def expanded(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """Axes of size one repeated, new ones before."""
    new = len(shape) - len(layout.axes)
    axes: list[Axis] = [(Digit("-", n),) for n in shape[:new]]
    result = layout
    for old, digits, size in zip(layout.shape, layout.axes, shape[new:], strict=True):
        if old != size:
            label = digits[0].label if len(digits) == 1 else "-"
            digits = (Digit(label, size),)
            result = result.scaled(label, Fraction(1, size))
        axes.append(digits)
    return result.with_axes(axes, (0,) * new + layout.lead)


def indexed(layout: Layout, index: Any, out: Tensor) -> Layout:
    """Indexing by integers, slices, None and the ellipsis."""
    index = list(index) if isinstance(index, tuple) else [index]
    if not all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index):
        raise LostError("an index of positions")
    used = sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis not in index:
        index.append(Ellipsis)
    fill = index.index(Ellipsis)
    index[fill : fill + 1] = [slice(None)] * (len(layout.axes) - used)
    result, axis = layout, 0
    for i in index:
        if i is None:
            axes, lead = list(result.axes), list(result.lead)
            axes.insert(axis, (Digit("-", 1),))
            lead.insert(axis, 0)
            result = result.with_axes(axes, lead)
        elif isinstance(i, int):
            result = picked(result, axis, i)
            continue
        else:
            result = _sliced(result, axis, i, out.shape[axis])
        axis += 1
    return result


def picked(layout: Layout, axis: int, at: int | None = None) -> Layout:
    """One entry of an axis."""
    axis %= len(layout.axes)
    kinds, lead = layout.kinds(axis), layout.lead[axis]
    if lead and at is not None and 0 <= at < lead:
        return layout.without({axis})
    if kinds & {"s", "t"}:
        raise LostError("one position is picked")
    result = layout.without({axis})
    if CHANNELS in kinds and layout.field is not None:
        return replace(result, field=None, sure=False)
    return result


def _sliced(layout: Layout, axis: int, part: slice, size: int) -> Layout:
    step = part.step or 1
    old, lead, digits = layout.shape[axis], layout.lead[axis], layout.axes[axis]
    if size == old and step == 1:
        return layout
    if lead:
        if part.start == lead and step == 1 and size == old - lead:
            return layout.with_axis(axis, digits)
        raise LostError("part of an axis with class tokens")
    if len(digits) != 1 or digits[0].weight != 1:
        raise LostError("part of an axis made of several")
    result = layout.with_axis(axis, (replace(digits[0], size=size),))
    if digits[0].label == CHANNELS and layout.field is not None:
        return part_of_field(result, old, size)
    return result.scaled(digits[0].label, Fraction(step))


def dims(op: Operation, ndim: int) -> set[int]:
    """The axes that a sum runs over."""
    dims = op.kwargs.get("dim", op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None))
    if isinstance(dims, int):
        dims = [dims]
    if not dims:
        return set(range(ndim))
    return {int(d) % ndim for d in dims}


def summed(layout: Layout, dims: set[int], out: Tensor) -> Layout:
    """Sums, means and the like over some axes."""
    result = layout
    if any(CHANNELS in layout.kinds(a) for a in dims) and layout.field is not None:
        result = replace(result, field=None, sure=False)
    if out.ndim == len(layout.axes):
        for a in dims:
            digits = layout.axes[a]
            label = digits[0].label if len(digits) == 1 else "-"
            result = result.with_axis(a, (Digit(label, 1),)).scaled(label, Fraction(_size(digits)))
    elif out.ndim == len(layout.axes) - len(dims):
        result = result.without(dims)
    else:
        raise LostError("a sum")
    return _coarser(result)


def _size(axis: Axis) -> int:
    return math.prod(d.size for d in axis)


def _coarser(layout: Layout) -> Layout:
    """Where the lowest digits of a label were summed over, the others count coarser positions."""
    for label, _ in layout.strides:
        weights = [d.weight for a in layout.axes for d in a if d.label == label and d.size > 1]
        least = min(weights, default=1)
        if least > 1:
            axes = [
                tuple(replace(d, weight=d.weight // least) if d.label == label else d for d in axis)
                for axis in layout.axes
            ]
            layout = layout.with_axes(axes, layout.lead).scaled(label, Fraction(least))
    return layout


def part_of_field(layout: Layout, old: int, new: int) -> Layout:
    """Some neighbouring channels of a field: one of equal blocks, or it is not known what."""
    if layout.field is not None and old % max(new, 1) == 0:
        try:
            return replace(layout, field=layout.field.split(old // new))
        except ValueError:
            pass
    return replace(layout, field=None, sure=False)
