"""What is said of input that does not fit: which item, which layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from symconv.errors import StructureError


def layer() -> str:
    """The innermost module now running, named as in the outermost one; empty where there is none.

    Walks the stack, so only an error's message calls it.
    """
    running: list[nn.Module] = []
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module not in running:
            running.append(module)
        frame = frame.f_back
    if not running:
        return ""
    inner, outer = running[0], running[-1]
    names = [name for name, module in outer.named_modules() if module is inner]
    text = repr(inner).splitlines()[0].rstrip("(")
    return f" in {names[0]}: {text}" if names and names[0] else f" in {text}"


def unknown(function: Any) -> StructureError:
    """The error for a function that has no meaning here."""
    name = getattr(function, "__name__", None) or str(function)
    home = getattr(function, "__module__", None) or getattr(function, "__objclass__", None)
    home = getattr(home, "__name__", home)
    return StructureError(
        "a function that sc.Ragged knows",
        f"{home}.{name}{layer()}" if home else f"{name}{layer()}",
        "apply it to each item: x.map(function), or to the tensors of x.unbind()",
    )


def refused(what: str, why: Any, mend: str) -> StructureError:
    """The error for a known function whose arguments have no meaning here."""
    return StructureError(what, f"{why}{layer()}", mend)


def too_small(
    operation: str, item: int, size: list[int], start: list[int], law: Callable[[int, int], int]
) -> StructureError:
    """The error for an item that an operation leaves no cell of.

    Args:
        operation: The operation and its arguments.
        item: The item's number.
        size: Its size before the operation.
        start: Its size when the batch was made.
        law: Gives the size after the operation from a size and an axis.
    """
    least = [
        next((s for s in range(1, 1 << 16) if law(s, axis) > 0), 0) for axis in range(len(size))
    ]
    came = "x".join(map(str, size))
    if start != size:
        came += f", made from {'x'.join(map(str, start))}"
    return StructureError(
        f"items of at least {'x'.join(map(str, least))} cells for {operation}{layer()}",
        f"item {item} of {came}",
        "leave the item out, or pad or enlarge it beforehand",
    )


class _MissingMethodError(StructureError, AttributeError):
    """A method of tensors that has no meaning here; `hasattr` says no."""


def missing(name: str) -> AttributeError:
    """The error for a method of `torch.Tensor` that has no meaning here."""
    return _MissingMethodError(
        "a method that sc.Ragged knows",
        f"torch.Tensor.{name}{layer()}",
        "apply it to each item: x.map(function), or to the tensors of x.unbind()",
    )
