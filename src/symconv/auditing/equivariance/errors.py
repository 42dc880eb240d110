"""Equivariance errors: how far two features are apart, over which units, and what that means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import Digit, Layout
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
        whole: Some item moved by whole positions of its own, where the shift is no whole number of
            them.
    """

    full: float | None
    interior: float | None = None
    rounding: bool = False
    whole: bool = False


@dataclass(frozen=True)
class _Norms:
    """Squared norms of a difference and of what is expected, over all units and the interior."""

    apart: float
    size: float
    inside: tuple[float, float] | None = None

    def __add__(self, other: _Norms) -> _Norms:
        inside = None
        if self.inside is not None and other.inside is not None:
            inside = (self.inside[0] + other.inside[0], self.inside[1] + other.inside[1])
        return _Norms(self.apart + other.apart, self.size + other.size, inside)

    @property
    def relative(self) -> float:
        """The squared relative error; infinite where something is not finite."""
        known = math.isfinite(self.apart) and math.isfinite(self.size)
        if not known or (self.apart and not self.size):
            return math.inf
        return self.apart / self.size if self.apart else 0.0


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
    found = _norms_over(got, expected, layout, move, dimension, interior)
    return _as_error(found, _entries(expected, layout, move), got.dtype, scale)


def nearest(
    got: Tensor,
    expected: Tensor,
    others: Iterable[Tensor],
    layout: Layout,
    move: Move,
    dimension: int,
    interior: Tensor | None = None,
    scale: float = 0.0,
) -> Error:
    """The error against the nearest of several expected features, item by item.

    Args:
        got: What was computed.
        expected: What should have come.
        others: What may have come instead, each as large.
        layout: As in `difference`, and so are the arguments after it.
        move: The transform.
        dimension: Axes of space.
        interior: Mask over space of the interior units, if any.
        scale: Root mean square of what they were computed from.
    """
    axis = layout.axis_of("n")
    sound = EXACT.get(got.dtype, 0.0) ** 2
    best = [
        _norms_over(a, b, g, move, dimension, interior)
        for a, b, g in _items(got, expected, layout, axis)
    ]
    whole = [False] * len(best)
    for other in others:
        if all(b.relative <= sound for b in best):
            break
        for i, (a, b, g) in enumerate(_items(got, other, layout, axis)):
            found = _norms_over(a, b, g, move, dimension, interior)
            if found.relative < best[i].relative:
                best[i], whole[i] = found, True
    error = _as_error(reduce(add, best), _entries(expected, layout, move), got.dtype, scale)
    return replace(error, whole=any(whole))


def _items(
    got: Tensor, expected: Tensor, layout: Layout, axis: int | None
) -> Iterator[tuple[Tensor, Tensor, Layout]]:
    """The items of a batch, one after the other; the whole where no axis holds them."""
    if axis is None or got.shape[axis] == 1:
        yield got, expected, layout
        return
    one = layout.with_axis(axis, (Digit("n", 1),))
    for i in range(got.shape[axis]):
        yield got.narrow(axis, i, 1), expected.narrow(axis, i, 1), one


def _norms_over(
    got: Tensor,
    expected: Tensor,
    layout: Layout,
    move: Move,
    dimension: int,
    interior: Tensor | None,
) -> _Norms:
    masks = [None, interior]
    partners = move.partners(layout)
    if move.keeps is not None and layout.has("s"):
        keeps = move.keeps(_space_of(expected, layout, dimension))
        masks = [keeps, None if interior is None else interior & keeps]
    if masks[0] is None and masks[1] is None and partners is None:
        return _Norms(*_norms(got, expected))
    two = [_energy(a, expected, layout, dimension, partners) for a in (got, None)]
    whole, within = ((_over(two[0], mask), _over(two[1], mask)) for mask in masks)
    some = masks[1] is not None and bool(masks[1].any())
    return _Norms(whole[0], whole[1], within if some else None)


def _entries(expected: Tensor, layout: Layout, move: Move) -> int:
    """How many numbers are compared."""
    partners = move.partners(layout)
    share = 1.0 if partners is None else float(partners.double().mean())
    return round(share * expected.numel())


def _as_error(found: _Norms, entries: int, dtype: torch.dtype, scale: float) -> Error:
    apart, size = math.sqrt(found.apart), math.sqrt(found.size)
    inside = None
    if found.inside is not None:
        inside = _relative(math.sqrt(found.inside[0]), math.sqrt(found.inside[1]))
    count = math.sqrt(max(entries, 1))
    tiny = 1e-3 * EXACT.get(dtype, 0.0) * scale
    rounding = math.isfinite(apart) and apart / count <= tiny and size / count <= 1e-3 * scale
    return Error(_relative(apart, size), inside, rounding)


def _relative(apart: float, size: float) -> float | None:
    if not (math.isfinite(apart) and math.isfinite(size)):
        return None
    return apart / size if size else (math.inf if apart else 0.0)


def _norms(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """The squared norms of the difference and of what is expected."""
    apart = size = 0.0
    for a, b in zip(_chunks(got), _chunks(expected), strict=True):
        apart += _square(a - b)
        size += _square(b)
    return apart, size


def _energy(
    got: Tensor | None,
    expected: Tensor,
    layout: Layout,
    dimension: int,
    partners: Tensor | None = None,
) -> Tensor:
    """The squared difference (or squares, without `got`) at each position, all channels summed.

    Channels without a partner are left out.
    """
    tensors = [canonical(t, layout, dimension) for t in (expected, got) if t is not None]
    if partners is not None:
        tensors = [t[:, partners.to(t.device)] for t in tensors]
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
    return float((energy if mask is None else energy[mask.to(energy.device)]).sum())


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
