"""Joining batches: along channels, along the batch, along space behind a few fixed cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH


def cat(tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    """Channels joined, or items, or fixed cells with ragged ones behind them."""
    given = list(tensors)
    dim = kwargs.get("axis", dim)
    model = next(t for t in given if isinstance(t, Packed))
    axis = model.axis(dim)
    label = model.layout[axis]
    if label == BATCH:
        return _batches(model, given)
    if isinstance(label, int):
        return _behind(model, given, axis)
    if not all(isinstance(t, Packed) for t in given):
        came = next(t for t in given if not isinstance(t, Packed))
        raise refused("ragged batches to join", f"a tensor {tuple(came.shape)}", "expand it first")
    for t in given:
        model, _ = model.beside(t)
    parts = [t.beside(model)[0].canvases for t in given]
    made = [torch.cat(pieces, axis) for pieces in zip(*parts, strict=True)]
    return model.remade(made, None, None, max(t.padding for t in given))


def _batches(model: Packed, given: list[Any]) -> Any:
    items = []
    for t in given:
        if not isinstance(t, Packed) or t.dim() != model.dim():
            raise refused("ragged batches of one rank", type(t).__name__, "join sc.Ragged batches")
        items += t.items()
    return type(model)(items)  # pyright: ignore[reportCallIssue]


def _behind(model: Packed, given: list[Any], axis: int) -> Any:
    """Fixed cells, and ragged ones last: what is valid still comes first."""
    *fixed, last = given
    if not isinstance(last, Packed) or not all(isinstance(t, Tensor) for t in fixed):
        raise refused(
            "plain tensors and one ragged batch behind them, to join along space",
            [type(t).__name__ for t in given],
            "join the items: unbind both batches",
        )
    parts = [last.shares(t, last.batch) for t in fixed]
    more = sum(t.shape[axis] for t in fixed)
    made = [torch.cat([*pieces, c], axis) for *pieces, c in zip(*parts, last.canvases, strict=True)]
    label = last.layout[axis]
    law = lambda size, column: size + more * (column == label)  # noqa: E731
    valid = last.after(("cat", label, more), law, lambda: "cat")
    return last.remade(made, valid, None, last.padding)


def stack(tensors: Any, dim: int = 0) -> Any:
    """Batches joined along a new axis."""
    given = list(tensors)
    axis = given[0].axis(dim, 1)
    return cat([t.unsqueeze(axis) for t in given], axis)


JOINING = {
    torch.cat: cat,
    torch.concat: cat,
    torch.concatenate: cat,
    torch.stack: stack,
}
