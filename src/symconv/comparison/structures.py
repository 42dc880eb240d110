"""The structures that are compared: one plain table.

To compare another structure, add a row: a function that builds its layer for an input shape, what
it changes in a training batch (or nothing), and which tests apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symconv import nn as structured
from symconv.data import PictureSet, random_shifts
from symconv.lattice import groups
from symconv.models import Place, no_pool, plain_norm

Filters = list[tuple[str, NDArray]]


@dataclass(frozen=True)
class Options:
    """What shapes the layers beyond their width.

    Args:
        kernels: Window of each of the three layers.
        fan_in: Inputs of a unit in a sparse layer (at most all); None for a tenth.
        tile: Period of the tiled layer's filters.
        bands: Horizontal regions of the region layer: equal parts of a centred picture.
    """

    kernels: tuple[int, ...] = (5, 3, 3)
    fan_in: int | None = None
    tile: int = 2
    bands: int = 3


Shape = tuple[int, ...]
Build = Callable[[Place, Options], nn.Module]
Augmentation = Callable[[PictureSet], Callable[[Tensor, torch.Generator], Tensor]]

#: The canvas is a torus for every windowed layer: what tells the structures apart is then what they
#: connect and share, not how they treat a border that a moved picture comes closer to.
PADDING = "circular"

#: Each test's name and the split that it is taken on.
TESTS = {"as they are": "test", "moved": "moved", "turned": "turned", "mirrored": "mirrored"}


@dataclass(frozen=True)
class Row:
    """One structure of the comparison.

    Args:
        name: What to call it.
        about: What is connected and shared, in one line.
        build: The layer for a place in the network.
        filters: The learned filters of a first layer, in labelled groups (count, height, width).
        colour: Its colour in every picture (colour-blind safe).
        marker: Its matplotlib marker.
        augment: Made for a picture set, changes each training batch; None for no change.
        tests: The tests that apply.
        norm: The norm that suits its layers.
        invariant: What makes its last features invariant, before the mean over positions.
        macs_of: Another row whose MACs are this one's budget: its twin of equal MACs.
        default: Whether it takes part when no structures are named.
    """

    name: str
    about: str
    build: Build
    filters: Callable[[nn.Module, Shape], Filters]
    colour: str
    marker: str
    augment: Augmentation | None = None
    tests: tuple[str, ...] = tuple(TESTS)
    norm: Callable[[nn.Module, Tensor], nn.Module] = plain_norm
    invariant: Callable[[nn.Module], nn.Module] = no_pool
    macs_of: str | None = None
    default: bool = True


def core(layer: nn.Module) -> nn.Module:
    """The structured layer itself, without the flattening before it."""
    return layer[-1] if isinstance(layer, nn.Sequential) else layer


def dense(place: Place, options: Options) -> nn.Module:
    """Every unit sees every input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(place.shape), place.width))


def sparse(place: Place, options: Options) -> nn.Module:
    """Every unit sees k inputs, drawn at random."""
    inputs = prod(place.shape)
    fan_in = min(inputs, options.fan_in or max(1, round(inputs / 10)))
    return nn.Sequential(nn.Flatten(), structured.SparseLinear(inputs, place.width, fan_in))


def local(place: Place, options: Options) -> nn.Module:
    """A window with its own filters at every position."""
    return structured.LocallyConnected2d(
        place.shape[0],
        place.width,
        place.kernel,
        input_size=place.shape[1:],
        stride=place.stride,
        padding=place.padding,
        padding_mode=PADDING,
    )


def region(place: Place, options: Options) -> nn.Module:
    """A window whose filters are shared within horizontal bands of the output."""
    size = tuple(side // place.stride for side in place.shape[1:])
    return structured.RegionConv2d(
        place.shape[0],
        place.width,
        place.kernel,
        regions=bands(size, options.bands),
        stride=place.stride,
        padding=place.padding,
        padding_mode=PADDING,
    )


def bands(size: tuple[int, ...], count: int) -> Tensor:
    """Labels (height, width) of horizontal bands that split a centred picture into equal parts.

    The picture takes the middle half of the canvas, so that the outer bands reach on to its edge.
    A map too small for so many bands has fewer.

    Example:
        >>> bands((12, 1), 3).flatten().tolist()
        [0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    """
    height, width = size
    centre = (torch.arange(height) + 0.5) / height
    edges = 0.25 + 0.5 * torch.arange(1, count) / count
    rows = torch.bucketize(centre, edges).unique(return_inverse=True)[1]
    return rows[:, None].expand(height, width).contiguous()


def tiled(place: Place, options: Options) -> nn.Module:
    """A window whose filters repeat with a period."""
    return structured.TiledConv2d(
        place.shape[0],
        place.width,
        place.kernel,
        tile=options.tile,
        stride=place.stride,
        padding=place.padding,
        padding_mode=PADDING,
    )


def conv(place: Place, options: Options) -> nn.Module:
    """A window with the same filters everywhere."""
    layer = nn.Conv2d(
        place.shape[0],
        place.width,
        place.kernel,
        stride=place.stride,
        padding=place.padding,
        padding_mode=PADDING,
    )
    # About 1.5 times as fast on a CPU.
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


def group_conv(name: str) -> Build:
    """A window with the same filters everywhere, turned (and mirrored) by each element of a group.

    The width counts copies: as many channels for each element.
    """
    group = groups.parse(name, dimension=2)

    def build(place: Place, options: Options) -> nn.Module:
        channels = place.shape[0]
        seen = group.trivial(channels) if place.first else group.regular(channels // group.order)
        return structured.GroupConv2d(
            seen,
            group.regular(place.width),
            place.kernel,
            stride=place.stride,
            padding=place.padding,
            padding_mode=PADDING,
        )

    return build


def field_norm(layer: nn.Module, output: Tensor) -> nn.Module:
    """One mean and variance per copy of the layer's field."""
    return structured.FieldBatchNorm(cast(Any, layer).out_field)


def group_pool(layer: nn.Module) -> nn.Module:
    """The largest of each copy's channels: unchanged when the group permutes them."""
    return structured.GroupPool(cast(Any, layer).out_field)


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


def group_filters(layer: nn.Module, shape: Shape) -> Filters:
    """The filter of each copy as the group turns it, one group of pictures per element."""
    weight = cast(Any, layer).filter().detach().float().cpu().numpy().mean(1)
    order = cast(Any, layer).out_field.group.order
    return [(f"element {g}", weight[g::order]) for g in range(min(order, 4))]


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
    Row(
        "region",
        "a window, shared in upper, middle, lower band",
        region,
        region_filters,
        "#e69f00",
        "P",
    ),
    Row("tiled", "a window, filters repeat every 2 px", tiled, tiled_filters, "#56b4e9", "X"),
    Row("conv", "a window, shared everywhere", conv, conv_filters, "#0072b2", "^"),
    Row(
        "conv-wide",
        "conv with as many MACs as C4",
        conv,
        conv_filters,
        "#5e4fa2",
        "<",
        macs_of="C4",
        default=False,
    ),
    Row(
        "conv-wider",
        "conv with as many MACs as D4",
        conv,
        conv_filters,
        "#9e0142",
        ">",
        macs_of="D4",
        default=False,
    ),
    Row(
        "C4",
        "conv, filters shared by quarter turns",
        group_conv("C4"),
        group_filters,
        "#009e73",
        "h",
        norm=field_norm,
        invariant=group_pool,
        default=False,
    ),
    Row(
        "D4",
        "conv, shared by quarter turns and mirrors",
        group_conv("D4"),
        group_filters,
        "#a6761d",
        "*",
        norm=field_norm,
        invariant=group_pool,
        default=False,
    ),
)

STRUCTURES = {row.name: row for row in ROWS}
DEFAULT = tuple(row.name for row in ROWS if row.default)
