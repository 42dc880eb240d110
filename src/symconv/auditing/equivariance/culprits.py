"""Which layers break a symmetry, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from symconv.auditing.equivariance.errors import Error
from symconv.auditing.equivariance.moves import Move
from symconv.auditing.equivariance.runs import Trace
from symconv.auditing.records import EquivarianceRow

MOST = 4  # layers named for one transform


@dataclass(frozen=True)
class Layer:
    """One call of a layer.

    Attributes:
        name: As in the rows.
        kind: Its class, or the function.
        inputs: Strides of the positions of its inputs.
        steps: Its own stride, per axis.
        local: Name of a transform -> the error of this call alone, or why there is none.
    """

    name: str
    kind: str
    inputs: tuple[tuple[Fraction, ...], ...]
    steps: tuple[Fraction, ...]
    local: Mapping[str, Error | str] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace, dimension: int) -> Layer:
        """From a layer's trace."""
        inputs = tuple(layout.stride(dimension) for layout in trace.inputs if layout.has("s"))
        outputs = [layout for _, layout in trace.outputs if layout.has("s")]
        steps = (Fraction(1),) * dimension
        if inputs and outputs:
            after = outputs[0].stride(dimension)
            steps = tuple(b / a for a, b in zip(inputs[0], after, strict=True))
        return cls(trace.name, trace.kind, inputs, steps, trace.local)

    @property
    def label(self) -> str:
        """The name, the kind where the name is a number, and the stride if it has one."""
        name = self.name or self.kind
        if name.split(".")[-1].isdigit():
            name = f"{name} ({self.kind})"
        if max(self.steps) <= 1:
            return name
        shown = self.steps[:1] if len(set(self.steps)) == 1 else self.steps
        return f"{name}, stride {'x'.join(map(str, shown))}"

    def moves_whole(self, move: Move) -> bool:
        """Whether the transform moves its inputs by whole positions.

        A layer behind a stride gets fractional shifts, which hardly any layer commutes with: that
        is not its doing, but the stride's.
        """
        if move.shift is None:
            return True
        return all(
            (t / s).denominator == 1
            for strides in self.inputs
            for t, s in zip(move.shift, strides, strict=True)
        )

    def error(self, move: Move) -> float:
        """Its error by itself; 0 where that is rounding, not its doing, or not measured."""
        found = self.local.get(move.name)
        if not isinstance(found, Error) or found.rounding:
            return 0.0
        if not self.moves_whole(move) and max(self.steps) <= 1:
            return 0.0  # a shift by its own total stride tells more of it
        return found.full or 0.0


def culprits(
    rows: Sequence[EquivarianceRow],
    layers: Sequence[Layer],
    moves: Sequence[Move],
    period: Sequence[int] | None,
    floor: float,
) -> tuple[str, ...]:
    """The layers that break what the whole model does not commute with, the worst first.

    A layer is named if one of its calls errs by itself. Where none does, as the axes between layers
    could not be followed, the first one is named whose features differ.

    Args:
        rows: The rows.
        layers: Their calls in order.
        moves: The transforms to look at.
        period: The exact period.
        floor: Errors up to this are rounding.
    """
    said, seen = list[str](), set[tuple[str, str]]()
    broken = {r.transform for r in rows if r.layer == "" and r.verdict not in ("exact", None)}
    inside = {(r.layer, r.transform): r.interior_error for r in rows}
    for move in moves:
        if move.name not in broken:
            continue
        worst = _worst(layers, move, floor)
        kind = move.name if move.shift else move.name.split()[0]
        new = [layer for layer in worst if (layer.name, kind) not in seen]
        seen |= {(layer.name, kind) for layer in new}
        for layer in new[:MOST]:
            within = inside.get((layer.name, move.name))
            border = within is not None and within <= floor
            said.append(_sentence(layer, move, period, border))
        if len(new) > MOST:
            more = len(new) - MOST
            err = "layers err by themselves" if more > 1 else "layer errs by itself"
            said.append(f"{more} more {err} under {_words(move)}")
        if not worst:
            said.append(_unclear(rows, layers, move, floor))
    return tuple(said)


def _worst(layers: Sequence[Layer], move: Move, floor: float) -> list[Layer]:
    """The layers that err by themselves, each by the call that errs most, the worst first."""
    found: dict[str, Layer] = {}
    for layer in layers:
        error = layer.error(move)
        if error > floor and (layer.name not in found or error > found[layer.name].error(move)):
            found[layer.name] = layer
    return sorted(found.values(), key=lambda layer: -layer.error(move))


def _sentence(layer: Layer, move: Move, period: Sequence[int] | None, border: bool) -> str:
    """What a layer does; `border`: only there, its units away from the border are exact."""
    said = f"{layer.label}: error {layer.error(move):.2g} under {_words(move)}"
    if not layer.moves_whole(move):
        said += ", rounded up to whole positions of its input"
    if border:
        return f"{said}, at the border alone"
    if period and move.shift and max(period) > 1:
        shown = period[:1] if len(set(period)) == 1 else period
        said += f"; exact for multiples of {'x'.join(map(str, shown))}"
    return said


def _unclear(
    rows: Sequence[EquivarianceRow], layers: Sequence[Layer], move: Move, floor: float
) -> str:
    known = {layer.name: layer for layer in layers}
    mine = (r for r in rows if r.transform == move.name and r.layer in known)
    first = next((r for r in mine if (r.error or 0.0) > floor), None)
    if first is None:
        return f"no single layer could be named for the error under {_words(move)}"
    return (
        f"{known[first.layer].label}: the first features that differ under {_words(move)}, by "
        f"{first.error:.2g}; what comes before it could not be measured alone"
    )


def _words(move: Move) -> str:
    """A transform in a sentence.

    Example:
        >>> from symconv.auditing.equivariance.moves import shift
        >>> _words(shift((1, 1)))
        'a shift of 1 px'
    """
    kind, _, amount = move.name.partition(" ")
    if kind == "shift":
        return f"a shift of {amount} px"
    if kind in ("turn", "rotate") and amount.replace(".", "").isdigit():
        return f"a turn by {amount} degrees"
    return "a mirror" if move.name == "mirror" else move.name
