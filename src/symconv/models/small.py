"""The small network of `symconv compare`: three structured layers and one linear head."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symconv.errors import StructureError


@dataclass(frozen=True)
class Place:
    """Where a layer stands in the network.

    Args:
        shape: (channels, *space) of one input.
        width: Output channels or features.
        kernel: Taps of its window, along each axis.
        stride: Step between its outputs.
        first: Whether its input is the picture itself.
    """

    shape: tuple[int, ...]
    width: int
    kernel: int
    stride: int
    first: bool

    @property
    def padding(self) -> int:
        """Padding with which the output has size / stride positions, centred on the input's."""
        return (self.kernel - self.stride) // 2


def plain_norm(layer: nn.Module, output: Tensor) -> nn.Module:
    """Batch norm with one mean and variance per channel, for a layer with this output."""
    return (nn.BatchNorm2d if output.ndim == 4 else nn.BatchNorm1d)(output.shape[1])


def no_pool(layer: nn.Module) -> nn.Module:
    """Features that are invariant as they are."""
    return nn.Identity()


def max_pool(place: Place) -> nn.Module:
    """The largest of each 2x2 sites."""
    return nn.MaxPool2d(2)


LayerBuilder = Callable[[Place], nn.Module]


def stride_for(canvas: int) -> int:
    """Stride of the first layer: what brings a canvas to at most 24 sites a side."""
    return 1 if canvas <= 24 else 2 if canvas <= 48 else 4


#: Added to the variances of the head's norm. Features of one scale train in about half the steps,
#: but those that hardly differ between the training pictures must stay small: with batch norm's
#: usual 1e-5 they are blown up, and a C8 network trained on upright digits loses ten points on
#: validation digits turned by any angle.
HEAD_EPS = 0.3


class SmallNetwork(nn.Module):
    """Three structured layers, each with batch norm, ReLU and 2x2 (max) pooling; then a head.

    Pooling halves the map, and each layer has twice the channels of the one before; the last map
    is averaged over its positions and normalised before the linear head. Layers whose output has no
    positions (dense, sparse) have nothing to pool, and the same network is a perceptron of the
    same depth and constant width.

    Args:
        layer: The structured layer for a place in the network.
        shape: Shape of one picture (channels, height, width).
        width: Output channels (or features) of the first layer.
        classes: Number of classes.
        kernels: Kernel size of each layer, odd. Where the first one strides, its kernel is one
            larger: an even window keeps the sampling grid centred, whatever the even stride.
        norm: The norm of a layer, from the layer and an output of it.
        invariant: What follows the last layer before the mean over positions, from that layer.
        pool: What halves the map behind the ReLU of a layer at a place.

    Example:
        >>> from math import prod
        >>> def dense(place):
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(prod(place.shape), place.width))
        >>> SmallNetwork(dense, (1, 16, 16), 8, classes=10)(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layer: LayerBuilder,
        shape: tuple[int, ...],
        width: int,
        classes: int,
        kernels: tuple[int, ...] = (5, 5, 5),
        norm: Callable[[nn.Module, Tensor], nn.Module] = plain_norm,
        invariant: Callable[[nn.Module], nn.Module] = no_pool,
        pool: Callable[[Place], nn.Module] = max_pool,
    ):
        super().__init__()
        self.reach = kernels[0]
        self.layers, self.norms, self.pools = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.shapes: list[tuple[int, ...]] = []
        stride, step = stride_for(shape[-1]), 1
        #: Input pixels between two sites of the last feature map, or what they usually are.
        self.map_stride = stride * 2 ** (len(kernels) - 1)
        for index, kernel in enumerate(kernels):
            self.shapes.append(tuple(shape))
            taps = kernel + (stride > 1)
            place = Place(tuple(shape), width, taps, stride, index == 0)
            self.layers.append(layer(place))
            with torch.no_grad():
                out = self.layers[-1](torch.zeros(1, *shape))
            spatial = out.ndim == 4
            if spatial:
                self.map_stride = step = step * _stride(self.layers[-1])
            self.norms.append(norm(self.layers[-1], out))
            self.pools.append(pool(place) if spatial else nn.Identity())
            shape, stride = self.pools[-1](out).shape[1:], 1
            step *= _stride(self.pools[-1])
            width = 2 * width if spatial else width
        self.invariant = invariant(self.layers[-1])
        with torch.no_grad():
            channels = self.invariant(torch.zeros(1, *shape)).shape[1]
        self.head_norm = nn.BatchNorm1d(channels, eps=HEAD_EPS)
        self.head = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map before its pooling (N, width, h, w), or features (N, width)."""
        x = self.layers[0](x)
        for index in range(1, len(self.layers)):
            x = self.pools[index - 1](torch.relu(self.norms[index - 1](x)))
            x = self.layers[index](x)
        return torch.relu(self.norms[-1](x))

    def first_features(self, x: Tensor) -> Tensor:
        """The first feature map before its pooling, for pictures of it."""
        return torch.relu(self.norms[0](self.layers[0](x)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes) of pictures (N, channels, height, width)."""
        x = self.invariant(self.pools[-1](self.features(x)))
        if x.ndim == 4:
            x = x.mean((2, 3))
        return self.head(self.head_norm(x))


def _stride(module: nn.Module) -> int:
    """The product of the strides of a module's parts."""
    strides: list[Any] = [part.stride for part in module.modules() if hasattr(part, "stride")]
    return math.prod(s if isinstance(s, int) else s[0] for s in strides)


@dataclass(frozen=True)
class Size:
    """A width and what the network costs at it."""

    width: int
    cost: int


def widest(build: Callable[[int], Any], cost: Callable[[Any], int], budget: int) -> Size:
    """The largest width whose network costs no more than the budget.

    The cost must not fall with the width.

    Args:
        build: Network of a width.
        cost: Its cost, in the budget's unit.
        budget: The most that it may cost.

    Raises:
        StructureError: Not even width one fits.

    Example:
        >>> widest(lambda width: width, lambda network: network**2, 50)
        Size(width=7, cost=49)
    """
    low = Size(1, cost(build(1)))
    if low.cost > budget:
        raise StructureError(
            f"a budget of at least {low.cost}", budget, "raise the budget or shrink the canvas"
        )
    high: Size | None = None
    while high is None or high.width - low.width > 1:
        # Costs grow between linearly and quadratically: go where the budget should be met.
        power = 2.0 if high is None else _growth(low, high)
        guess = max(low.width + 1, int(low.width * (budget / low.cost) ** (1 / power)))
        guess = guess if high is None else min(guess, high.width - 1)
        tried = Size(guess, cost(build(guess)))
        if tried.cost <= budget:
            low = tried
        else:
            high = tried
    return low


def _growth(low: Size, high: Size) -> float:
    """The exponent by which the cost grows between two widths."""
    return max(0.5, math.log(high.cost / low.cost) / math.log(high.width / low.width))


def parameters(model: nn.Module) -> int:
    """All trained numbers: weights, biases, norms and head."""
    return sum(p.numel() for p in model.parameters())
