"""Who is connected to whom, and by which weight: dense, listed, windowed, and transposes.

A wiring answers in closed form how many connections and weights there are (a product over axes of
small tables, see `windows`) and, when asked, lists every connection with its weight. It knows
shapes and integers only; `symconv.Structure` is the face that users see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from symconv.lattice.windows import OUTSIDE, Window

Shape = tuple[int, ...]


class Connections(NamedTuple):
    """Every connection as four parallel integer arrays.

    Attributes:
        output: Index into the flattened (channels, *space) output.
        input: Index into the flattened (channels, *space) input.
        weight: Index into the layer's flattened weight.
        sign: +1 or -1.
    """

    output: np.ndarray
    input: np.ndarray
    weight: np.ndarray
    sign: np.ndarray


class Wiring(Protocol):
    """What every wiring answers."""

    @property
    def input_shape(self) -> Shape: ...  # noqa: D102
    @property
    def output_shape(self) -> Shape: ...  # noqa: D102
    @property
    def fan_in(self) -> int: ...  # noqa: D102
    @property
    def fan_out(self) -> int: ...  # noqa: D102
    @property
    def connections(self) -> int: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102
    @property
    def macs(self) -> int: ...  # noqa: D102
    @property
    def padding_macs(self) -> int: ...  # noqa: D102
    def listed(self) -> Connections: ...  # noqa: D102


@dataclass(frozen=True)
class Dense:
    """Every output sees every input through a weight of its own; weights (n, m)."""

    input_shape: Shape
    output_shape: Shape

    @property
    def fan_in(self) -> int:
        """Inputs of an output: all m."""
        return math.prod(self.input_shape)

    @property
    def fan_out(self) -> int:
        """Outputs of an input: all n."""
        return math.prod(self.output_shape)

    @property
    def connections(self) -> int:
        """Connections: m * n."""
        return self.fan_in * self.fan_out

    @property
    def parameters(self) -> int:
        """Free weights: one a connection."""
        return self.connections

    @property
    def macs(self) -> int:
        """Multiply-accumulates: one a connection."""
        return self.connections

    @property
    def padding_macs(self) -> int:
        """None: there is no padding."""
        return 0

    def listed(self) -> Connections:
        """Every connection, outputs first."""
        output, input_ = np.indices((self.fan_out, self.fan_in)).reshape(2, -1)
        return Connections(output, input_, np.arange(output.size), np.ones_like(output))


@dataclass(frozen=True, eq=False)
class Listed:
    """Output o sees the inputs ``table[o]``, a weight each; weights like the table, (n, k)."""

    input_shape: Shape
    output_shape: Shape
    table: np.ndarray

    @property
    def fan_in(self) -> int:
        """Inputs of an output: k."""
        return self.table.shape[1]

    @property
    def fan_out(self) -> int:
        """Outputs of the input that most outputs see."""
        return int(np.bincount(self.table.ravel(), minlength=1).max()) if self.table.size else 0

    @property
    def connections(self) -> int:
        """Connections: k * n."""
        return self.table.size

    @property
    def parameters(self) -> int:
        """Free weights: one a connection."""
        return self.connections

    @property
    def macs(self) -> int:
        """Multiply-accumulates: one a connection."""
        return self.connections

    @property
    def padding_macs(self) -> int:
        """None: there is no padding."""
        return 0

    def listed(self) -> Connections:
        """Every connection, outputs first."""
        output = np.repeat(np.arange(len(self.table)), self.fan_in)
        flat = self.table.ravel()
        return Connections(output, flat, np.arange(flat.size), np.ones_like(output))


@dataclass(frozen=True, eq=False)
class Windowed:
    """Every output sees a window, in the channels of its block; sharing decides the weights.

    Attributes:
        window: The window.
        input_size: Input positions per axis.
        in_channels: Input channels.
        out_channels: Output channels.
        groups: Blocks of channels that see only each other, as in torch.
        sharing: Which filter stands at an output position. A tuple is the period with which
            filters repeat: 1 on every axis is convolution, the output size is the locally
            connected layer. An array of labels over the output positions gives regions.
        torch_layout: Weights (out, in // groups, *kernel) of one filter as torch keeps them;
            otherwise (filters, *kernel, in // groups, out).
    """

    window: Window
    input_size: Shape
    in_channels: int
    out_channels: int
    groups: int
    sharing: Shape | np.ndarray
    torch_layout: bool = False

    @property
    def input_shape(self) -> Shape:
        """(channels, *space) of the input."""
        return (self.in_channels, *self.input_size)

    @property
    def output_shape(self) -> Shape:
        """(channels, *space) of the output."""
        return (self.out_channels, *self.window.output_size(self.input_size))

    @property
    def block(self) -> int:
        """Input channels that an output sees."""
        return self.in_channels // self.groups

    @cached_property
    def tables(self) -> list[np.ndarray]:
        """Per axis, the input position under each (output, tap)."""
        return self.window.tables(self.input_size)

    @property
    def fan_in(self) -> int:
        """Distinct inputs of the output that has most."""
        return self.block * math.prod(int(distinct(t).max()) for t in self.tables)

    @property
    def fan_out(self) -> int:
        """Distinct outputs of the input that has most."""
        reached = (int(uses(t, s).max()) for t, s in zip(self.tables, self.input_size, strict=True))
        return self.out_channels // self.groups * math.prod(reached)

    @property
    def connections(self) -> int:
        """Distinct (output, input) pairs: per axis a sum, over the axes a product."""
        pairs = math.prod(int(distinct(t).sum()) for t in self.tables)
        return self.block * self.out_channels * pairs

    @property
    def filters(self) -> int:
        """Filters that the layer holds."""
        if isinstance(self.sharing, tuple):
            return math.prod(self.sharing)
        return int(self.sharing.max()) + 1

    @property
    def parameters(self) -> int:
        """Free weights, used or not."""
        return self.filters * self.window.taps * self.block * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates as a layer executes them, taps on zero padding included."""
        return math.prod(self.output_shape) * self.window.taps * self.block

    @property
    def padding_macs(self) -> int:
        """Those of `macs` that fall on zero padding."""
        real = math.prod(int((t != OUTSIDE).sum()) for t in self.tables)
        return self.macs - real * self.block * self.out_channels

    def labels(self) -> np.ndarray:
        """The filter that stands at each output position."""
        if not isinstance(self.sharing, tuple):
            return self.sharing
        at = np.indices(self.output_shape[1:])
        phase = tuple(a % period for a, period in zip(at, self.sharing, strict=True))
        return np.asarray(np.ravel_multi_index(phase, self.sharing))

    def listed(self) -> Connections:
        """Every connection; a pair occurs twice where two taps fall on one input."""
        position = _flat_positions(self.tables, self.input_size)
        location, tap = np.nonzero(position != OUTSIDE)
        position = position[location, tap]
        label = self.labels().ravel()[location]
        out, into = np.indices((self.out_channels, self.block)).reshape(2, -1, 1)
        source = out // (self.out_channels // self.groups) * self.block + into
        if self.torch_layout:
            weight = (out * self.block + into) * self.window.taps + tap
        else:
            row = (label * self.window.taps + tap) * self.block
            weight = (row + into) * self.out_channels + out
        output = out * math.prod(self.output_shape[1:]) + location
        input_ = source * math.prod(self.input_size) + position
        output, input_, weight = np.broadcast_arrays(output, input_, weight)
        sign = np.ones(weight.size, np.int64)
        return Connections(output.ravel(), input_.ravel(), weight.ravel(), sign)

    def generators(self) -> list[np.ndarray]:
        """The symmetry as partial permutations of (location, tap, in // groups, out).

        Translation by the period along each axis, up to the border; within a region, from each
        position to the region's next. `symconv.lattice.orbits.orbits` of these are the weights.
        """
        steps = self._steps()
        entries = np.arange(self.window.taps * self.block * self.out_channels)
        return [
            np.where(step[:, None] < 0, -1, step[:, None] * entries.size + entries).ravel()
            for step in steps
        ]

    def _steps(self) -> list[np.ndarray]:
        """Each generator on the output positions alone; -1 where it has no image."""
        if not isinstance(self.sharing, tuple):
            labels = self.sharing.ravel()
            order = np.argsort(labels, kind="stable")
            follows = labels[order[1:]] == labels[order[:-1]]
            step = np.full(labels.size, -1)
            step[order[:-1][follows]] = order[1:][follows]
            return [step]
        size = self.output_shape[1:]
        at = np.indices(size).reshape(len(size), -1)
        steps = []
        for axis, period in enumerate(self.sharing):
            moved = at.copy()
            moved[axis] += period
            inside = moved[axis] < size[axis]
            step = np.full(at.shape[1], -1)
            step[inside] = np.ravel_multi_index(tuple(moved[:, inside]), size)
            steps.append(step)
        return steps


@dataclass(frozen=True)
class Transposed:
    """The same connections and weights, read from outputs to inputs."""

    base: Wiring

    @property
    def input_shape(self) -> Shape:
        """The base's output shape."""
        return self.base.output_shape

    @property
    def output_shape(self) -> Shape:
        """The base's input shape."""
        return self.base.input_shape

    @property
    def fan_in(self) -> int:
        """The base's fan-out."""
        return self.base.fan_out

    @property
    def fan_out(self) -> int:
        """The base's fan-in."""
        return self.base.fan_in

    @property
    def connections(self) -> int:
        """As many as the base has; likewise the next three."""
        return self.base.connections

    @property
    def parameters(self) -> int:
        """Free weights."""
        return self.base.parameters

    @property
    def macs(self) -> int:
        """Multiply-accumulates; taps that fall outside the output included."""
        return self.base.macs

    @property
    def padding_macs(self) -> int:
        """Those of `macs` whose result is cropped."""
        return self.base.padding_macs

    def listed(self) -> Connections:
        """The base's connections with outputs and inputs exchanged."""
        pairs = self.base.listed()
        return pairs._replace(output=pairs.input, input=pairs.output)


def distinct(table: np.ndarray) -> np.ndarray:
    """How many distinct inputs each output of one axis sees.

    Example:
        A circular window of 3 taps on 2 positions meets one of them twice:

        >>> distinct(np.array([[1, 0, 1], [0, 1, 0]]))
        array([2, 2])
    """
    ordered = np.sort(table, axis=1)
    new = np.diff(ordered, axis=1, prepend=OUTSIDE - 1) != 0
    return (new & (ordered != OUTSIDE)).sum(axis=1)


def uses(table: np.ndarray, size: int) -> np.ndarray:
    """How many distinct outputs of one axis see each input."""
    output = np.broadcast_to(np.arange(len(table))[:, None], table.shape)[table != OUTSIDE]
    pairs = np.unique(table[table != OUTSIDE] * len(table) + output)
    return np.bincount(pairs // len(table), minlength=size)


def _flat_positions(tables: list[np.ndarray], size: Sequence[int]) -> np.ndarray:
    """Flattened input position under each (output position, tap); `OUTSIDE` on zero padding."""
    flat, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for table, length in zip(tables, size, strict=True):
        rows, taps = len(flat) * len(table), flat.shape[1] * table.shape[1]
        here = table[None, :, None, :]
        flat = (flat[:, None, :, None] * length + here).reshape(rows, taps)
        inside = (inside[:, None, :, None] & (here != OUTSIDE)).reshape(rows, taps)
    return np.where(inside, flat, OUTSIDE)
