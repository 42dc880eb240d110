"""What a network of the comparison costs, and the width that a budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from symconv.comparison.filters import core
from symconv.comparison.layers import Options
from symconv.comparison.structures import CONV, Row
from symconv.errors import StructureError
from symconv.lattice.windows import Window
from symconv.models import SmallNetwork, parameters, widest
from symconv.nn import ScaleConv2d
from symconv.structure import Structure

#: Divided by most groups' orders, so that the widths of group convolutions meet the budget.
REFERENCE_WIDTH = 24
#: Heads differ by their number of inputs: MACs count as equal within this share.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Counts:
    """Exact counts of a whole network.

    Args:
        parameters: All trained numbers: weights, biases, norms and head.
        connections: Pairs (output, input) over the three layers and the head.
        macs: Multiply-accumulates of these for one picture.
        fan_in: Inputs k that a unit of the first layer sees.
        inputs: Inputs m of the first layer.
    """

    parameters: int
    connections: int
    macs: int
    fan_in: int
    inputs: int


@dataclass(frozen=True)
class Budget:
    """What all structures may cost.

    Args:
        kind: "params" or "macs".
        limit: The most; None for what the plain convolution needs with 24 channels in its first
            layer: enough for four in the unshared (local) one, which has the most weights.

    Example:
        >>> Budget.parse("macs=20000")
        Budget(kind='macs', limit=20000)
    """

    kind: str = "params"
    limit: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "params", "macs", "params=50000".

        Raises:
            StructureError: The text is none of these.
        """
        kind, _, limit = text.partition("=")
        digits = limit.replace("_", "").replace(",", "")
        if kind not in ("params", "macs") or ("=" in text and not digits.isdecimal()):
            raise StructureError("a budget 'params', 'macs' or one of them with '=N'", repr(text))
        return cls(kind, int(digits) if digits else None)


def build(
    row: Row, shape: tuple[int, ...], width: int, classes: int, options: Options
) -> SmallNetwork:
    """The comparison's network made of one structure."""
    return SmallNetwork(
        lambda place: row.build(place, options),
        shape,
        width,
        classes,
        options.kernels,
        row.norm,
        row.invariant,
        row.pool,
    )


def count(network: SmallNetwork) -> Counts:
    """Count a network: the three structured layers and the head."""
    work = []
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        inner = core(layer)
        if isinstance(inner, ScaleConv2d):
            work.append(_of_scales(inner, shape))
        else:
            work.append(_of(Structure.of(inner, shape[1:] if inner is layer else None)))
    work.append(_of(Structure.of(network.head)))
    return Counts(
        parameters(network),
        sum(w.connections for w in work),
        sum(w.macs for w in work),
        work[0].fan_in,
        work[0].inputs,
    )


class _Work(NamedTuple):
    """Counts of one layer."""

    connections: int
    macs: int
    fan_in: int
    inputs: int


def _of(structure: Structure) -> _Work:
    return _Work(structure.connections, structure.macs, structure.fan_in, structure.inputs)


def _of_scales(layer: ScaleConv2d, shape: tuple[int, ...]) -> _Work:
    """A scale layer on its pyramid: connections on the scales' grids, MACs with resampling."""
    channels, *space = shape
    read = channels if layer.lifting else layer.in_field.copies
    made, count = layer.out_field.copies, layer.scales.count
    ends = [-(-n // s) for n, s in zip(space, layer.stride, strict=True)]
    fan_in = read // layer.groups * prod(layer.kernel_size)
    if layer.pointwise:
        pairs = count * made * fan_in * prod(ends)
        return _Work(pairs, pairs + _moving(read * count, space, ends), fan_in, prod(shape))
    window = Window.of(
        2,
        layer.kernel_size,
        padding=[k // 2 for k in layer.kernel_size],
        padding_mode=layer.padding_mode,
    )
    connections = macs = 0
    for grid in layer.grids(space):
        found = Structure.conv(read, made, window, grid, layer.groups)
        connections += found.connections
        macs += found.macs + _moving(read, space, grid) + _moving(made, grid, ends)
    return _Work(connections, macs, fan_in, prod(shape))


def _moving(maps: int, size: Sequence[int], new: Sequence[int]) -> int:
    """What maps cost to come to another grid: a product with a matrix along each axis."""
    (rows, columns), (high, wide) = size, new
    along = high * rows * columns if high != rows else 0
    return maps * (along + (high * columns * wide if wide != columns else 0))


def cost(network: SmallNetwork, kind: str) -> int:
    """What counts against a budget of this kind."""
    return parameters(network) if kind == "params" else count(network).macs


def settle(budget: Budget, shape: tuple[int, ...], classes: int, options: Options) -> Budget:
    """A budget with its limit: the one given, or what the plain convolution needs."""
    if budget.limit is not None:
        return budget
    network = build(CONV, shape, REFERENCE_WIDTH, classes, options)
    return Budget(budget.kind, cost(network, budget.kind))


def fitting_width(
    row: Row, budget: Budget, shape: tuple[int, ...], classes: int, options: Options
) -> int:
    """The largest width of a structure within the budget.

    Raises:
        StructureError: Not even one channel fits.
    """
    if budget.limit is None:
        raise StructureError("a budget with a limit", budget, "settle it first")
    try:
        return widest(
            lambda width: build(row, shape, width, classes, options),
            lambda network: cost(network, budget.kind),
            budget.limit,
        ).width
    except StructureError as error:
        unit = "parameters" if budget.kind == "params" else "multiply-accumulates"
        whose = f"{error.expected} {unit} for {row.name}"
        raise StructureError(whose, error.got, error.mend) from error


def own_budget(
    row: Row, budget: Budget, shape: tuple[int, ...], classes: int, options: Options
) -> Budget:
    """What a row may cost: the common budget, or its multiple of conv's MACs within that."""
    if row.work is None:
        return budget
    width = fitting_width(CONV, budget, shape, classes, options)
    macs = cost(build(CONV, shape, width, classes, options), "macs")
    return Budget("macs", round(row.work * macs * (1 + TOLERANCE)))
