"""Which units of a layer see nothing of the border, before a transform and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import Move
from symconv.auditing.receptive import AxisField, Receptive


@dataclass(frozen=True)
class Interior:
    """The interior units of every layer, from its receptive field.

    Attributes:
        receptive: The fields; None if they were not measured.
        size: Space of the input.
        known: Those already worked out.
    """

    receptive: Receptive | None
    size: tuple[int, ...]
    known: dict[tuple[str, tuple[int, ...]], tuple[slice, ...] | None] = field(
        default_factory=dict, repr=False
    )

    def mask(self, name: str, layout: Layout, move: Move, dimension: int) -> Tensor | None:
        """The interior units after a transform; None where the fields are not known, or whole."""
        if self.receptive is None or not layout.has("s") or layout.has("t") or any(layout.lead):
            return None
        space = layout.space(dimension)
        found = self._inside(name, space)
        if found is None:
            return None
        before = torch.zeros(space, dtype=torch.bool)
        before[found] = True
        after = move.mask(before, layout.stride(dimension))
        if after.shape == before.shape:
            return before & after
        return after if move.shift is None else None

    def _inside(self, name: str, space: tuple[int, ...]) -> tuple[slice, ...] | None:
        if (name, space) not in self.known:
            axes = self.receptive.axes.get(name) if self.receptive is not None else None
            found = None
            if axes is not None and all(axis.reach is not None for axis in axes):
                rows = zip(axes, self.size, space, strict=True)
                found = tuple(_between(axis, n, m) for axis, n, m in rows)
            self.known[name, space] = found
        return self.known[name, space]

    def why_none(self, name: str) -> str | None:
        """Why a layer has no interior."""
        if self.receptive is None:
            return "receptive fields were not measured"
        axes = self.receptive.axes.get(name)
        if axes is None:
            return "its receptive field is not known"
        if any(f.reach is None for f in axes):
            return "its receptive field is the whole input"
        return None

    def smallest(self, name: str, move: Move) -> tuple[int, ...] | None:
        """The smallest input at which some unit avoids the border before and after a transform."""
        if self.receptive is None or any(
            f.reach is None for f in self.receptive.axes.get(name, ())
        ):
            return None
        least = self.receptive.smallest_interior(name)
        if least is None or move.shift is None:
            return least
        rows = zip(self.receptive.axes[name], move.shift, strict=True)
        return tuple(_enough(axis, steps) for axis, steps in rows)


def _avoids(axis: AxisField, j: int, inputs: int) -> bool:
    """Whether an output sees the inputs alone, no position beyond them."""
    assert axis.reach is not None
    hull = axis.reach.hull(j)
    return hull is None or (hull[0] >= 0 and hull[1] < inputs)


def _between(axis: AxisField, inputs: int, outputs: int) -> slice:
    """The outputs that see no position outside, found from both ends."""
    inside = (j for j in range(outputs) if _avoids(axis, j, inputs))
    first = next(inside, outputs)
    back = (j for j in range(outputs - 1, first, -1) if _avoids(axis, j, inputs))
    return slice(first, max(next(back, first) + 1, first) if first < outputs else first)


def _enough(axis: AxisField, shift: Fraction) -> int:
    """The smallest length with an interior unit whose shifted one is interior, too."""
    assert axis.reach is not None
    first = 0
    while (hull := axis.reach.hull(first)) is not None and hull[0] < 0:
        first += 1
    last = axis.reach.hull(first + math.ceil(abs(shift) / axis.reach.stride))
    return last[1] + 1 if last is not None else 1
