"""Random layers of every family, with random arguments, for the laws to hold.

Adding a layer to the suite is one entry in `FAMILIES`: a function that draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import hypothesis.strategies as st
import torch
from torch import nn

import symconv as sc
from symconv.lattice import PADDING_MODES, Window

DIMENSIONS = (1, 2, 3)


@dataclass
class Case:
    """A layer in float64 and the (channels, *space) of an input it takes."""

    layer: nn.Module
    shape: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return self.shape[1:]

    def structure(self) -> sc.Structure:
        return sc.Structure.of(self.layer, self.size or None)

    def input(self, batch: int = 2, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *self.shape, generator=generator, dtype=torch.float64)

    def with_weights_drawn_from(self, make) -> Case:
        """Replace every parameter by `make(shape)`: integers, for laws that hold exactly."""
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(make(parameter.shape))
        return self


def integers(shape, low: int = -4, high: int = 5) -> torch.Tensor:
    """Small whole numbers: sums and products of these are exact in float64."""
    return torch.randint(low, high, shape).double()


@dataclass
class Arguments:
    """Random arguments of a windowed layer that fit each other."""

    dimension: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    size: tuple[int, ...]
    options: dict

    @property
    def output_size(self) -> tuple[int, ...]:
        names = ("stride", "padding", "dilation", "padding_mode")
        window = {name: self.options[name] for name in names}
        return Window.of(self.dimension, self.kernel_size, **window).output_size(self.size)


@st.composite
def arguments(draw, dimension: int) -> Arguments:
    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dimension))

    largest = {1: 4, 2: 3, 3: 2}[dimension]
    kernel, dilation = per_axis(1, largest), per_axis(1, 2)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    mode = draw(st.sampled_from(PADDING_MODES))
    padding = draw(st.sampled_from(["same", "valid", per_axis(0, 2)]))
    # at least the extent, so that every padding mode can fill what is asked of it
    size = tuple(max(e, 3) + draw(st.integers(0, 2)) for e in extent)
    groups = draw(st.sampled_from([1, 2, 3]))
    stride = 1 if padding == "same" else per_axis(1, 3)
    options = dict(
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    cin, cout = (groups * draw(st.integers(1, 2)) for _ in range(2))
    return Arguments(dimension, cin, cout, kernel, size, options)


@st.composite
def sparse(draw, dimension: int = 1) -> Case:
    features = draw(st.integers(1, 12))
    layer = sc.nn.SparseLinear(
        features,
        draw(st.integers(1, 12)),
        draw(st.integers(1, features)),
        bias=draw(st.booleans()),
        generator=torch.Generator().manual_seed(draw(st.integers(0, 99))),
        dtype=torch.float64,
    )
    return Case(layer, (features,))


def layer_class(name: str, dimension: int):
    return getattr(sc.nn, f"{name}{dimension}d")


@st.composite
def local(draw, dimension: int) -> Case:
    a = draw(arguments(dimension))
    make = layer_class("LocallyConnected", dimension)
    options = a.options | {"dtype": torch.float64}
    layer = make(a.in_channels, a.out_channels, a.kernel_size, a.size, **options)
    return Case(layer, (a.in_channels, *a.size))


@st.composite
def local_transpose(draw, dimension: int) -> Case:
    a = draw(arguments(dimension))
    options = {k: v for k, v in a.options.items() if k != "padding_mode"}
    step = options["stride"] if isinstance(options["stride"], tuple) else (1,) * dimension
    spread = Window.of(dimension, a.kernel_size, step, 0, options["dilation"]).transposed_size(
        a.size
    )
    wanted = options["padding"] if isinstance(options["padding"], tuple) else (0,) * dimension
    options["padding"] = tuple(  # it cuts the output: leave one position at least
        min(p, (n - 1) // 2) for p, n in zip(wanted, spread, strict=True)
    )
    extra = tuple(draw(st.integers(0, max(0, s - 1))) for s in step)
    make = layer_class("LocallyConnectedTranspose", dimension)
    options |= {"output_padding": extra, "dtype": torch.float64}
    layer = make(a.in_channels, a.out_channels, a.kernel_size, a.size, **options)
    return Case(layer, (a.in_channels, *a.size))


@st.composite
def region(draw, dimension: int) -> Case:
    a = draw(arguments(dimension))
    positions = math.prod(a.output_size)
    count = draw(st.integers(1, min(4, positions)))
    labels = list(range(count)) + [
        draw(st.integers(0, count - 1)) for _ in range(positions - count)
    ]
    regions = torch.tensor(draw(st.permutations(labels))).reshape(a.output_size)
    make = layer_class("RegionConv", dimension)
    options = a.options | {"dtype": torch.float64}
    layer = make(a.in_channels, a.out_channels, a.kernel_size, regions, **options)
    return Case(layer, (a.in_channels, *a.size))


@st.composite
def tiled(draw, dimension: int) -> Case:
    a = draw(arguments(dimension))
    tile = tuple(draw(st.integers(1, 3)) for _ in range(dimension))
    make = layer_class("TiledConv", dimension)
    options = a.options | {"dtype": torch.float64}
    layer = make(a.in_channels, a.out_channels, a.kernel_size, tile, **options)
    return Case(layer, (a.in_channels, *a.size))


@st.composite
def conv(draw, dimension: int) -> Case:
    """Torch's own layer: the suite must find nothing wrong with it."""
    a = draw(arguments(dimension))
    make = getattr(nn, f"Conv{dimension}d")
    options = a.options | {"dtype": torch.float64}
    layer = make(a.in_channels, a.out_channels, a.kernel_size, **options)
    return Case(layer, (a.in_channels, *a.size))


FAMILIES = {
    "local": local,
    "local transpose": local_transpose,
    "region": region,
    "tiled": tiled,
    "conv": conv,
}
EVERY_LAYER = [("sparse", 1)] + [(name, d) for name in FAMILIES for d in DIMENSIONS]


def draw_case(data: st.DataObject, family: str, dimension: int) -> Case:
    """One random layer of a family."""
    make = sparse if family == "sparse" else FAMILIES[family]
    return data.draw(make(dimension))
