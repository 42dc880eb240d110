"""What a network of the comparison costs, and the width that a budget allows."""

from __future__ import annotations

from dataclasses import dataclass

from symconv.comparison.structures import Options, Row, core
from symconv.errors import StructureError
from symconv.models import SmallNetwork, parameters, widest
from symconv.structure import Structure

REFERENCE_WIDTH = 4


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
        limit: The most; None for what the unshared (local) network needs at width 4, so that the
            structure with the most weights still has a width worth comparing.

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
    )


def count(network: SmallNetwork) -> Counts:
    """Count a network: the three structured layers and the head."""
    structures = []
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        inner = core(layer)
        flat = inner is not layer
        structures.append(Structure.of(inner) if flat else Structure.of(inner, shape[1:]))
    structures.append(Structure.of(network.head))
    return Counts(
        parameters(network),
        sum(s.connections for s in structures),
        sum(s.macs for s in structures),
        structures[0].fan_in,
        structures[0].inputs,
    )


def cost(network: SmallNetwork, kind: str) -> int:
    """What counts against a budget of this kind."""
    return parameters(network) if kind == "params" else count(network).macs


def settle(
    budget: Budget, reference: Row, shape: tuple[int, ...], classes: int, options: Options
) -> Budget:
    """A budget with its limit: the one given, or what the reference needs at its width."""
    if budget.limit is not None:
        return budget
    network = build(reference, shape, REFERENCE_WIDTH, classes, options)
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
    return widest(
        lambda width: build(row, shape, width, classes, options),
        lambda network: cost(network, budget.kind),
        budget.limit,
    ).width


def twin_budget(
    row: Row, budget: Budget, shape: tuple[int, ...], classes: int, options: Options
) -> Budget:
    """What a network with the MACs of `row`, at the width that the budget allows it, may cost."""
    width = fitting_width(row, budget, shape, classes, options)
    return Budget("macs", cost(build(row, shape, width, classes, options), "macs"))
