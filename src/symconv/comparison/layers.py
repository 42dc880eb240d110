"""What the networks of the comparison are made of: layers, norms and pools for a place in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from symconv import nn as structured
from symconv.lattice import groups
from symconv.models import Place, max_pool


@dataclass(frozen=True)
class Options:
    """What shapes the layers beyond their width.

    Args:
        kernels: Window of each of the three layers.
        fan_in: Inputs of a unit in a sparse layer (at most all); None for a tenth.
        tile: Period of the tiled layer's filters.
        bands: Horizontal regions of the region layer: equal parts of a centred picture.
    """

    kernels: tuple[int, ...] = (5, 5, 5)
    fan_in: int | None = None
    tile: int = 2
    bands: int = 3


Build = Callable[[Place, Options], nn.Module]

#: Zeros continue the empty canvas around a picture. (On a torus a turned picture meets itself.)
PADDING = "zeros"

#: From the smallest size to twice that: small canvases have no room for more.
SCALES = groups.scales(2**0.5, 3)
#: Sites a side that are not pooled any more in networks of scale layers.
FINE = 8


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
    return cast(Any, layer).to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU


def conv_blurred(place: Place, options: Options) -> nn.Module:
    """The convolution at every position: its stride is left to the blurred pool behind it."""
    taps = place.kernel - (place.stride > 1)
    return conv(replace(place, kernel=taps, stride=1), options)


def blur_pool(place: Place) -> nn.Module:
    """Max pooling at every position, and every other one of its blurred map; strides go along."""
    step = 2 * place.stride
    blur = structured.BlurPool2d(step + 1, step, padding_mode="replicate")
    return nn.Sequential(nn.MaxPool2d(2, 1), blur)


def conv_polyphase(place: Place, options: Options) -> nn.Module:
    """The convolution on a torus, its strided grid where the content says."""
    layer = structured.PolyphaseConv2d(
        place.shape[0],
        place.width,
        place.kernel,
        stride=place.stride,
        padding=place.padding,
        padding_mode="circular",
    )
    return cast(Any, layer).to(memory_format=torch.channels_last)


def polyphase_pool(place: Place) -> nn.Module:
    """2x2 max pooling on the grid that holds most."""
    return structured.PolyphasePool2d(2, 2)


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


def scale_conv(place: Place, options: Options) -> nn.Module:
    """A window with the same filters at every position and at three sizes.

    Filters have some two taps a side less than conv's, so that the three sizes lie about conv's;
    fewer where the map has no room for the largest.
    """
    channels = place.shape[0]
    seen = SCALES.trivial(channels) if place.first else SCALES.regular(channels // SCALES.count)
    kernel = place.kernel - (place.stride > 1)  # whose one tap more is to centre an even stride
    wanted = max(min(kernel, 3), kernel - 2) | 1
    room = int(place.shape[-1] / SCALES.sizes[-1] + 0.5)
    taps = max(1, min(wanted, room - 1 + room % 2))
    return structured.ScaleConv2d(
        seen,
        SCALES.regular(place.width),
        taps,
        stride=place.stride,
        padding_mode=PADDING,
        order=min(2, taps - 1),
    )


def fine_pool(place: Place) -> nn.Module:
    """2x2 max pooling, where that leaves eight sites a side: large scales need them."""
    return max_pool(place) if place.shape[-1] // place.stride >= 2 * FINE else nn.Identity()


def anywhere(layer: nn.Module) -> nn.Module:
    """The largest response at any position: a mean would tell how large a thing is."""
    return nn.AdaptiveMaxPool2d(1)


def at_any_scale(layer: nn.Module) -> nn.Module:
    """The largest response at any scale and position."""
    return nn.Sequential(structured.ScalePool(cast(Any, layer).out_field), anywhere(layer))
