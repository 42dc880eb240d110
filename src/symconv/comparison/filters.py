"""The learned filters of a first layer, in labelled groups, as the page shows them."""

from __future__ import annotations

from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

Filters = list[tuple[str, NDArray]]
Shape = tuple[int, ...]


def core(layer: nn.Module) -> nn.Module:
    """The structured layer itself, without the flattening before it."""
    return layer[-1] if isinstance(layer, nn.Sequential) else layer


def _weight(layer: nn.Module) -> NDArray:
    return core(layer).get_parameter("weight").detach().float().cpu().numpy()


def dense_filters(layer: nn.Module, shape: Shape) -> Filters:
    """Each unit's weights, laid out as a picture."""
    weight = _weight(layer)
    return [("whole picture", weight.reshape(len(weight), *shape).mean(1))]


def sparse_filters(layer: nn.Module, shape: Shape) -> Filters:
    """Each unit's weights at the inputs that it sees, zero elsewhere."""
    weight, seen = _weight(layer), core(layer).get_buffer("connections").cpu().numpy()
    full = np.zeros((len(weight), prod(shape)), np.float32)
    np.put_along_axis(full, seen, weight, axis=1)
    return [("whole picture", full.reshape(len(weight), *shape).mean(1))]


def conv_filters(layer: nn.Module, shape: Shape) -> Filters:
    """The filters (out, in, kh, kw), mean over colours."""
    return [("everywhere", _weight(layer).mean(1))]


def group_filters(layer: nn.Module, shape: Shape) -> Filters:
    """The filter of each copy as the group turns it, one group of pictures per element."""
    weight = cast(Any, layer).filter().detach().float().cpu().numpy().mean(1)
    order = cast(Any, layer).out_field.group.order
    return [(f"element {g}", weight[g::order]) for g in range(min(order, 4))]


def scale_filters(layer: nn.Module, shape: Shape) -> Filters:
    """The filter of each copy, on the grid of its scale."""
    found = cast(Any, layer).filters()[:, :, 0].mean(1)
    return [("at every scale", found.detach().float().cpu().numpy())]


def _tabled(layer: nn.Module, filters_axes: int) -> NDArray:
    """Weights (*filters, kh, kw, in, out) as (*filters, out, kh, kw), mean over colours."""
    return np.moveaxis(_weight(layer).mean(-2), -1, filters_axes)


def local_filters(layer: nn.Module, shape: Shape) -> Filters:
    """The filters at three positions along the diagonal, between border and centre."""
    weight = _tabled(layer, 2)
    height, width = weight.shape[:2]
    spots = [(height * i // 8, width * i // 8) for i in (2, 4, 6)]
    return [(f"row {y}, column {x}", weight[y, x]) for y, x in spots]


def region_filters(layer: nn.Module, shape: Shape) -> Filters:
    """One group per band, the top one first."""
    weight = _tabled(layer, 1)
    last = len(weight) - 1
    names = {0: "top band", last: "bottom band"}
    return [(names.get(i, "middle band"), filters) for i, filters in enumerate(weight)]


def tiled_filters(layer: nn.Module, shape: Shape) -> Filters:
    """One group per position in the tile."""
    weight = _tabled(layer, 2)
    return [
        (f"tile {y}, {x}", weight[y, x])
        for y in range(weight.shape[0])
        for x in range(weight.shape[1])
    ]
