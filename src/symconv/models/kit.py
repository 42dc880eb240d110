"""Torch's layers and those of a group under one set of names, so that one network has both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import symconv.nn as group_nn
from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.lattice.representations import Field

Features = int | Field  # what the channels of a map are: plain ones by number, or a group's field

WINDOWS = ("even", "odd")


def channels(features: Features) -> int:
    """Channels of a map."""
    return features.channels if isinstance(features, Field) else features


def copies(features: Features) -> int:
    """Copies of a field; a plain channel is one."""
    return features.copies if isinstance(features, Field) else features


@dataclass(frozen=True)
class Kit:
    """What a network is made of: torch's own layers, or those that commute with a group.

    Args:
        dimension: Axes of space.
        group: The group of every layer; None for torch's layers.
        scale: Copies per unit of width.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> plain, turned = Kit(2), Kit(2, parse("C4"), scale=0.25)
        >>> [kit.conv(kit.picture(3), kit.hidden(64), 3) for kit in (plain, turned)]
        [Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False), \
GroupConv2d(C4.trivial(3), C4.regular(16), kernel_size=3, padding=1, bias=False)]
    """

    dimension: int
    group: Group | None = None
    scale: float = 1.0

    # What the channels are

    def picture(self, given: Features) -> Features:
        """The input's or the output's channels: numbers are trivial fields."""
        if isinstance(given, Field):
            return given if self.group else given.channels
        if given is True or not isinstance(given, int) or given < 1:
            raise StructureError("channels as a number of at least 1, or a field", repr(given))
        return self.group.trivial(given) if self.group else given

    def hidden(self, width: float) -> Features:
        """Features of a layer of this width: as many copies as the scale says, at least one."""
        return self.whole(max(1, round(width * self.scale)))

    def whole(self, count: int) -> Features:
        """So many copies, whatever the scale."""
        return self.group.regular(count) if self.group else count

    # Layers

    def _layer(self, plain: str, fields: str) -> Any:
        home, name = (group_nn, fields) if self.group else (nn, plain)
        return getattr(home, f"{name}{self.dimension}d")

    def conv(
        self,
        into: Features,
        out: Features,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
        depthwise: bool = False,
    ) -> nn.Module:
        """A convolution; by default padded so that stride 1 keeps the size."""
        padding = (kernel_size - 1) // 2 if padding is None else padding
        groups = copies(into) if depthwise else 1
        some = (None if bias else False) if self.group else bias
        layer = self._layer("Conv", "GroupConv")
        return layer(into, out, kernel_size, stride, padding, groups=groups, bias=some)

    def transposed(self, into: Features, out: Features, factor: int) -> nn.Module:
        """A transposed convolution that multiplies the size by its kernel and stride."""
        return self._layer("ConvTranspose", "GroupConvTranspose")(into, out, factor, factor)

    def batch_norm(self, features: Features) -> nn.Module:
        """Batch norm, one mean and variance a copy."""
        if isinstance(features, Field):
            return group_nn.FieldBatchNorm(features)
        return self._layer("BatchNorm", "")(features)

    def layer_norm(self, features: Features, eps: float = 1e-6) -> nn.Module:
        """Layer norm over the channels of each position."""
        if isinstance(features, Field):
            return group_nn.FieldLayerNorm(features, eps)
        return ChannelNorm(features, eps)

    def dropout(self, features: Features, p: float) -> nn.Module:
        """Dropout of copies, at each position apart."""
        return group_nn.FieldDropout(features, p) if isinstance(features, Field) else nn.Dropout(p)

    def max_pool(
        self, features: Features, kernel_size: int, stride: int, padding: int = 0
    ) -> nn.Module:
        """Max pooling over space."""
        given = (features,) if self.group else ()
        return self._layer("MaxPool", "FieldMaxPool")(*given, kernel_size, stride, padding)

    def avg_pool(self, features: Features, kernel_size: int) -> nn.Module:
        """Average pooling over space, window beside window."""
        given = (features,) if self.group else ()
        return self._layer("AvgPool", "FieldAvgPool")(*given, kernel_size)

    def upsample(self, features: Features, factor: int, mode: str) -> nn.Module:
        """Upsampling, "nearest" or "linear"."""
        if isinstance(features, Field):
            return group_nn.FieldUpsample(features, factor, mode)
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[self.dimension]
        if mode == "linear":
            return nn.Upsample(scale_factor=float(factor), mode=linear, align_corners=False)
        return nn.Upsample(scale_factor=float(factor), mode=mode)

    def invariant(self, features: Features) -> nn.Module:
        """The largest component of each copy, which the group leaves as it is."""
        return group_nn.GroupPool(features) if isinstance(features, Field) else nn.Identity()


class ChannelNorm(nn.LayerNorm):
    """Torch's layer norm over axis 1, the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """The input (N, C, *S), normalised at each position."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


# Initial weights


def convolutions(network: nn.Module) -> list[Any]:
    """All convolutions, whosever and whichever way: the layers with a kernel and weights."""
    layers = network.modules()
    return [m for m in layers if hasattr(m, "kernel_size") and hasattr(m, "weight")]


@torch.no_grad()
def draw_normal(layer: Any, deviation: float) -> None:
    """Draw a layer's weights so that the entries of its filter have this standard deviation.

    Of a group's filter in the mean over its entries, whatever the share of a weight in them.
    """
    if layer.weight.is_meta:
        return
    share = layer.filter_mean_square if hasattr(layer, "filter_mean_square") else 1.0
    layer.weight.normal_(0, deviation / math.sqrt(share))
    if layer.bias is not None:
        layer.bias.zero_()


def draw_he(network: nn.Module, mode: str) -> None:
    """Draw all convolutions with variance 2 / fan, as He et al. (2015), and set biases to zero.

    Args:
        network: Where they are.
        mode: "fan_in": the inputs of an output; "fan_out": the outputs of an input, stride aside.
    """
    for layer in convolutions(network):
        ends = {"fan_in": layer.in_channels, "fan_out": layer.out_channels}
        draw_normal(layer, math.sqrt(2 / (ends[mode] * math.prod(layer.kernel_size))))
