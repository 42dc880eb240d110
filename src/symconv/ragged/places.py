"""Which row of which canvas each item has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Places:
    """The order of items in canvases that are laid one after another.

    Args:
        rows: The item at each row of the canvases together (a permutation, int64), or None where
            items keep their order.
        order: The row of each item: the inverse permutation, or None.
    """

    __slots__ = ("order", "rows")

    def __init__(self, rows: Tensor | None = None, order: Tensor | None = None):
        self.rows, self.order = rows, order

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device, always: bool = False) -> Places:
        """From the items' numbers, row by row; `always` as a permutation, the identity too."""
        if not always and list(rows) == list(range(len(rows))):
            return cls()
        at = torch.tensor(rows)
        return cls(at.to(device), at.argsort().to(device))

    def __reduce__(self):
        return Places, (self.rows, self.order)

    def to(self, device: torch.device) -> Places:
        """The same on another device."""
        if self.rows is None or self.order is None or self.rows.device == device:
            return self
        return Places(self.rows.to(device), self.order.to(device))

    def ordered(self, by_row: list[Any]) -> list[Any]:
        """What is listed by rows, in the order of items."""
        return by_row if self.order is None else [by_row[row] for row in self.order.tolist()]

    def join(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """One tensor, in the order of items, of a part for each canvas."""
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
        return whole if self.order is None else whole.index_select(axis, self.order)

    def split(self, whole: Tensor, counts: list[int], axis: int) -> list[Tensor]:
        """The part of a tensor for each canvas: the inverse of `join`."""
        if self.rows is not None:
            whole = whole.index_select(axis, self.rows)
        return [whole] if len(counts) == 1 else list(whole.split(counts, axis))

    def same(self, other: Places) -> bool:
        """Are the items in the same rows?"""
        if self is other or self.rows is other.rows:
            return True
        if self.rows is None or other.rows is None:
            return False
        return torch.equal(self.rows, other.rows)
