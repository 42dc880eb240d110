"""What a tensor in the middle of a network sees of the input.

A tensor axis is a product of *digits*: flattening (H, W) makes one axis of two digits, cutting H
into windows of 7 makes two of one. Per space axis of the input, what a tensor sees is

    a union of parts, each a periodic map (`Reach`) of an index written in some of the digits,

or everything, or unknown with the reason. So permutes, reshapes and windows keep their meaning,
and nothing is ever taken for the identity because its axes were lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from symconv.auditing.receptive.reach import SAME, NotPeriodicError, Reach, blocks, repeated


@dataclass(frozen=True, eq=False)
class Digit:
    """A factor of an axis; equal only to itself."""

    size: int


@dataclass(frozen=True)
class Everything:
    """The axis is seen whole."""


@dataclass(frozen=True)
class Unknown:
    """It could not be said what is seen, and why."""

    why: str


@dataclass(frozen=True)
class Tangled:
    """Each position along some digits sees a part, not followed which; together they see all.

    Tokens behind a class token are such: their axis is no longer a map, but attention over it is
    global.
    """

    digits: frozenset[Digit]
    why: str


Digits = tuple[Digit, ...]  # most significant first; those of size one only on axes of size one
Parts = Mapping[Digits, Reach]
View = Parts | Everything | Unknown | Tangled
EVERYTHING = Everything()


@dataclass(frozen=True)
class Seen:
    """The axes of a tensor in digits, and what it sees per space axis of the input."""

    axes: tuple[Digits, ...]
    views: tuple[View, ...]

    @classmethod
    def input(cls, shape: Sequence[int], space: Sequence[int]) -> Seen:
        """The input itself: each position sees itself."""
        axes = fresh(shape)
        return cls(axes, tuple({axes[a]: SAME} for a in space))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(map(_size, self.axes))

    @property
    def carriers(self) -> set[Digit]:
        """The digits on which it depends what is seen."""
        return {d for v in self.views for d in digits_of(v)}

    def depends_on(self, axis: int) -> bool:
        """Do positions along an axis see different things?"""
        return not self.carriers.isdisjoint(self.axes[axis])

    def arranged(self, axes: Iterable[Digits]) -> Seen:
        """The same on other axes."""
        return Seen(tuple(axes), self.views)

    def axis_replaced(self, axis: int, digits: Digits) -> tuple[Digits, ...]:
        """The axes with another one in the place of one."""
        return (*self.axes[:axis], digits, *self.axes[axis + 1 :])

    def rewritten(self, new: Mapping[Digit, Digits]) -> Seen:
        """The same with digits written as others (of the same product)."""

        def write(digits: Digits) -> Digits:
            return tuple(n for d in digits for n in new.get(d, (d,)))

        def view(v: View) -> View:
            if isinstance(v, Tangled):
                return Tangled(frozenset(write(tuple(v.digits))), v.why)
            return {write(c): r for c, r in v.items()} if isinstance(v, Mapping) else v

        return Seen(tuple(map(write, self.axes)), tuple(map(view, self.views)))

    def summed(self, *axes: int) -> Seen:
        """Every position now sees what any position along these axes saw."""
        gone = {d for a in axes for d in self.axes[a] if d.size > 1}
        return Seen(self.axes, tuple(_summed(v, gone) for v in self.views)) if gone else self

    def whole(self, *axes: int) -> Seen:
        """The same, and axes of size one count too: a mean over the map is global at any size."""
        gone = {d for a in axes for d in self.axes[a]}
        views = (
            EVERYTHING if isinstance(v, Mapping) and any(gone >= {*c} != set() for c in v) else v
            for v in self.views
        )
        return Seen(self.axes, tuple(views)).summed(*axes)

    def moved(self, axis: int, outer: Reach | str, size: int) -> Seen:
        """A window operation along an axis: its position j reads the old positions outer(j).

        A string instead says why it is not known which ones are read.
        """
        old, new = self.axes[axis], (Digit(size),)
        free = self.axis_replaced(axis, new)
        if not self.depends_on(axis):
            return self.arranged(free)

        def view(v: View) -> View:
            if {*old}.isdisjoint(digits_of(v)):
                return v
            if isinstance(v, Tangled):
                return Unknown(v.why)
            assert isinstance(v, Mapping)
            if isinstance(outer, str):
                return Unknown(outer)
            parts: dict[Digits, Reach] = {}
            try:
                for carriers, reach in v.items():
                    if {*old}.isdisjoint(carriers):
                        _add(parts, carriers, reach)
                    elif old[: len(carriers)] == carriers:
                        _add(parts, new, _written(reach, carriers, old).after(outer))
                    elif carriers[: len(old)] == old:
                        rest = carriers[len(old) :]
                        _add(parts, new + rest, reach.after(outer.finer(_size(rest))))
                    else:
                        return Unknown("a window slides over an axis made of several")
            except NotPeriodicError as error:
                return Unknown(str(error))
            return parts

        return Seen(free, tuple(map(view, self.views)))

    def tangled(self, axis: int, size: int, why: str) -> Seen:
        """An axis that becomes part of a longer one, by other ways than as a map."""
        old, new = {*self.axes[axis]}, Digit(size)

        def view(v: View) -> View:
            if old.isdisjoint(digits_of(v)):
                return v
            whole = _summed(v, old) == EVERYTHING
            return Tangled(frozenset([new]), why) if whole else Unknown(why)

        return Seen(self.axis_replaced(axis, (new,)), tuple(map(view, self.views)))

    def picked(self, axis: int) -> Seen:
        """One position of an axis."""
        axes = (*self.axes[:axis], *self.axes[axis + 1 :])
        if self.shape[axis] == 1:
            return self.rewritten(dict.fromkeys(self.axes[axis], ())).arranged(axes)
        return self.moved(axis, "one fixed position is picked", 1).arranged(axes)

    def reshaped(self, shape: Sequence[int]) -> Seen:
        """The same numbers in the same order on other axes."""
        old, new = self._flat(), [n for n in shape if n != 1]
        pieces = _pieces({*_cuts([d.size for d in old]), *_cuts(new)})
        if pieces is None:
            return self.unknown(shape, f"a reshape of {self.shape} to {tuple(shape)}")
        ones = self._ones()
        kept = [
            ones[low].pop(0) if n == 1 and ones.get(low) else (Digit(n),)
            for n, low in zip(shape, _below(shape), strict=True)
        ]
        lost = {d: () for left in ones.values() for digits in left for d in digits}
        digits = dict(zip(old, _grouped(pieces, [d.size for d in old]), strict=True))
        groups = iter(_grouped(pieces, new))
        axes = (k if n == 1 else next(groups) for n, k in zip(shape, kept, strict=True))
        return self.rewritten(lost | digits).arranged(axes)

    def _ones(self) -> dict[int, list[Digits]]:
        """Axes of size one, by the numbers that lie behind them: a reshape may keep them."""
        ones: dict[int, list[Digits]] = {}
        for axis, below in zip(self.axes, _below(self.shape), strict=True):
            if _size(axis) == 1:
                ones.setdefault(below, []).append(axis)
        return ones

    def _flat(self) -> list[Digit]:
        """All digits in order; neighbours that nothing depends on joined into one."""
        carriers, flat, free = self.carriers, [], 1
        for digit in (d for a in self.axes for d in a if d.size != 1):
            if digit not in carriers:
                free *= digit.size
                continue
            flat += [Digit(free)] * (free > 1) + [digit]
            free = 1
        return flat + [Digit(free)] * (free > 1)

    def lost(self, why: str) -> Seen:
        """The same on axes that are no longer known to mean what they meant."""
        views = (Unknown(why) if v and v != EVERYTHING else v for v in self.views)
        return Seen(self.axes, tuple(views))

    def unknown(self, shape: Sequence[int], why: str) -> Seen:
        """What comes of it by an operation whose behaviour is unknown."""
        views = (v if isinstance(v, Everything) else Unknown(why) for v in self.views)
        return Seen(fresh(shape), tuple(views))


def fresh(shape: Iterable[int]) -> tuple[Digits, ...]:
    """Axes of one new digit each."""
    return tuple((Digit(n),) for n in shape)


def together(seens: Sequence[Seen], shape: Sequence[int]) -> Seen:
    """The union of tensors that are broadcast to a shape, position by position."""
    axes = list(fresh(shape))
    padded = [s.arranged((*fresh([1] * (len(shape) - len(s.axes))), *s.axes)) for s in seens]
    new: list[dict[Digit, Digits]] = [{} for _ in seens]
    for k, n in enumerate(shape):
        bound = [i for i, s in enumerate(padded) if s.shape[k] == n and s.depends_on(k)]
        if not bound:
            continue
        ways = [padded[i].axes[k] for i in bound]
        axes[k] = ways[0]
        if all(way == ways[0] for way in ways):
            continue
        pieces = _pieces({p for way in ways for p in _cuts([d.size for d in way])})
        if pieces is None:
            views = zip(*(s.views for s in padded), strict=True)
            return Seen(tuple(axes), tuple(map(joined, views))).unknown(
                shape, "axes cut in different ways meet"
            )
        axes[k] = tuple(pieces) if n > 1 else (Digit(1),)
        for i, way in zip(bound, ways, strict=True):
            groups = _grouped(pieces, [d.size for d in way]) if n > 1 else [axes[k]]
            new[i].update(zip(way, groups, strict=True))
    written = [s.rewritten(m) for s, m in zip(padded, new, strict=True)]
    views = zip(*(s.views for s in written), strict=True)
    return Seen(tuple(axes), tuple(joined(v) for v in views))


def joined(views: Sequence[View]) -> View:
    """The union of what several tensors see of one axis."""
    if any(isinstance(v, Everything) for v in views):
        return EVERYTHING
    parts: dict[Digits, Reach] = {}
    views = [v for v in views if v]
    if views and all(v == views[0] for v in views[1:]):
        return views[0]
    for view in views:
        if isinstance(view, Tangled):
            return Unknown(view.why)
        if isinstance(view, Unknown):
            return view
        assert isinstance(view, Mapping)
        try:
            for carriers, reach in view.items():
                _add(parts, carriers, reach)
        except NotPeriodicError as error:
            return Unknown(f"{error} meet")
    return parts


def _add(parts: dict[Digits, Reach], carriers: Digits, reach: Reach) -> None:
    """Adds a part; one whose digits lead another's is written in the longer one's digits."""
    for other in list(parts):
        longer = max(carriers, other, key=len)
        if longer[: len(carriers)] == carriers and longer[: len(other)] == other:
            reach = _written(reach, carriers, longer) | _written(parts.pop(other), other, longer)
            carriers = longer
    parts[carriers] = reach


def _written(reach: Reach, carriers: Digits, longer: Digits) -> Reach:
    return reach.after(repeated(_size(longer[len(carriers) :])))


def _summed(view: View, gone: set[Digit]) -> View:
    if isinstance(view, Tangled):
        return EVERYTHING if gone >= view.digits else view
    if not isinstance(view, Mapping):
        return view
    parts: list[Parts] = []
    for carriers, reach in view.items():
        left = carriers
        while left and left[-1] in gone:
            reach, left = reach.after(blocks(left[-1].size)), left[:-1]
        if not gone.isdisjoint(left) or (carriers and not left):
            return EVERYTHING  # the whole axis, or each n-th position of the whole axis
        parts.append({left: reach})
    return joined(parts)


def digits_of(view: View) -> set[Digit]:
    """The digits on which it depends what is seen."""
    if isinstance(view, Tangled):
        return {*view.digits}
    return {d for c in view for d in c} if isinstance(view, Mapping) else set()


def _size(digits: Iterable[Digit]) -> int:
    return math.prod(d.size for d in digits)


def _below(shape: Sequence[int]) -> list[int]:
    """How many numbers lie behind one index of each axis."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _cuts(sizes: Sequence[int]) -> list[int]:
    """Products of the last sizes: where a flat index is cut into digits."""
    cuts = [1]
    for n in reversed(sizes):
        cuts.append(cuts[-1] * n)
    return cuts


def _pieces(points: set[int]) -> list[Digit] | None:
    """New digits between all the cuts, most significant first; None if they do not nest."""
    ordered = sorted(points)
    if any(low == 0 or high % low for low, high in pairwise(ordered)):
        return None
    return [Digit(high // low) for low, high in pairwise(ordered)][::-1]


def _grouped(pieces: Sequence[Digit], sizes: Sequence[int]) -> list[Digits]:
    """The pieces that make up each of the sizes."""
    groups, rest = [], list(pieces)
    for n in sizes:
        group: Digits = ()
        while _size(group) < n:
            group += (rest.pop(0),)
        groups.append(group)
    return groups
