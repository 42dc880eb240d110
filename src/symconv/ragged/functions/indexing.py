"""Square brackets: items, channels, and regular parts of space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH


def getitem(x: Any, index: Any) -> Any:
    """``x[item]`` is a tensor, ``x[items]`` a batch; ``x[:, channels, rows, columns]`` a part."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(p is Ellipsis for p in parts):
        at = next(k for k, p in enumerate(parts) if p is Ellipsis)
        used = sum(p is not None for p in parts) - 1
        parts[at : at + 1] = [slice(None)] * (x.dim() - used)
    if x.batch == 0 and not (isinstance(parts[0], slice) and parts[0] == slice(None)):
        if parts[0] is None:
            raise refused("the batch on axis 0", "None before it", "use unsqueeze behind it")
        chosen = _items(x, parts[0])
        rest = tuple(parts[1:])
        if isinstance(chosen, Tensor):
            return chosen[rest] if rest else chosen
        return getitem(chosen, (slice(None), *rest)) if rest else chosen
    return _inside(x, parts)


def _items(x: Any, which: Any) -> Any:
    """One item, or a batch of some."""
    items = x.items()
    if isinstance(which, Tensor) and which.dtype == torch.bool:
        which = which.nonzero()[:, 0]
    if isinstance(which, Tensor):
        which = which.tolist()
    if isinstance(which, slice):
        return x.again(items[which])
    if isinstance(which, (list, tuple, range)):
        return x.again([items[int(k)] for k in which])
    try:
        return items[which]
    except IndexError:
        told = f"item {which}"
        raise IndexError(f"{told} of a batch of {len(items)}") from None


def _inside(x: Packed, parts: list[Any]) -> Any:
    axis = 0
    steps: dict[int, tuple[int, int | None, int]] = {}
    plain: list[Any] = []
    layout: list[Any] = []
    for part in parts:
        if part is None:
            plain.append(None)
            layout.append(None)
            continue
        label = x.layout[axis] if axis < x.dim() else None
        if axis >= x.dim():
            raise IndexError(f"too many indices for a batch of {x.dim()} axes")
        if isinstance(label, int):
            part = _on_space(x, axis, part, steps)
        elif label == BATCH and part != slice(None):
            raise refused("all items", f"index {part}", "choose items on axis 0")
        elif isinstance(part, (list, Tensor)) and any(isinstance(p, (list, Tensor)) for p in plain):
            raise refused("one list of channels", "several", "index one axis at a time")
        plain.append(part)
        if not isinstance(part, int):
            layout.append(label)
        axis += 1
    layout += x.layout[axis:]
    made = [c[tuple(plain)] for c in x.canvases]
    if not steps:
        return x.closed(made, tuple(layout), x.held)

    def law(size: Any, column: int) -> Any:
        start, stop, step = steps.get(column, (0, None, 1))
        if stop is not None:
            size = size + stop if stop < 0 else _least(size, stop)
        return (size - start + step - 1) // step

    valid = x.after(("index", tuple(sorted(steps.items()))), law, lambda: f"the index {steps}")
    return x.remade(made, valid, tuple(layout), x.held)


def _least(size: Any, stop: int) -> Any:
    return size.clamp(max=stop) if isinstance(size, Tensor) else min(size, stop)


def _on_space(x: Packed, axis: int, part: Any, steps: dict[int, Any]) -> Any:
    """A part of ragged space; what it does to sizes goes into `steps`."""
    label = x.layout[axis]
    if isinstance(part, int):
        if part < 0 or (
            not torch.compiler.is_compiling()
            and any(part >= int(v.table[:, label].min()) for v in x.valid)
        ):
            raise refused(f"a cell that every item has: {x.described()}", part, "count from 0")
        return part
    if isinstance(part, slice) and (part.start or 0) >= 0 and (part.step or 1) > 0:
        start, stop, step = part.start or 0, part.stop, part.step or 1
        if (start, stop, step) != (0, None, 1):
            steps[label] = (start, stop, step)
        # an end counted from the back differs from item to item: the canvas keeps those cells
        return slice(start, None if stop is None or stop < 0 else stop, step)
    raise refused(
        "a whole number or a slice that counts from the start of space",
        f"index {part!r}",
        "index each item: x.map(lambda item: item[...])",
    )
