"""The structures that are compared: one plain table.

To compare another structure, add a row: a function that builds its layer for an input shape, what
it changes in a training batch (or nothing), and which tests apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symconv import nn as structured
from symconv.data import PictureSet, random_shifts

Filters = list[tuple[str, NDArray]]


@dataclass(frozen=True)
class Options:
    """What shapes the layers beyond their width.

    Args:
        kernels: Window of each of the three layers.
        fan_in: Inputs of a unit in a sparse layer (at most all); None for a tenth.
        tile: Period of the tiled layer's filters.
        bands: Horizontal regions of the region layer, from top to bottom.
    """

    kernels: tuple[int, ...] = (5, 3, 3)
    fan_in: int | None = None
    tile: int = 2
    bands: int = 3


Shape = tuple[int, ...]
Build = Callable[[Shape, int, int, int, Options], nn.Module]
Augmentation = Callable[[PictureSet], Callable[[Tensor, torch.Generator], Tensor]]

#: The canvas is a torus for every windowed layer: what tells the structures apart is then what they
#: connect and share, not how they treat a border that a moved picture comes closer to.
PADDING = "circular"

#: Each test's name and the split that it is taken on.
TESTS = {"as they are": "test", "moved": "moved"}


@dataclass(frozen=True)
class Row:
    """One structure of the comparison.

    Args:
        name: What to call it.
        about: What is connected and shared, in one line.
        build: The layer for (input shape, width, kernel, stride, options).
        filters: The learned filters of a first layer, in labelled groups (count, height, width).
        colour: Its colour in every picture (colour-blind safe).
        marker: Its matplotlib marker.
        augment: Made for a picture set, changes each training batch; None for no change.
        tests: The tests that apply.
    """

    name: str
    about: str
    build: Build
    filters: Callable[[nn.Module, Shape], Filters]
    colour: str
    marker: str
    augment: Augmentation | None = None
    tests: tuple[str, ...] = ("as they are", "moved")


def core(layer: nn.Module) -> nn.Module:
    """The structured layer itself, without the flattening before it."""
    return layer[-1] if isinstance(layer, nn.Sequential) else layer


def dense(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """Every unit sees every input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), width))


def sparse(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """Every unit sees k inputs, drawn at random."""
    inputs = prod(shape)
    fan_in = min(inputs, options.fan_in or max(1, round(inputs / 10)))
    return nn.Sequential(nn.Flatten(), structured.SparseLinear(inputs, width, fan_in))


def local(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """A window with its own filters at every position."""
    return structured.LocallyConnected2d(
        shape[0],
        width,
        kernel,
        input_size=shape[1:],
        stride=stride,
        padding=kernel // 2,
        padding_mode=PADDING,
    )


def region(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """A window whose filters are shared within horizontal bands of the output."""
    height, columns = ((s - 1) // stride + 1 for s in shape[1:])
    bands = min(options.bands, height)
    labels = torch.arange(height).mul(bands).div(height, rounding_mode="floor")
    return structured.RegionConv2d(
        shape[0],
        width,
        kernel,
        regions=labels[:, None].expand(height, columns).contiguous(),
        stride=stride,
        padding=kernel // 2,
        padding_mode=PADDING,
    )


def tiled(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """A window whose filters repeat with a period."""
    return structured.TiledConv2d(
        shape[0],
        width,
        kernel,
        tile=options.tile,
        stride=stride,
        padding=kernel // 2,
        padding_mode=PADDING,
    )


def conv(shape: Shape, width: int, kernel: int, stride: int, options: Options) -> nn.Module:
    """A window with the same filters everywhere."""
    layer = nn.Conv2d(
        shape[0], width, kernel, stride=stride, padding=kernel // 2, padding_mode=PADDING
    )
    # About 1.5 times as fast on a CPU.
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


def shifts(pictures: PictureSet) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Random whole displacements of up to a quarter of the canvas, as in the moved test."""
    return lambda batch, generator: random_shifts(
        batch, pictures.reach, pictures.full_frame, generator
    )


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


ROWS = (
    Row("dense", "every input, nothing shared", dense, dense_filters, "#8a8a8a", "o"),
    Row(
        "dense+shifts",
        "dense, with training pictures displaced at random",
        dense,
        dense_filters,
        "#222222",
        "D",
        augment=shifts,
    ),
    Row("sparse", "a tenth of the inputs, nothing shared", sparse, sparse_filters, "#cc79a7", "v"),
    Row("local", "a window, nothing shared", local, local_filters, "#d55e00", "s"),
    Row("region", "a window, shared in three bands", region, region_filters, "#e69f00", "P"),
    Row("tiled", "a window, filters repeat every 2 px", tiled, tiled_filters, "#56b4e9", "X"),
    Row("conv", "a window, shared everywhere", conv, conv_filters, "#0072b2", "^"),
)

STRUCTURES = {row.name: row for row in ROWS}
