"""Where the items of a canvas lie: how far each reaches, and what covers its padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

BATCH = "batch"  # the label of the batch's axis in a layout; None: an axis without padding
Layout = tuple[Any, ...]  # a label for each axis of a canvas; a number: the column of `Valid.table`

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Valid:
    """How far each item of one canvas reaches along each ragged axis.

    Args:
        table: Whole numbers (items, ragged axes), as a tensor on the host or as lists. Item i fills
            the cells with index below ``table[i][a]`` along ragged axis a; the rest of the canvas
            is padding.
        full: Every item fills the canvas: there is no padding.
    """

    __slots__ = ("_kept", "_lists", "_table", "full")

    def __init__(self, table: Tensor | list[list[int]], full: bool):
        given = isinstance(table, Tensor)
        self._table, self._lists = (table, None) if given else (None, table)
        self.full = full
        self._kept: dict[Any, Any] = {}

    def __reduce__(self):
        return Valid, (self.lists(), self.full)

    @property
    def table(self) -> Tensor:
        """The extents as a tensor, for arithmetic beside canvases."""
        if self._table is None:
            self._table = torch.tensor(self._lists, dtype=torch.int64)
        return self._table

    @property
    def axes(self) -> int:
        """How many ragged axes the table has."""
        return len(self._lists[0]) if self._table is None else self._table.shape[1]  # pyright: ignore

    def lists(self) -> list[list[int]]:
        """The extents as Python's numbers, for arithmetic without a graph."""
        if self._lists is None:
            self._lists = self.table.tolist()
        return self._lists

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once; in a compiled graph always."""
        if torch.compiler.is_compiling():
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def columns(self, columns: Sequence[Tensor], full: bool | None = None) -> Valid:
        """The same items with these extents."""
        return Valid(torch.stack(list(columns), 1), self.full if full is None else full)

    def mask(self, canvas: Tensor, layout: Layout, make: str = "bool") -> Tensor:
        """Which cells of a canvas are valid, of as many axes as it, broadcastable to it.

        Args:
            canvas: The canvas.
            layout: The labels of its axes.
            make: "bool"; "bits": all bits set where valid, none in the padding, in the integer type
                as wide as the canvas's; "low": zero where valid, minus infinity in the padding.
        """
        key = make, canvas.shape, layout, canvas.device, canvas.dtype
        return self.kept(key, lambda: self._made(canvas, layout, make))

    def _made(self, canvas: Tensor, layout: Layout, make: str) -> Tensor:
        if make != "bool":
            return self._as(make, self.mask(canvas, layout), canvas.dtype)
        pairs = zip(canvas.shape, layout, strict=True)
        shape = [size if label is not None else 1 for size, label in pairs]
        return self._mask(shape, layout, canvas.device)

    def _mask(self, shape: Sequence[int], layout: Layout, device: torch.device) -> Tensor:
        mask: Any = None
        table = self.table.to(device)
        batch = layout.index(BATCH)
        for axis, label in enumerate(layout):
            if isinstance(label, int):
                view = [1] * len(shape)
                view[batch] = shape[batch]
                along = [1] * len(shape)
                along[axis] = shape[axis]
                inside = torch.arange(shape[axis], device=device).view(along) < table[
                    :, label
                ].view(view)
                mask = inside if mask is None else mask & inside
        return mask

    @staticmethod
    def _as(make: str, mask: Tensor, dtype: torch.dtype) -> Tensor:
        if make == "bits":
            return -mask.to(_BITS[dtype.itemsize])
        return torch.where(mask, 0, low_of(dtype)).to(dtype)


def equal(a: Valid, b: Valid) -> bool:
    """Do the items reach equally far?"""
    return a is b or a.lists() == b.lists()


class _Covered(torch.autograd.Function):
    """Zero or minus infinity in the padding, whatever stood there; its gradients are zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, low: Tensor | None) -> Tensor:
        ctx.save_for_backward(bits)
        return _covered(x, bits, low)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        (bits,) = ctx.saved_tensors
        return _Covered.apply(grad[0], bits, None), None, None


def _covered(x: Tensor, bits: Tensor, low: Tensor | None) -> Tensor:
    # A bitwise AND rids the padding of infinities and NaN, which a product would not, and runs at
    # the memory's speed, which a fill under a mask does not.
    y = (x.view(bits.dtype) & bits).view(x.dtype)
    return y if low is None else y.add_(low)


def zeroed(canvas: Tensor, valid: Valid, layout: Layout) -> Tensor:
    """The canvas with zeros in its padding; gradients in the padding are zero too."""
    return canvas if valid.full else _cover(canvas, valid, layout, lowest=False)


def lowered(canvas: Tensor, valid: Valid, layout: Layout) -> Tensor:
    """The canvas with minus infinity in its padding, or the least whole number."""
    return canvas if valid.full else _cover(canvas, valid, layout, lowest=True)


def _cover(canvas: Tensor, valid: Valid, layout: Layout, lowest: bool) -> Tensor:
    if torch.compiler.is_compiling() or canvas.dtype.itemsize not in _BITS:
        return filled(canvas, valid, layout, low_of(canvas.dtype) if lowest else 0)
    bits = valid.mask(canvas, layout, "bits")
    low = valid.mask(canvas, layout, "low") if lowest else None
    if torch.is_grad_enabled() and canvas.requires_grad:
        return _Covered.apply(canvas, bits, low)  # pyright: ignore[reportReturnType]
    return _covered(canvas, bits, low)


def filled(canvas: Tensor, valid: Valid, layout: Layout, value: float) -> Tensor:
    """The canvas with `value` in its padding; gradients in the padding are zero."""
    if valid.full:
        return canvas
    fill = torch.full((), value, dtype=canvas.dtype, device=canvas.device)
    return torch.where(valid.mask(canvas, layout), canvas, fill)


def low_of(dtype: torch.dtype) -> float:
    """What no value is below."""
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def product(values: Iterable[Any]) -> Any:
    """Of numbers or tensors; in a loop, which torch.compile can follow."""
    total: Any = 1
    for value in values:
        total = total * value
    return total
