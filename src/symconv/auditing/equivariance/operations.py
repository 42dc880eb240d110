"""One call of a function or of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ORDERS = {
    "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "T", "mT", "H", "mH",
    "adjoint", "t",
}  # fmt: skip
SHAPES = {
    "view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze",
    "ravel",
}  # fmt: skip
# What a copy of a feature, or the same feature on other axes, is called: it is no layer.
REARRANGE = ORDERS | SHAPES | {
    "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "expand",
    "expand_as", "broadcast_to", "data", "unbind", "chunk", "split", "alias", "lift_fresh",
    "_unsafe_view", "requires_grad_", "cpu", "cuda", "type_as", "split_with_sizes", "__get__",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One call of a function or of a layer.

    Attributes:
        name: The function's name, or the layer's class.
        again: Does it once more, with other arguments.
        args: Positional arguments.
        kwargs: Arguments by name.
        module: The layer, if it is one.
    """

    name: str
    again: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None = None


def plain_name(func: Any) -> str:
    """The usual name of a function: "add" for ``x += y``, "mT" for the property.

    Example:
        >>> plain_name(torch.Tensor.add_), plain_name(torch.ops.aten.add.Tensor)
        ('add', 'add')
    """
    name = getattr(func, "__name__", None) or str(func)
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    if isinstance(func, torch._ops.OpOverload):
        name = name.split(".")[0]
    name = name.removesuffix("_with_indices")
    if name.startswith("__"):
        name = name.strip("_")
        return name[1:] if name in ("iadd", "isub", "imul", "itruediv", "radd", "rsub", "rmul",
                                    "rtruediv", "rmatmul", "rpow") else name  # fmt: skip
    return name.rstrip("_").lstrip("_") if name not in REARRANGE else name


def argument(op: Operation, place: int, name: str, default: Any) -> Any:
    """An argument by its place or its name."""
    return op.args[place] if len(op.args) > place else op.kwargs.get(name, default)
