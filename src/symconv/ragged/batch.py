"""`sc.Ragged`: inputs of any size in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.ragged import pack
from symconv.ragged.check import missing, refused, unknown
from symconv.ragged.functions import HANDLERS, cells, getitem
from symconv.ragged.packed import ZERO, Packed, valid_of
from symconv.ragged.places import Places
from symconv.ragged.stack import stacked
from symconv.ragged.valid import BATCH, Valid


class Ragged(Packed):
    r"""A batch of items of mixed sizes that a network takes as it takes a tensor.

        model(sc.Ragged([x_1, ..., x_B]))[i] = model(x_i[None])[0]

    Items are sorted by size into a few canvases with padding, which run in step; every function
    keeps the items' extents and what it needs in the padding (zeros under a convolution, minus
    infinity under a maximum, nothing in a mean). What still has space comes out as a `Ragged`, what
    has none (after global or adaptive pooling) as a plain tensor in the order of the items. A
    function without a meaning here raises a StructureError that names it.

    Shapes: items (C, \*S) with one to three axes of space, all of one rank, C, dtype and device.
    ``x.shape`` is (B, C, \*sizes), each size of space an `Extent`: a whole number for each item.

    Exactness: in evaluation, and in training with norms of each sample, every item equals that item
    alone up to rounding; batch norm in training equals batch norm over all valid cells, whatever
    the packing; gradients likewise. Random numbers (dropout) differ from those of an item alone.

    Args:
        items: The tensors. Gradients flow back to those that require them.
        multiple_of: Canvases are as large as a multiple of this many cells along each axis, which
            bounds how many shapes `torch.compile` and cuDNN meet.

    Raises:
        StructureError: No items, or they differ in rank, channels, dtype or device.

    Example:
        >>> import symconv as sc
        >>> pictures = [torch.rand(3, 32, 40), torch.rand(3, 21, 17), torch.rand(3, 64, 50)]
        >>> x = sc.Ragged(pictures)
        >>> conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> y = conv(x)
        >>> y.sizes
        [(16, 20), (11, 9), (32, 25)]
        >>> torch.allclose(y.unbind()[1], conv(pictures[1][None])[0], atol=1e-6)
        True
        >>> torch.nn.AdaptiveAvgPool2d(1)(y).shape
        torch.Size([3, 8, 1, 1])
    """

    def __init__(self, items: Sequence[Tensor], multiple_of: int = 1):
        items = list(items)
        _check(items, multiple_of)
        _pack(self, items, [None, *range(items[0].ndim - 1)], multiple_of)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch's: what it does to canvases is in `functions`."""
        handler = HANDLERS.get(func)
        if handler is None:
            raise unknown(func)
        return handler(*args, **(kwargs or {}))

    # What it is made of

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The space of each item, in order."""
        labels = [self.layout[a] for a in self.ragged]
        rows = [tuple(row[s] for s in labels) for v in self.valid for row in v.lists()]
        return self.places.ordered(rows)

    @property
    def shape(self) -> tuple[Any, ...]:
        r"""(B, C, \*sizes): a whole number where all items agree by nature, else an `Extent`."""
        return tuple(self.size_of(axis) for axis in range(self.dim()))

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or one entry of it."""
        return self.shape if dim is None else self.size_of(self.axis(dim))

    @property
    def ndim(self) -> int:
        """Axes, the batch's among them."""
        return self.dim()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the values."""
        return self.canvases[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.canvases[0].device

    @property
    def requires_grad(self) -> bool:
        """Do gradients flow into any canvas?"""
        return any(c.requires_grad for c in self.canvases)

    is_cuda = property(lambda self: self.canvases[0].is_cuda)
    is_sparse = is_nested = is_quantized = is_mkldnn = is_mps = False

    def numel(self) -> int:
        """Valid values in all."""
        plain = 1
        for axis, label in enumerate(self.layout):
            if label is None:
                plain *= self.canvases[0].shape[axis]
        return plain * sum(int(self.counted(v).sum()) for v in self.valid)

    def is_floating_point(self) -> bool:
        """Are the values floating-point numbers?"""
        return self.canvases[0].is_floating_point()

    def is_complex(self) -> bool:
        """Are the values complex numbers?"""
        return self.canvases[0].is_complex()

    def __len__(self) -> int:
        return sum(self.counts())

    def __bool__(self) -> bool:
        raise refused("one answer", "a batch of them", "reduce it to a number first")

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.items())

    def __getitem__(self, index: Any) -> Any:
        return getitem(self, index)

    def __repr__(self) -> str:
        shown = ", ".join("x".join(map(str, size)) for size in self.sizes[:8])
        more = ", ..." if len(self) > 8 else ""
        plain = [self.size_of(a) for a, label in enumerate(self.layout) if label is None]
        count = len(self.canvases)
        canvases = f"{count} canvas" + "es" * (count != 1)
        what = f"{len(self)} items of {plain} channels: {shown}{more}"
        return f"Ragged({what}; {canvases}, {self.dtype})"

    def cells(self) -> Tensor:
        """All valid cells of all items, in order: (cells, C)."""
        return cells(self)

    # Elsewhere and otherwise

    def again(self, items: Sequence[Tensor]) -> Self:
        """A batch of other items with the same axes as these."""
        made = type(self).__new__(type(self))
        labels = [label for label in self.layout if label != BATCH]
        _alike(items)
        _pack(made, list(items), labels, 1)
        return made

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        r"""A function of one item (C, \*S), applied to each."""
        return type(self)([function(item) for item in self.items()])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """On another device or in another type, as `torch.Tensor.to`."""
        return self._moved([c.to(*args, **kwargs) for c in self.canvases])

    def cpu(self) -> Self:
        """In the host's memory."""
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """On a GPU."""
        return self._moved([c.cuda(*args, **kwargs) for c in self.canvases])

    def pin_memory(self, device: Any = None) -> Self:
        """In page-locked memory, from which copies to a GPU run beside other work."""
        return self.remade([c.pin_memory() for c in self.canvases], padding=self.padding)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of the canvases (`items` that require them need nothing)."""
        for canvas in self.canvases:
            canvas.requires_grad_(requires_grad)
        return self

    def __getattr__(self, name: str) -> Any:
        if hasattr(Tensor, name) and not name.startswith("__"):
            raise missing(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    __hash__ = object.__hash__

    def _moved(self, canvases: Sequence[Tensor]) -> Self:
        made = self.remade(canvases, padding=self.held)
        made.places = self.places.to(canvases[0].device)
        return made


def _method(function: Any) -> Callable[..., Any]:
    handler = HANDLERS[function]

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(self, *args, **kwargs)

    method.__name__ = function.__name__
    method.__doc__ = f"As `torch.Tensor.{function.__name__}`, for each item."
    return method


for _name in dir(Tensor):
    _function = getattr(Tensor, _name)
    known = callable(_function) and getattr(_function, "__hash__", None) and _function in HANDLERS
    if known and _name not in Ragged.__dict__ and _name not in Packed.__dict__:
        setattr(Ragged, _name, _method(_function))


def _pack(made: Ragged, items: list[Tensor], labels: list[Any], multiple_of: int) -> None:
    """Fill in a batch of items whose axes bear these labels."""
    axes = [axis for axis, label in enumerate(labels) if label is not None]
    sizes = [tuple(item.shape[axis] for axis in axes) for item in items]
    first = items[0]
    groups = pack.canvases(sizes, multiple_of, first.device.type)
    number = {axis: k for k, axis in enumerate(axes)}
    canvases, valid = [], []
    for numbers, size in groups:
        row = [items[k] for k in numbers]
        full = [size[number[a]] if a in number else s for a, s in enumerate(first.shape)]
        canvases.append(stacked(row, full))
        v = valid_of(row, full, [number.get(a) for a in range(first.ndim)])
        # with `multiple_of` one kind of graph, whether or not a batch happens to fill a canvas
        valid.append(Valid(v.lists(), v.full and multiple_of == 1))
        valid[-1].table  # noqa: B018  # made here: a compiled graph takes it as an input
    made.canvases, made.valid = tuple(canvases), tuple(valid)
    rows = [k for numbers, _ in groups for k in numbers]
    made.places = Places.of(rows, first.device, always=multiple_of > 1)
    if multiple_of > 1:
        _let_sizes_vary(made)
    made.layout = (BATCH, *[number.get(a) for a in range(first.ndim)])
    made.held, made.first = [ZERO], made.valid


def _let_sizes_vary(x: Ragged) -> None:
    """A compiled graph then serves canvases of any size and number of items."""
    vary = torch._dynamo.maybe_mark_dynamic
    for canvas, valid in zip(x.canvases, x.valid, strict=True):
        vary(canvas, [0, *range(2, canvas.ndim)])
        vary(valid.table, 0)
    for order in (x.places.rows, x.places.order):
        vary(order, 0)


def _check(items: list[Any], multiple_of: int) -> None:
    if not items:
        raise StructureError("at least one item", "none", "an empty batch has no sizes: skip it")
    for k, item in enumerate(items):
        if not isinstance(item, Tensor):
            raise StructureError("tensors (channels, *space)", f"item {k}: {type(item).__name__}")
    _alike(items)
    first = items[0]
    if not 2 <= first.ndim <= 4:
        told = f"items of shape {tuple(first.shape)}"
        raise StructureError(
            "items (channels, *space) with one to three axes of space",
            told,
            "give items without a batch axis: x.unbind()",
        )
    for k, item in enumerate(items):
        if item.shape[0] != first.shape[0]:
            raise StructureError(
                f"{first.shape[0]} channels, as item 0 has", f"item {k} of {item.shape[0]}"
            )
        if 0 in item.shape:
            raise StructureError("items with cells", f"item {k} of shape {tuple(item.shape)}")
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise StructureError("multiple_of as a positive whole number", repr(multiple_of))


def _alike(items: Sequence[Tensor]) -> None:
    first = items[0]
    for k, item in enumerate(items):
        for what in ("ndim", "dtype", "device"):
            mine, yours = getattr(first, what), getattr(item, what)
            if mine != yours:
                name = "axes" if what == "ndim" else what
                raise StructureError(
                    f"items of one {name}: item 0 has {mine}", f"item {k} with {yours}"
                )
