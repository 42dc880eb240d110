"""Items of mixed sizes in a few canvases: what every function on them works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from symconv.ragged.check import refused, too_small
from symconv.ragged.extent import Extent
from symconv.ragged.places import Places
from symconv.ragged.stack import stacked, unstacked
from symconv.ragged.valid import BATCH, Layout, Valid, equal, zeroed
from symconv.ragged.window import Window

ZERO, FINITE, ANY = range(3)  # what the padding holds: zeros, finite numbers, anything


class Packed:
    """Canvases with the geometry of their items.

    Attributes:
        canvases: Tensors of several items each, of one layout.
        valid: How far the items of each canvas reach.
        places: Which item lies in which row of which canvas.
        layout: A label for each axis: `BATCH`, None (no padding), or a column of `valid`'s tables.
        held: What the padding holds: `ZERO`, `FINITE` or `ANY`, in a list that views of the same
            canvases share. Gradients there are zero unless it holds zeros, which pass none to what
            came before.
        first: The items' extents when the batch was made, for messages.
    """

    canvases: tuple[Tensor, ...]
    valid: tuple[Valid, ...]
    places: Places
    layout: Layout
    held: list[int]
    first: tuple[Valid, ...]

    @classmethod
    def made(
        cls,
        canvases: Sequence[Tensor],
        valid: Sequence[Valid],
        places: Places,
        layout: Layout,
        padding: int | list[int],
        first: Sequence[Valid],
    ) -> Self:
        """A batch from its parts."""
        self = cls.__new__(cls)
        self.canvases, self.valid, self.places = tuple(canvases), tuple(valid), places
        self.layout, self.first = layout, tuple(first)
        self.held = padding if isinstance(padding, list) else [padding]
        return self

    @property
    def padding(self) -> int:
        """What the padding holds."""
        return self.held[0]

    def remade(
        self,
        canvases: Sequence[Tensor],
        valid: Sequence[Valid] | None = None,
        layout: Layout | None = None,
        padding: int | list[int] = FINITE,
    ) -> Self:
        """The same items with other canvases; those that are views of these share `held`."""
        valid = self.valid if valid is None else valid
        layout = self.layout if layout is None else layout
        return self.made(canvases, valid, self.places, layout, padding, self.first)

    def closed(
        self, canvases: Sequence[Tensor], layout: Layout, padding: int | list[int] = FINITE
    ) -> Any:
        """`remade`, or one plain tensor in the order of items where no ragged axis is left."""
        if any(isinstance(label, int) for label in layout):
            return self.remade(canvases, None, layout, padding)
        return self.places.join(canvases, layout.index(BATCH))

    @property
    def columns(self) -> int:
        """Columns of the extents' tables."""
        return self.valid[0].axes

    @property
    def batch(self) -> int:
        """The batch's axis."""
        return self.layout.index(BATCH)

    @property
    def ragged(self) -> list[int]:
        """The ragged axes."""
        return [axis for axis, label in enumerate(self.layout) if isinstance(label, int)]

    def counts(self) -> list[int]:
        """Items in each canvas."""
        return [canvas.shape[self.batch] for canvas in self.canvases]

    def dim(self) -> int:
        """Axes, the batch's among them."""
        return len(self.layout)

    def axis(self, axis: int, extra: int = 0) -> int:
        """An axis counted from the front.

        Raises:
            IndexError: It is out of range.
        """
        count = len(self.layout) + extra
        if not -count <= axis < count:
            raise IndexError(
                f"Dimension out of range (expected {-count} to {count - 1}, got {axis})"
            )
        return axis % count

    def axes(self, axes: Any) -> list[int]:
        """Axes counted from the front; None: all of them."""
        if axes is None or (isinstance(axes, (tuple, list)) and not axes):
            return list(range(len(self.layout)))
        return [self.axis(a) for a in (axes if isinstance(axes, (tuple, list)) else [axes])]

    def size_of(self, axis: int) -> Any:
        """The size along an axis: a whole number, or an `Extent` where it is ragged."""
        label = self.layout[axis]
        if label == BATCH:
            return sum(self.counts())
        if label is None:
            return self.canvases[0].shape[axis]
        tables = [valid.table[:, label] for valid in self.valid]
        bounds = [canvas.shape[axis] for canvas in self.canvases]
        return Extent(tables, self.places, bounds, self.valid, (label,))

    def counted(self, valid: Valid, axes: Sequence[int] | None = None) -> Tensor:
        """Valid cells of each item of a canvas along these axes; None: along all ragged ones."""
        labels = [self.layout[a] for a in (self.ragged if axes is None else axes)]
        return valid.table[:, labels].prod(1)

    def numbered(self) -> Self:
        """The same with the tables' columns in the order of the ragged axes."""
        labels = [label for label in self.layout if isinstance(label, int)]
        if labels == list(range(self.columns)):
            return self
        valid = [
            v.kept(labels_key, lambda v=v: Valid(v.table[:, labels], v.full))
            for v in self.valid
            for labels_key in [("columns", *labels)]
        ]
        number = iter(range(len(labels)))
        layout = tuple(next(number) if isinstance(s, int) else s for s in self.layout)
        return self.remade(self.canvases, valid, layout, self.held)

    # Padding

    def zeroed(self) -> Self:
        """The same with zeros in the padding."""
        if self.padding == ZERO:
            return self
        pairs = zip(self.canvases, self.valid, strict=True)
        return self.remade([zeroed(c, v, self.layout) for c, v in pairs], padding=ZERO)

    def tame(self) -> Self:
        """The same with finite numbers in the padding."""
        return self.zeroed() if self.padding == ANY else self

    # Sizes

    def after(
        self, key: Any, law: Callable[[Any, int], Any], operation: Callable[[], str]
    ) -> list[Valid]:
        """The items' extents after an operation.

        Args:
            key: The operation with its arguments, hashable: extents are found once.
            law: The size after it from a size (a number or a tensor of them) and a column.
            operation: What it is called in a message, made when one is needed.

        Raises:
            StructureError: An item is left without a cell.
        """
        return [
            valid.kept(key, lambda v=valid, k=k: self._after(k, v, law, operation))
            for k, valid in enumerate(self.valid)
        ]

    def swept(self, window: Window) -> Sequence[Valid]:
        """The items' extents after a window has been moved over them."""
        if window.keeps:
            return self.valid
        return self.after(window.key, window.law, window.described)

    def windowed(
        self, function: Callable[[Tensor], Tensor], name: str, kernel: Any, stride: Any
    ) -> Self:
        """A function of one canvas that moves a window over it, from its first cell on."""
        none, once = (0,) * len(kernel), (1,) * len(kernel)
        valid = self.swept(Window(name, kernel, stride, none, once))
        return self.remade([function(c) for c in self.zeroed().canvases], valid)

    def uniform(self, function: Callable[[Tensor], Tensor], name: str) -> Self:
        """A function that takes one size, where all items have it.

        Raises:
            StructureError: They differ.
        """
        whole = torch.stack(self.items()) if self._one_size() else None
        if whole is None or self.batch != 0:
            raise refused(
                f"items of one size for {name}", self.described(), "resize the items beforehand"
            )
        made = function(whole)
        valid = [Valid([[made.shape[a] for a in self.ragged]] * len(made), True)]
        return self.made([made], valid, Places(), self.layout, ZERO, valid)

    def _one_size(self) -> bool:
        return len({tuple(row) for v in self.valid for row in v.lists()}) == 1

    def _after(self, canvas: int, valid: Valid, law: Any, operation: Any) -> Valid:
        if torch.compiler.is_compiling():
            columns = valid.table.unbind(1)
            return valid.columns([law(column, axis) for axis, column in enumerate(columns)])
        rows = valid.lists()
        found = [
            {size: law(size, axis) for size in set(column)}
            for axis, column in enumerate(zip(*rows, strict=True))
        ]
        new = [[law_of[s] for law_of, s in zip(found, row, strict=True)] for row in rows]
        if min(map(min, new)) <= 0:
            row = next(k for k, sizes in enumerate(new) if min(sizes) <= 0)
            item, start = self.item_at(canvas, row), self.first[canvas].lists()[row]
            raise too_small(operation(), item, rows[row], start, law)
        if new == rows:
            return valid
        # one object for one set of extents, whichever operations led to it: masks are made once
        return valid.kept(tuple(map(tuple, new)), lambda: Valid(new, valid.full))

    def item_at(self, canvas: int, row: int) -> int:
        """The number of the item in a row of a canvas."""
        row += sum(self.counts()[:canvas])
        return row if self.places.rows is None else int(self.places.rows[row])

    # Other tensors

    def shares(self, whole: Tensor, axis: int) -> list[Tensor]:
        """The part of a tensor over all items for each canvas."""
        return self.places.split(whole, self.counts(), axis)

    def beside(self, other: Packed) -> tuple[Self, Self]:
        """Two batches of the same items and extents, their canvases of one size.

        Raises:
            StructureError: The items differ in number, axes or extents.
        """
        x, y = self, other
        if x.layout == y.layout and _same_geometry(x, y):
            return x, y  # pyright: ignore[reportReturnType]
        if x.counts() != y.counts() or not x.places.same(y.places):
            y = y.repacked(x)
        joint = _joint(x, y)
        if joint is None:
            raise refused(
                f"items of the same sizes: {x.described()}",
                y.described(),
                "resize one batch to the other's shape, or choose strides that divide the sizes",
            )
        mine, yours = x.cropped(y), y.cropped(x)
        return mine.remade(mine.canvases, None, joint, x.held), yours  # pyright: ignore

    def cropped(self, other: Packed) -> Self:
        """With canvases no larger than the other's."""
        made, full = list(self.canvases), list(self.valid)
        for k, (mine, yours) in enumerate(zip(self.canvases, other.canvases, strict=True)):
            for axis in self.ragged:
                if other.layout[axis] is not None and yours.shape[axis] < mine.shape[axis]:
                    made[k] = made[k].narrow(axis, 0, yours.shape[axis])
            if not full[k].full and other.valid[k].full:
                full[k] = other.valid[k]
        return self.remade(made, full, padding=self.held)

    def items(self) -> list[Tensor]:
        """The items in order, each a view of its canvas."""
        rows = [
            item
            for canvas, valid in zip(self.canvases, self.valid, strict=True)
            for item in unstacked(canvas, valid, self.layout, self.batch)
        ]
        return self.places.ordered(rows)

    def repacked(self, like: Packed) -> Self:
        """The same items in the canvases of another batch.

        Raises:
            StructureError: The batches have not equally many items.
        """
        items, batch = self.items(), self.batch
        if len(items) != sum(like.counts()):
            raise refused(
                f"a batch of {sum(like.counts())} items",
                str(len(items)),
                "join batches of equal length",
            )
        numbers = list(range(len(items)))
        if like.places.rows is not None:
            numbers = like.places.rows.tolist()
        rows = [items[number] for number in numbers]
        labels = [label for axis, label in enumerate(self.layout) if axis != batch]
        canvases, valid = [], []
        for count in like.counts():
            mine, rows = rows[:count], rows[count:]
            size = [max(axis) for axis in zip(*(item.shape for item in mine), strict=True)]
            canvases.append(stacked(mine, size, batch))
            valid.append(valid_of(mine, size, labels))
        return self.made(canvases, valid, like.places, self.layout, ZERO, like.first)

    def described(self) -> str:
        """Its shape in words."""
        shape = [self.size_of(axis) for axis in range(len(self.layout))]
        return f"({', '.join(map(str, shape))})"


def valid_of(items: Sequence[Tensor], size: Sequence[int], labels: Sequence[Any]) -> Valid:
    """The extents of items in a canvas of this size.

    Args:
        items: The items, row by row.
        size: The canvas's size along each of the items' axes.
        labels: The label of each of these axes.
    """
    order = sorted((label, axis) for axis, label in enumerate(labels) if label is not None)
    table = [[item.shape[axis] for _, axis in order] for item in items]
    full = all(row == [size[axis] for _, axis in order] for row in table)
    return Valid(table, full)


def _same_geometry(x: Packed, y: Packed) -> bool:
    """The same extents by identity, in canvases of one size?"""
    if len(x.valid) != len(y.valid) or not all(
        a is b for a, b in zip(x.valid, y.valid, strict=True)
    ):
        return False
    pairs = zip(x.canvases, y.canvases, strict=True)
    return all(a.shape[axis] == b.shape[axis] for a, b in pairs for axis in x.ragged)


def _joint(x: Packed, y: Packed) -> Layout | None:
    """The layout of two batches broadcast to each other; None: they do not fit."""
    if len(x.layout) != len(y.layout):
        return None
    layout: list[Any] = []
    for axis, (a, b) in enumerate(zip(x.layout, y.layout, strict=True)):
        if a == b or (b is None and y.canvases[0].shape[axis] == 1):
            layout.append(a)
        elif a is None and x.canvases[0].shape[axis] == 1:
            layout.append(b)
        elif not isinstance(a, int) or not isinstance(b, int):
            return None
        else:
            layout.append(a)
    if torch.compiler.is_compiling():
        return tuple(layout)
    same = all(equal(v, w) for v, w in zip(x.valid, y.valid, strict=True))
    for a, b in zip(x.layout, y.layout, strict=True):
        if isinstance(a, int) and isinstance(b, int) and (a != b or not same):
            tables = zip(x.valid, y.valid, strict=True)
            if not all(torch.equal(v.table[:, a], w.table[:, b]) for v, w in tables):
                return None
        elif a != b and not same:
            return None
    return tuple(layout)
