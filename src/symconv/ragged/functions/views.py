"""Views: channels split and joined, space flattened and given its axes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.extent import Extent
from symconv.ragged.functions.pointwise import homes
from symconv.ragged.packed import FINITE, Packed
from symconv.ragged.valid import BATCH, Valid, product


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Adjacent axes joined: channels with channels, or space with space."""
    x = input
    start, end = x.axis(start_dim), x.axis(end_dim)
    shape = [x.size_of(a) for a in range(x.dim())]
    if start >= end:
        return x
    labels = x.layout[start : end + 1]
    if all(isinstance(label, int) for label in labels):
        return _joined(x, start, end)
    return view(x, [*shape[:start], -1, *shape[end + 1 :]])


def unflatten(input: Any, dim: int, sizes: Any) -> Any:
    """An axis as several."""
    shape = [input.size_of(a) for a in range(input.dim())]
    axis = input.axis(dim)
    return view(input, [*shape[:axis], *sizes, *shape[axis + 1 :]])


def view_as(input: Any, other: Any) -> Any:
    """A view with another's shape."""
    return view(input, list(other.shape))


def view(input: Any, *shape: Any) -> Any:
    """Runs of channels in another shape; space as it is, flattened, or with its axes back.

    Sizes of space are given by those of `x.shape` and their products; -1 stands for channels, or
    for all space where no other size does.
    """
    x = input
    targets = list(shape[0]) if isinstance(shape[0], (tuple, list)) else list(shape)
    plan = None if any(isinstance(t, torch.dtype) for t in targets) else _plan(x, targets)
    if plan is not None:
        return _carried_out(x, plan)
    if len(x.canvases) == 1 and x.valid[0].full:
        sizes = [int(t) for t in targets]
        if sizes[0] == x.size_of(x.batch) and x.batch == 0:
            return x.places.join([x.canvases[0].reshape(sizes)], 0)
    told = ", ".join(map(str, targets))
    raise refused(
        "a view that keeps items apart and space apart from channels, its sizes taken from x.shape",
        f"view({told}) of {x.described()}",
        "pool to one size first (nn.AdaptiveAvgPool2d, sc.nn.SpatialPyramidPool2d)",
    )


def _runs(x: Packed) -> list[tuple[str, list[int]]]:
    """Adjacent axes of a kind: "batch", "plain" or "ragged"."""
    runs: list[tuple[str, list[int]]] = []
    for axis, label in enumerate(x.layout):
        kind = "batch" if label == BATCH else "plain" if label is None else "ragged"
        if runs and runs[-1][0] == kind:
            runs[-1][1].append(axis)
        else:
            runs.append((kind, [axis]))
    return runs


def _plan(x: Packed, targets: list[Any]) -> list[tuple[str, list[int], list[Any]]] | None:
    """What each run of axes becomes; None: the sizes do not follow the runs."""
    found = _resolved(x, targets)
    if found is None:
        return None
    plan, left = [], list(found)
    for kind, axes in _runs(x):
        if kind == "batch":
            mine, left = left[:1], left[1:]
            if not (mine and isinstance(mine[0], int) and mine[0] == x.size_of(x.batch)):
                return None
        elif kind == "plain":
            wanted, mine = product(x.size_of(a) for a in axes), []
            while left and isinstance(left[0], int) and (product(mine) < wanted or left[0] == 1):
                mine.append(left.pop(0))
            if product(mine) != wanted:
                return None
        else:
            mine = []
            while left and isinstance(left[0], (Extent, str)):
                mine.append(left.pop(0))
            if not _fits(x, axes, mine):
                return None
        plan.append((kind, axes, mine))
    # sizes 1 put in behind the batch or the space
    return None if left else plan


def _resolved(x: Packed, targets: list[Any]) -> list[Any] | None:
    """Targets with -1 replaced: by a number of channels, or by "space"."""
    unknown = [k for k, t in enumerate(targets) if isinstance(t, int) and t == -1]
    if not unknown:
        return targets
    known = product(t for t in targets if isinstance(t, int) and t != -1)
    total = product(x.size_of(a) for a, label in enumerate(x.layout) if not isinstance(label, int))
    rest: Any = "space"
    if any(isinstance(t, Extent) for t in targets):
        if len(unknown) > 1 or known == 0 or total % known:
            return None
        rest = total // known
    elif len(unknown) > 1 or known != total:
        return None
    return [rest if k in unknown else t for k, t in enumerate(targets)]


def _fits(x: Packed, axes: list[int], mine: list[Any]) -> bool:
    """Can these ragged axes take these sizes?"""
    if mine == ["space"]:
        return True
    if not mine or "space" in mine:
        return False
    if len(mine) != len(axes) and len(mine) != 1 and len(axes) != 1:
        return False
    if len(mine) == len(axes):
        return all(x.size_of(a) == t for a, t in zip(axes, mine, strict=True))
    if torch.compiler.is_compiling():
        return True
    have, want = x.size_of(axes[0]), mine[0]
    for a in axes[1:]:
        have = have * x.size_of(a)
    for t in mine[1:]:
        want = want * t
    return have.values() == want.values()


def _carried_out(x: Packed, plan: list[tuple[str, list[int], list[Any]]]) -> Packed:
    layout: list[Any] = []
    shapes: list[list[int]] = [[] for _ in x.canvases]
    for kind, axes, mine in plan:
        layout += [None] * len(mine) if kind == "plain" else [x.layout[a] for a in axes]
        for shape, c in zip(shapes, x.canvases, strict=True):
            shape += mine if kind == "plain" else [c.shape[a] for a in axes]
    canvases = [c.reshape(shape) for c, shape in zip(x.canvases, shapes, strict=True)]
    x = x.remade(canvases, None, tuple(layout), x.held)
    at = 0
    for kind, axes, mine in plan:
        if kind == "ragged" and mine == ["space"] and len(axes) == 1:
            mine = axes  # as it is
        if kind == "ragged" and len(axes) > len(mine):
            x = _joined(x, at, at + len(axes) - 1)
        elif kind == "ragged" and len(axes) < len(mine):
            x = _parted(x, at, mine)
        at += len(mine)
    return x


def _joined(x: Packed, start: int, end: int) -> Packed:
    """Ragged axes as one: each item's cells in a row, without gaps."""
    if start == end:
        return x
    canvases, columns = [], []
    for c, v in zip(x.canvases, x.valid, strict=True):
        size = c.shape[start : end + 1]
        each = [v.table[:, x.layout[a], None] for a in range(start, end + 1)]
        length = product(each)
        flat = c.flatten(start, end)
        if not v.full:
            most = product(size) if torch.compiler.is_compiling() else int(length.max())
            flat = _taken(flat, _moved(most, each, size), x.batch, start)
        canvases.append(flat)
        columns.append(length[:, 0])
    return _replaced(x, canvases, start, end, [[column] for column in columns])


def _parted(x: Packed, axis: int, extents: Sequence[Any]) -> Packed:
    """A ragged axis as several, whose product it is."""
    canvases, columns = [], []
    for k, (c, v) in enumerate(zip(x.canvases, x.valid, strict=True)):
        tables = [e.tables[k] for e in extents]
        size = [_bound(e, k) for e in extents]
        if v.full and product(size) == c.shape[axis]:
            canvases.append(c.unflatten(axis, size))
        else:
            index = _moved(product(size), size, [t[:, None] for t in tables])
            canvases.append(_taken(c, index, x.batch, axis).unflatten(axis, size))
        columns.append(tables)
    return _replaced(x, canvases, axis, axis, columns)


def _bound(extent: Extent, canvas: int) -> int:
    if torch.compiler.is_compiling():
        if extent.bounds is None:
            raise refused(
                "sizes taken from x.shape as they are", str(extent), "do not compute them"
            )
        return extent.bounds[canvas]
    return int(extent.tables[canvas].max())


def _replaced(
    x: Packed, canvases: list[Tensor], start: int, end: int, columns: list[list[Tensor]]
) -> Packed:
    """Axes start to end replaced by ragged ones with these extents; all columns numbered anew."""
    valid = []
    for c, v, mine in zip(canvases, x.valid, columns, strict=True):
        before = [v.table[:, label] for label in x.layout[:start] if isinstance(label, int)]
        after = [v.table[:, label] for label in x.layout[end + 1 :] if isinstance(label, int)]
        table = torch.stack([*before, *mine, *after], 1)
        full = v.full
        if not torch.compiler.is_compiling():
            axes = [a for a, s in enumerate(x.layout[:start]) if isinstance(s, int)]
            axes += list(range(start, start + len(mine)))
            shift = start + len(mine) - end - 1
            axes += [
                a + shift for a in range(end + 1, x.dim()) if isinstance(x.layout[a], int)
            ]  # fmt: skip
            full = bool((table == table.new_tensor([c.shape[a] for a in axes])).all())
        valid.append(Valid(table, full))
    labels = [*x.layout[:start], *[0] * len(columns[0]), *x.layout[end + 1 :]]
    number = iter(range(len(labels)))
    layout = tuple(next(number) if isinstance(label, int) else label for label in labels)
    return x.remade(canvases, valid, layout, max(FINITE, x.padding))


def _moved(length: int, sizes: Sequence[Any], within: Sequence[Any]) -> Tensor:
    """Where cells in a row of these sizes stand in a row of those, (items, length).

    Either sizes are numbers or tensors (items, 1).
    """
    here, index, stride = torch.arange(length), torch.zeros((), dtype=torch.int64), 1
    for size, other in zip(reversed(list(sizes)), reversed(list(within)), strict=True):
        index = index + (here % size) * stride
        here = here // size
        stride = stride * other
    return index


def _taken(x: Tensor, index: Tensor, batch: int, axis: int) -> Tensor:
    """Cells along an axis by number, for each item; numbers out of range are of padding."""
    shape = [1] * x.ndim
    shape[batch], shape[axis] = index.shape
    full = [*x.shape]
    full[axis] = index.shape[1]
    index = index.clamp(max=x.shape[axis] - 1).to(x.device).view(shape)
    return x.gather(axis, index.expand(full))


_VIEWS: dict[str, Any] = {
    "flatten": flatten, "unflatten": unflatten, "view": view, "reshape": view, "view_as": view_as,
    "reshape_as": view_as,
}  # fmt: skip
VIEWS = {f: handler for name, handler in _VIEWS.items() for f in homes(name)}
