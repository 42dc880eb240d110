"""Where space and channels lie in a tensor in the middle of a network, and what a group does there.

Each axis of a tensor is a product of *digits*, most significant first. A digit belongs to a label:
"c" for channels, "s0", "s1", ... for the axes of space, "t0", "t1", ... for a second position (the
keys of attention scores), any other for what no transform touches. Flattening (H, W) makes one
axis of two digits; cutting H into windows of 7 makes two digits of one label. So a transform of
space acts on any reshaped or permuted feature: digits are brought together, moved, and put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from symconv.lattice.representations import Field

CHANNELS = "c"


class LostError(Exception):
    """The axes of a tensor could not be followed."""


@dataclass(frozen=True)
class Digit:
    """A factor of an axis: digit * weight, summed over a label's digits, is the position."""

    label: str
    size: int
    weight: int = 1


Axis = tuple[Digit, ...]
Act = Callable[[Tensor, tuple[int, ...], int, str], Tensor]


@dataclass(frozen=True)
class Layout:
    """The meaning of a tensor's axes.

    Attributes:
        axes: The digits of each axis.
        strides: Label of space -> input positions per position.
        field: What the group does to the channels; None: it leaves them where they are.
        sure: The field is known, or the usual one of a plain layer.
        lead: Per axis, how many first entries are no positions (class tokens).
    """

    axes: tuple[Axis, ...]
    strides: tuple[tuple[str, Fraction], ...] = ()
    field: Field | None = None
    sure: bool = True
    lead: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.lead:
            object.__setattr__(self, "lead", (0,) * len(self.axes))

    @classmethod
    def channels_first(
        cls, shape: Sequence[int], strides: Sequence[Fraction], field: Field | None = None
    ) -> Layout:
        """The layout of (N, C, *S)."""
        labels = ["n", CHANNELS, *(f"s{i}" for i in range(len(strides)))]
        axes = tuple((Digit(label, size),) for label, size in zip(labels, shape, strict=True))
        return cls(axes, tuple((f"s{i}", Fraction(s)) for i, s in enumerate(strides)), field)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(k + _size(a) for k, a in zip(self.lead, self.axes, strict=True))

    def total(self, label: str) -> int:
        """Positions of a label in all; 1 where the tensor no longer has it."""
        return math.prod(d.size for a in self.axes for d in a if d.label == label)

    def space(self, dimension: int, copy: str = "s") -> tuple[int, ...]:
        """Positions per axis of space."""
        return tuple(self.total(f"{copy}{i}") for i in range(dimension))

    def stride(self, dimension: int, copy: str = "s") -> tuple[Fraction, ...]:
        """Input positions per position, per axis of space."""
        known = dict(self.strides)
        return tuple(known.get(f"{copy}{i}", Fraction(1)) for i in range(dimension))

    def has(self, copy: str) -> bool:
        """Whether positions of this kind are among the axes."""
        return any(d.label[:1] == copy and d.size > 1 for a in self.axes for d in a)

    def axis_of(self, label: str) -> int | None:
        """The axis that holds this label and nothing else."""
        for axis, digits in enumerate(self.axes):
            if len(digits) == 1 and digits[0].label == label:
                return axis
        return None

    def kinds(self, axis: int) -> set[str]:
        """Which labels an axis holds: "c", "s", "t", or "-" for what no transform touches."""
        found = {d.label[0] for d in self.axes[axis] if d.size > 1 or len(self.axes[axis]) == 1}
        return {k if k in "cst" else "-" for k in found}

    def with_axes(self, axes: Sequence[Axis], lead: Sequence[int] = ()) -> Layout:
        """The same labels on other axes."""
        return replace(self, axes=tuple(axes), lead=tuple(lead))

    def with_axis(self, axis: int, digits: Axis, lead: int = 0) -> Layout:
        """The same with one axis replaced."""
        axes, leads = list(self.axes), list(self.lead)
        axes[axis], leads[axis] = digits, lead
        return self.with_axes(axes, leads)

    def without(self, axes: set[int]) -> Layout:
        """Some axes summed over and removed."""
        kept = [a for a in range(len(self.axes)) if a not in axes]
        return self.with_axes([self.axes[a] for a in kept], [self.lead[a] for a in kept])

    def permuted(self, order: Sequence[int]) -> Layout:
        """Axes in another order."""
        return self.with_axes([self.axes[a] for a in order], [self.lead[a] for a in order])

    def plain(self) -> Layout:
        """The same after a layer that says nothing of a group: channels that stay where they are.

        Only on axes 0 to 1 or alone do they count: their number may be another.
        """
        return replace(self, field=None, sure=True)

    def scaled(self, label: str, ratio: Fraction) -> Layout:
        """The same with another stride of one label."""
        strides = tuple((name, s * ratio if name == label else s) for name, s in self.strides)
        return replace(self, strides=strides)

    def resized(self, shape: Sequence[int]) -> Layout:
        """The layout of the same feature at another input size: leading digits change.

        Raises:
            LostError: The new sizes cannot be cut as the old ones.
        """
        if self.shape == tuple(shape):
            return self
        axes = list[Axis]()
        for digits, lead, size in zip(self.axes, self.lead, shape, strict=True):
            minor = _size(digits[1:])
            if (size - lead) % max(minor, 1):
                raise LostError(f"{size} positions in windows of {minor}")
            axes.append((replace(digits[0], size=(size - lead) // minor), *digits[1:]))
        return self.with_axes(axes, self.lead)

    def reshaped(self, shape: Sequence[int]) -> Layout:
        """The same numbers in the same order on other axes.

        Raises:
            LostError: A factor would be cut where it has no such divisor.
        """
        old = list(_digits(self))
        axes, leads = list[Axis](), list[int]()
        ones = _ones(self)
        below = math.prod(shape)
        for size in shape:
            below //= max(size, 1)
            if size == 1:
                kept = ones.get(below)
                axes.append(kept.pop(0) if kept else (Digit("-", 1),))
                leads.append(0)
                continue
            taken, lead = _take(old, size)
            axes.append(taken)
            leads.append(lead)
        if old:
            raise LostError(f"{self.shape} as {tuple(shape)}")
        return self.with_axes(axes, leads)

    def transformed(self, x: Tensor, act: Act, dimension: int) -> Tensor:
        """Apply a map of space and channels to a tensor of this layout.

        Args:
            x: The tensor.
            act: Called with a tensor, which of its axes are those of space, which is that of
                channels, and "s" or "t", for which copy of space it is to act on; it keeps all
                other axes.
            dimension: Axes of space.

        Raises:
            LostError: Digits are missing, or new sizes cannot be cut as the old ones.
        """
        for axis, count in enumerate(self.lead):
            if count:
                size = x.shape[axis]
                first = self.with_axis(axis, (Digit("-", count),))
                rest = self.with_axis(axis, self.axes[axis])
                parts = x.narrow(axis, 0, count), x.narrow(axis, count, size - count)
                done = (
                    layout.transformed(part, act, dimension)
                    for layout, part in zip((first, rest), parts, strict=True)
                )
                return torch.cat(list(done), axis)
        for copy in "st":
            if copy == "s" or self.has(copy):
                axes = self.arranged(copy, dimension)
                if axes is not None:
                    x = act(x, axes[1:], axes[0], copy)
                else:
                    x = self._moved(x, act, dimension, copy)
        return x

    def arranged(self, copy: str, dimension: int) -> tuple[int, ...] | None:
        """The axes of channels and space, where each has one to itself."""
        found = [self.axis_of(label) for label in _labels(copy, dimension)]
        single = [sum(d.label == name for a in self.axes for d in a) == 1
                  for name in _labels(copy, dimension)]  # fmt: skip
        if None in found or not all(single):
            return None
        return tuple(axis for axis in found if axis is not None)

    def canonical(self, x: Tensor, dimension: int, copy: str = "s") -> Tensor:
        """The tensor as (rest, C, *S); axes that it lacks have size one.

        Raises:
            LostError: Digits are missing.
        """
        digits = [d for axis in self.axes for d in axis]
        mine, order = _grouped(digits, _labels(copy, dimension))
        sizes = [math.prod(digits[i].size for i in m) for m in mine]
        return x.reshape([d.size for d in digits]).permute(order).reshape(-1, *sizes)

    def _moved(self, x: Tensor, act: Act, dimension: int, copy: str) -> Tensor:
        digits = [d for axis in self.axes for d in axis]
        mine, order = _grouped(digits, _labels(copy, dimension))
        y = self.canonical(x, dimension, copy)
        y = act(y, tuple(range(2, y.ndim)), 1, copy)
        new = {i: digits[i].size for i in order}
        for m, size in zip(mine, y.shape[1:], strict=True):
            minor = math.prod(digits[i].size for i in m[1:])
            if m and size % minor:
                raise LostError(f"{size} positions in windows of {minor}")
            new |= {m[0]: size // minor} if m else {}
        y = y.reshape([new[i] for i in order]).permute(_inverse(order))
        numbers = iter(range(len(digits)))
        return y.reshape([math.prod(new[next(numbers)] for _ in axis) for axis in self.axes])


def _labels(copy: str, dimension: int) -> list[str]:
    return [CHANNELS, *(f"{copy}{i}" for i in range(dimension))]


def _grouped(digits: Sequence[Digit], labels: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Where the digits of each label are, and an order with all others before them."""
    mine = [_places(digits, label) for label in labels]
    rest = [i for i in range(len(digits)) if not any(i in m for m in mine)]
    return mine, [*rest, *(i for m in mine for i in m)]


def _size(axis: Axis) -> int:
    return math.prod(d.size for d in axis)


def _digits(layout: Layout) -> Iterator[tuple[Axis, int, int]]:
    """The digits in order as (digits, lead, size): an axis with a lead is one piece."""
    for axis, lead in zip(layout.axes, layout.lead, strict=True):
        if lead:
            yield axis, lead, lead + _size(axis)
        else:
            yield from (((d,), 0, d.size) for d in axis if d.size != 1)


def _ones(layout: Layout) -> dict[int, list[Axis]]:
    """Axes of size one, by how many numbers lie behind them: a reshape may keep them."""
    found: dict[int, list[Axis]] = {}
    below = math.prod(layout.shape)
    for axis, size in zip(layout.axes, layout.shape, strict=True):
        below //= max(size, 1)
        if size == 1:
            found.setdefault(below, []).append(axis)
    return found


def _take(old: list[tuple[Axis, int, int]], size: int) -> tuple[Axis, int]:
    """Digits from the front whose product is a size; the last one may be cut in two."""
    taken: list[Digit] = []
    while size > 1:
        if not old:
            raise LostError("too few numbers")
        axis, lead, length = old.pop(0)
        if lead:
            if length != size or taken:
                raise LostError("an axis with class tokens is reshaped")
            return axis, lead
        (digit,) = axis
        if size % length == 0:
            taken.append(digit)
            size //= length
        elif length % size == 0:
            minor = length // size
            taken.append(replace(digit, size=size, weight=digit.weight * minor))
            old.insert(0, ((replace(digit, size=minor),), 0, minor))
            size = 1
        else:
            raise LostError(f"{length} cut by {size}")
    return tuple(taken), 0


def _places(digits: Sequence[Digit], label: str) -> list[int]:
    """Where a label's digits are, the most significant first; all of them must be there."""
    found = [i for i, d in enumerate(digits) if d.label == label]
    found.sort(key=lambda i: -digits[i].weight)
    if label != CHANNELS:
        weight = 1
        for i in reversed(found):
            if digits[i].size > 1 and digits[i].weight != weight:
                raise LostError(f"part of {label} is missing")
            weight *= digits[i].size
    return found


def _inverse(order: Sequence[int]) -> list[int]:
    inverse = [0] * len(order)
    for place, i in enumerate(order):
        inverse[i] = place
    return inverse
