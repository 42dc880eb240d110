"""Which units of a layer see nothing of the border, before a transform and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import Move
from symconv.auditing.receptive import Receptive


@dataclass(frozen=True)
class Interior:
    """The interior units of every layer, from its receptive field.

    Attributes:
        receptive: The fields; None if they were not measured.
        size: Space of the input.
    """

    receptive: Receptive | None
    size: tuple[int, ...]

    def mask(self, name: str, layout: Layout, move: Move, dimension: int) -> Tensor | None:
        """The interior units after a transform; None where the fields are not known, or whole."""
        if self.receptive is None or not layout.has("s") or layout.has("t") or any(layout.lead):
            return None
        space = layout.space(dimension)
        found = self.receptive.interior(name, self.size, space)
        if found is None:
            return None
        before = torch.zeros(space, dtype=torch.bool)
        before[found] = True
        after = move.mask(before, layout.stride(dimension))
        if after.shape == before.shape:
            return before & after
        return after if move.shift is None else None

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
        axes = self.receptive.axes[name]
        rows = zip(axes, least, move.shift, strict=True)
        return tuple(_enough(axis, n, t) for axis, n, t in rows)


def _enough(axis, least: int, shift) -> int:
    """The smallest length with an interior unit whose shifted one is interior, too."""
    by = abs(shift) / axis.reach.stride
    size = least
    while True:
        found = axis.interior(size, size * math.ceil(1 / axis.reach.stride) + 1)
        if found.stop - found.start > math.ceil(by):
            return size
        size += 1
