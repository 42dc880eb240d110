"""Which layers break a symmetry, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from symconv.auditing.equivariance.moves import Move
from symconv.auditing.equivariance.runs import Trace
from symconv.auditing.records import EquivarianceRow

MOST = 4  # layers named for one transform


@dataclass(frozen=True)
class Layer:
    """What is said of a layer beside its errors.

    Attributes:
        name: As in the rows.
        kind: Its class, or the function.
        inputs: Strides of the positions of its inputs.
        steps: Its own stride, per axis.
    """

    name: str
    kind: str
    inputs: tuple[tuple[Fraction, ...], ...]
    steps: tuple[Fraction, ...]

    @classmethod
    def of(cls, trace: Trace, dimension: int) -> Layer:
        """From a layer's trace."""
        inputs = tuple(layout.stride(dimension) for layout in trace.inputs if layout.has("s"))
        outputs = [layout for _, layout in trace.outputs if layout.has("s")]
        steps = (Fraction(1),) * dimension
        if inputs and outputs:
            after = outputs[0].stride(dimension)
            steps = tuple(b / a for a, b in zip(inputs[0], after, strict=True))
        return cls(trace.name, trace.kind, inputs, steps)

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


def culprits(
    rows: Sequence[EquivarianceRow],
    layers: Sequence[Layer],
    moves: Sequence[Move],
    period: Sequence[int] | None,
    floor: float,
) -> tuple[str, ...]:
    """The layers that break what the whole model does not commute with, the worst first.

    A layer is named if it errs by itself. Where none does, as the axes between layers could not be
    followed, the first one is named whose features differ.

    Args:
        rows: The rows.
        layers: The layers in order.
        moves: The transforms to look at.
        period: The exact period.
        floor: Errors up to this are rounding.
    """
    said, seen = list[str](), set[tuple[str, str]]()
    known = {layer.name: layer for layer in layers}
    broken = {r.transform for r in rows if r.layer == "" and r.verdict != "exact"}
    for move in moves:
        if move.name not in broken:
            continue
        mine = [r for r in rows if r.transform == move.name and r.layer in known]
        mine = [r for r in mine if known[r.layer].moves_whole(move)]
        guilty = [r for r in mine if r.local_error is not None and r.verdict != "exact"]
        guilty.sort(key=lambda r: -(r.local_error or 0.0))
        kind = move.name if move.shift else move.name.split()[0]
        new = [r for r in guilty if (r.layer, kind) not in seen]
        seen |= {(r.layer, kind) for r in new}
        said += [_sentence(r, known[r.layer], move, period) for r in new[:MOST]]
        if len(new) > MOST:
            more = len(new) - MOST
            err = "layers err by themselves" if more > 1 else "layer errs by itself"
            said.append(f"{more} more {err} under {_words(move)}")
        if not guilty:
            first = next((r for r in mine if (r.error or 0.0) > floor), None)
            said.append(_unclear(first, known, move))
    return tuple(said)


def _sentence(row: EquivarianceRow, layer: Layer, move: Move, period: Sequence[int] | None) -> str:
    said = f"{layer.label}: error {row.local_error:.2g} under {_words(move)}"
    if period and move.shift and max(period) > 1:
        shown = period[:1] if len(set(period)) == 1 else period
        said += f"; exact for multiples of {'x'.join(map(str, shown))}"
    return said


def _unclear(first: EquivarianceRow | None, known: Mapping[str, Layer], move: Move) -> str:
    if first is None:
        return f"no single layer could be named for the error under {_words(move)}"
    label = known[first.layer].label
    return (
        f"{label}: the first features that differ under {_words(move)}, by {first.error:.2g}; "
        "what comes before it could not be measured alone"
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
