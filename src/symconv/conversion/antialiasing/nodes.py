"""What a node of a graph says of itself: name, what it calls, along which axes, what it pads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from symconv.conversion.antialiasing.layers import module_of

#: Functions that reduce whole axes, whatever the order of what lies along them.
REDUCING = {"mean", "sum", "amax", "amin", "std", "var", "norm", "logsumexp"}


def dimension(node: fx.Node, name: str) -> int:
    """The axis that a function works along."""
    place = {"chunk": 2, "split": 2}.get(name, 1)
    default = 1 if name in ("softmax", "log_softmax") else 0
    found = node.kwargs.get("dim", node.args[place] if len(node.args) > place else default)
    return int(found) if isinstance(found, int) else default


def reduces(node: fx.Node, axis: int, ndim: int) -> bool:
    """Whether a node reduces an axis, whatever the order of what lies along it."""
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims: Any = given if isinstance(given, (tuple, list)) else (given,)
    known = all(isinstance(dim, int) for dim in dims)
    return called(node) in REDUCING and known and axis in {dim % ndim for dim in dims}


def called(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    target: str | Callable[..., Any] = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def name_of(node: fx.Node) -> str:
    """How notes call a node: a layer by its name."""
    return str(node.target) if node.op == "call_module" else node.name


def pads(made: fx.GraphModule, node: fx.Node) -> tuple[tuple[int, ...], str] | None:
    """Cells that a node pads, last axis first, and its mode; None of other nodes."""
    module = module_of(made, node)
    if module is not None:
        kind = type(module).__name__
        if "Pad" not in kind or not isinstance(module.padding, tuple):
            return None
        mode = next((m for m in ("circular", "reflect") if m in kind.lower()), "constant")
        mode = "replicate" if "Replication" in kind else mode
        return tuple(int(p) for p in module.padding), mode
    if node.op == "call_function" and called(node) in ("pad", "wrapped"):
        rest = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | dict(node.kwargs)
        sides: Any = rest["pad"]
        if all(isinstance(side, int) for side in sides):
            mode = "circular" if called(node) == "wrapped" else rest.get("mode", "constant")
            return tuple(sides), str(mode)
    return None
