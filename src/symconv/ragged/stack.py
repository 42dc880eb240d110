"""Items into canvases and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.valid import Layout, Valid


def stacked(items: Sequence[Tensor], size: Sequence[int], batch: int = 0) -> Tensor:
    """One canvas of items, each at its start, zeros after it.

    For inference pictures lie channels last, in which torch convolves fastest on a CPU; its
    gradients of small maps are slower so.

    Args:
        items: Tensors of one rank.
        size: The canvas's size along each of the items' axes.
        batch: Where the batch's axis goes.
    """
    first, size = items[0], tuple(size)
    graph = torch.is_grad_enabled()
    pictures = first.ndim == 3 and batch == 0 and first.is_floating_point() and not graph
    as_pictures = torch.channels_last if pictures else torch.contiguous_format
    if all(item.shape == size for item in items):
        return torch.stack(list(items), batch).contiguous(memory_format=as_pictures)
    if graph and any(item.requires_grad for item in items):
        rows = []
        for item in items:
            gaps = [s - have for s, have in zip(size, item.shape, strict=True)]
            rows.append(F.pad(item, [amount for gap in reversed(gaps) for amount in (0, gap)]))
        return torch.stack(rows, batch).contiguous(memory_format=as_pictures)
    canvas = torch.empty(
        (len(items), *size), dtype=first.dtype, device=first.device, memory_format=as_pictures
    ).zero_()
    for row, item in zip(canvas, items, strict=True):
        row[tuple(map(slice, item.shape))] = item
    return canvas.movedim(0, batch)


def unstacked(canvas: Tensor, valid: Valid, layout: Layout, batch: int) -> list[Tensor]:
    """The items of a canvas, row by row: views of it."""
    rows = list(canvas.unbind(batch))
    if valid.full:
        return rows
    labels = [label for axis, label in enumerate(layout) if axis != batch]
    made = []
    for row, size in zip(rows, valid.lists(), strict=True):
        for axis, label in enumerate(labels):
            if label is not None:
                row = row.narrow(axis, 0, size[label])
        made.append(row)
    return made
