"""A size that differs from item to item: what `x.shape` of a ragged batch holds for its space."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from symconv.errors import StructureError
from symconv.ragged.places import Places
from symconv.ragged.valid import Valid


class Extent:
    """One whole number per item; arithmetic goes item by item.

    Where all items agree it serves as that number (``int(h)``, ``range(h)``, a tensor's size);
    where they do not, that is an error, and so is a comparison that holds for some items only.

    Args:
        tables: The numbers, one tensor (items,) for each canvas.
        places: Where the items lie.
        bounds: A number for each canvas that none of its items exceeds, if known.
        valid: The canvases' extents that the numbers were taken from, if they are such.
        columns: Which axes; several: the product over them.
    """

    __slots__ = ("bounds", "columns", "places", "tables", "valid")
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        tables: Sequence[Tensor],
        places: Places,
        bounds: Sequence[int] | None = None,
        valid: tuple[Valid, ...] | None = None,
        columns: tuple[int, ...] = (),
    ):
        self.tables, self.places = tuple(tables), places
        self.bounds, self.valid, self.columns = bounds, valid, columns

    def values(self) -> list[int]:
        """The number of each item, in the order of the batch."""
        return self.places.ordered([v for table in self.tables for v in table.tolist()])

    def __index__(self) -> int:
        values = set(self.values())
        if len(values) > 1:
            raise StructureError(
                "one size for all items",
                f"sizes {self.values()}",
                "this step wants a fixed size: pool the space before it, or give items of one size",
            )
        return values.pop()

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.__index__())

    def __repr__(self) -> str:
        return f"Extent({self.values()})"

    def _with(self, other: Any, combine: Callable[[Any, Any], Any]) -> Any:
        if isinstance(other, Extent):
            pairs = zip(self.tables, other.tables, strict=True)
            made = [combine(a, b) for a, b in pairs]
        elif isinstance(other, (int, float)):
            made = [combine(table, other) for table in self.tables]
        else:
            return NotImplemented
        return Extent(made, self.places)

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Any:
        made = self._with(other, operator.mul)
        if isinstance(other, Extent) and self.valid and self.valid is other.valid:
            made.valid, made.columns = self.valid, self.columns + other.columns
            if self.bounds and other.bounds:
                made.bounds = [a * b for a, b in zip(self.bounds, other.bounds, strict=True)]
        return made

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv)

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, operator.truediv)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, operator.mod)

    def __neg__(self) -> Any:
        return self._with(-1, operator.mul)

    __radd__, __rmul__ = __add__, __mul__

    def _holds(self, other: Any, compare: Callable[[Any, Any], Any], sign: str) -> bool:
        if isinstance(other, Extent):
            pairs = zip(self.values(), other.values(), strict=True)
        else:
            pairs = ((value, other) for value in self.values())
        answers = {bool(compare(a, b)) for a, b in pairs}
        if len(answers) > 1:
            raise StructureError(
                f"one answer to `size {sign} {other}` for all items",
                f"sizes {self.values()}, for which it differs",
                "a branch serves the whole batch: take the same steps for every size",
            )
        return answers.pop()

    def __eq__(self, other: object) -> bool:
        if (
            isinstance(other, Extent)
            and self.valid
            and self.valid is other.valid
            and self.columns == other.columns
        ):
            return True
        if not isinstance(other, (int, float, Extent)):
            return NotImplemented
        return self._holds(other, operator.eq, "==")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return self._holds(other, operator.lt, "<")

    def __le__(self, other: Any) -> bool:
        return self._holds(other, operator.le, "<=")

    def __gt__(self, other: Any) -> bool:
        return self._holds(other, operator.gt, ">")

    def __ge__(self, other: Any) -> bool:
        return self._holds(other, operator.ge, ">=")

    def __bool__(self) -> bool:
        return self._holds(0, operator.ne, "!=")
