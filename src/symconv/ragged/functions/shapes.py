"""Functions that rearrange axes; space may be flattened and given its axes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.extent import Extent
from symconv.ragged.functions.pointwise import homes
from symconv.ragged.packed import Packed


def _dims(given: Any, more: tuple[Any, ...]) -> list[Any]:
    """Sizes or axes given one by one or as one sequence."""
    return list(given) if isinstance(given, (tuple, list)) else [given, *more]


def permute(input: Any, dims: Any, *more: int) -> Any:
    """Axes in another order."""
    x = input
    axes = [x.axis(a) for a in _dims(dims, more)]
    layout = tuple(x.layout[a] for a in axes)
    return x.remade([c.permute(axes) for c in x.canvases], None, layout, x.held)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    axes = list(range(input.dim()))
    a, b = input.axis(dim0), input.axis(dim1)
    axes[a], axes[b] = b, a
    return permute(input, axes)


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """Axes moved to other places, the rest in their order."""
    from_, to = input.axes(source), input.axes(destination)
    rest = [a for a in range(input.dim()) if a not in from_]
    order = dict(zip(to, from_, strict=True))
    left = iter(rest)
    return permute(input, [order[a] if a in order else next(left) for a in range(input.dim())])


def unsqueeze(input: Any, dim: int) -> Any:
    """An axis of size 1 put in."""
    axis = input.axis(dim, 1)
    layout = (*input.layout[:axis], None, *input.layout[axis:])
    return input.remade([c.unsqueeze(axis) for c in input.canvases], None, layout, input.held)


def squeeze(input: Any, dim: Any = None) -> Any:
    """Axes of size 1 taken out; a ragged axis stays, whatever its size."""
    x = input
    drop = [
        a for a in x.axes(dim) if x.layout[a] is None and x.canvases[0].shape[a] == 1
    ]  # fmt: skip
    layout = tuple(label for a, label in enumerate(x.layout) if a not in drop)
    made = [c.squeeze(tuple(drop)) for c in x.canvases] if drop else x.canvases
    return x.remade(made, None, layout, x.held)


def expand(input: Any, *sizes: Any) -> Any:
    """Axes of size 1 repeated."""
    x, sizes = input, tuple(_dims(sizes[0], sizes[1:]))
    if len(sizes) != x.dim() or any(
        isinstance(label, int) and not (isinstance(s, Extent) or s == -1)
        for label, s in zip(x.layout, sizes, strict=True)
    ):
        raise refused("as many sizes as axes, -1 for ragged ones", str(sizes), "use -1")
    keep = [-1 if label is not None else s for label, s in zip(x.layout, sizes, strict=True)]
    return x.remade([c.expand(keep) for c in x.canvases], None, None, x.held)


# Parts


def _plain_axis(x: Packed, dim: int, name: str) -> int:
    axis = x.axis(dim)
    if x.layout[axis] is not None:
        raise refused(
            f"{name} along an axis without padding", f"dim={dim} of {x.described()}", "use channels"
        )
    return axis


def _in_parts(name: str) -> Callable[..., Any]:
    """split, chunk, tensor_split and unbind."""
    function = getattr(torch.Tensor, name)

    def handler(input: Any, *args: Any, dim: int = 0, **kwargs: Any) -> Any:
        x = input
        needed = 0 if name == "unbind" else 1
        if len(args) > needed:
            args, dim = args[:-1], args[-1]
        axis = x.axis(dim)
        if name == "unbind" and axis == x.batch:
            return tuple(x.items())
        axis = _plain_axis(x, dim, name)
        pieces = [function(c, *args, dim=axis, **kwargs) for c in x.canvases]
        layout = x.layout
        if name == "unbind":
            layout = tuple(label for a, label in enumerate(layout) if a != axis)
        return tuple(x.closed(list(piece), layout, x.held) for piece in zip(*pieces, strict=True))

    return handler


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """A run of channels."""
    axis = _plain_axis(input, dim, "narrow")
    made = [c.narrow(axis, start, length) for c in input.canvases]
    return input.remade(made, None, None, input.held)


def index_select(input: Any, dim: int, index: Tensor) -> Any:
    """Channels by number, or items by number."""
    x, axis = input, input.axis(dim)
    if axis == x.batch:
        return x[index]
    axis = _plain_axis(x, dim, "index_select")
    made = [c.index_select(axis, index) for c in x.canvases]
    return x.remade(made, None, None, x.held)


def _flipped(input: Any, dims: Any, *more: int) -> Any:
    axes = [_plain_axis(input, a, "flip") for a in _dims(dims, more)]
    return input.remade([c.flip(axes) for c in input.canvases], None, None, input.held)


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Channels moved in a circle."""
    axes = [_plain_axis(input, a, "roll") for a in _dims(0 if dims is None else dims, ())]
    made = [c.roll(shifts, axes if len(axes) > 1 else axes[0]) for c in input.canvases]
    return input.remade(made, None, None, input.held)


_SHAPES: dict[str, Any] = {
    "permute": permute, "transpose": transpose, "swapaxes": transpose, "swapdims": transpose,
    "movedim": movedim, "moveaxis": movedim, "unsqueeze": unsqueeze, "squeeze": squeeze,
    "expand": expand, "narrow": narrow, "index_select": index_select, "flip": _flipped,
    "roll": roll, "split": _in_parts("split"), "chunk": _in_parts("chunk"),
    "tensor_split": _in_parts("tensor_split"), "unbind": _in_parts("unbind"),
    "contiguous": lambda input, memory_format=None: input,
}  # fmt: skip
SHAPES = {f: handler for name, handler in _SHAPES.items() for f in homes(name)}
