"""Losses of one cell at a time: the mean goes over valid cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH


def cells(x: Packed) -> Tensor:
    """All valid cells: (cells, channels), or (cells,) where there are no channels."""
    if x.layout[0] != BATCH or None in x.layout[2:]:
        raise refused("(batch, channels, *space)", x.described(), "permute the axes")
    channels = x.layout[1] is None
    items = x.items()
    rows = [item.flatten(1).t() if channels else item.flatten() for item in items]
    return torch.cat(rows)


def _loss(function: Callable[..., Any]) -> Callable[..., Any]:
    def handler(input: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        if not (isinstance(input, Packed) and isinstance(target, Packed)):
            raise refused(
                f"prediction and target of {function.__name__} as ragged batches",
                "a plain tensor",
                "make the targets a sc.Ragged of the same sizes",
            )
        if input.dim() == target.dim():
            input, target = input.beside(target)
        reduction = kwargs.get("reduction", "mean")
        if reduction not in ("mean", "sum"):
            raise refused('reduction="mean" or "sum"', repr(reduction), "apply it to x.cells()")
        return function(cells(input), cells(target), *args, **kwargs)

    return handler


LOSSES = {
    f: _loss(f)
    for f in (
        F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss,
        F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.kl_div, F.soft_margin_loss,
    )
}  # fmt: skip
