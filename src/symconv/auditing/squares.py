"""The commuting square of a few layers, and where on their maps the two ways differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor

from symconv.auditing.effective import flat
from symconv.auditing.equivariance.errors import canonical
from symconv.auditing.equivariance.layout import Layout, LostError
from symconv.auditing.equivariance.moves import Move, shift
from symconv.auditing.equivariance.picture import Picture
from symconv.auditing.equivariance.watch import Step, Visitor, Watch
from symconv.auditing.state import left_as_found

if TYPE_CHECKING:
    from symconv.auditing.call import Call
    from symconv.auditing.report import Audit

MAPS = 4  # layers of which the error is drawn over positions


@dataclass(frozen=True)
class Square:
    """The two ways round, of the channel on which they differ most.

    Args:
        layer: Whose features f are shown.
        transform: Name of g.
        pictures: x, f(x), g f(x), g x, f(g x) and f(g x) - g f(x), each (height, width).
        error: ``||f(g x) - g f(x)|| / ||g f(x)||`` over all channels.
    """

    layer: str
    transform: str
    pictures: Sequence[NDArray]
    error: float


@dataclass(frozen=True)
class ErrorMap:
    """Where a layer's features differ: root mean square over channels, relative to g f(x).

    Args:
        layer: Its name.
        values: (height, width).
    """

    layer: str
    values: NDArray


class _Keep(Visitor):
    """Keeps the first output of some layers."""

    def __init__(self, names: Sequence[str]):
        self.names = set(names)
        self.found: dict[str, tuple[Tensor, Layout]] = {}

    def after(self, step: Step) -> None:
        if step.name in self.names and step.name not in self.found:
            tensor, layout = step.outputs[0]
            self.found[step.name] = tensor.detach().clone(), layout


def draw(audit: Audit) -> tuple[list[Square], str, list[ErrorMap]]:
    """Run the model again, once as it is and once under each of two shifts.

    Args:
        audit: The report, with its call and its rows of equivariance.

    Returns:
        Squares: of the layer that breaks a shift most by itself, and of the last map. The name
        of the largest whole shift, and maps of the error under it: what remains is the border's.
    """
    moves = _whole_shifts(audit)
    if audit.call is None or not moves:
        return [], "", []
    bounded, guilty = _maps(audit), _guilty(audit, moves[0].name)
    names = [*bounded, *([guilty] if guilty else [])]
    with left_as_found(audit.call.model), torch.no_grad():
        picture = Picture.of(audit.call)
        plain = _features(picture, None, names)
        moved = {move.name: _features(picture, move, names) for move in moves}
    first = [name for name in (guilty, *bounded[-1:]) if name is not None]
    shown = [(name, moves[0]) for name in dict.fromkeys(first)]
    if bounded and len(moves) > 1:
        shown.append((bounded[-1], moves[-1]))
    squares = [_square(picture, name, m, plain, moved[m.name]) for name, m in shown]
    last = moves[-1]
    maps = [_error_map(picture, name, last, plain, moved[last.name]) for name in bounded]
    return [s for s in squares if s], last.name, [m for m in maps if m]


def _whole_shifts(audit: Audit) -> list[Move]:
    """The whole shifts of the report, made again from their names."""
    rows = audit.equivariance or ()
    found = []
    for name in dict.fromkeys(row.transform for row in rows):
        match = re.fullmatch(r"shift (\d+(?:x\d+)*)", name)
        if match and audit.call is not None:
            steps = [Fraction(part) for part in match[1].split("x")]
            n = len(Picture.of(audit.call).size)
            found.append(shift(steps * n if len(steps) == 1 else steps, name))
    return found


def _maps(audit: Audit) -> list[str]:
    """Layers spread over the depth whose output still has positions."""
    measured = {row.layer for row in audit.equivariance or ()}
    fields = [(r.name, r.receptive_field) for r in audit.layers if r.name in measured]
    names = [name for name, field in fields if field is not None and not field.everything]
    if len(names) <= MAPS:
        return names
    return [names[round(i * (len(names) - 1) / (MAPS - 1))] for i in range(MAPS)]


def _guilty(audit: Audit, transform: str) -> str | None:
    """The layer with the largest error by itself, unless all are exact."""
    rows = [
        row
        for row in audit.equivariance or ()
        if row.transform == transform and row.layer and row.local_error is not None
    ]
    worst = max(rows, key=lambda row: row.local_error or 0.0, default=None)
    return None if worst is None or worst.verdict == "exact" else worst.layer


def _features(
    picture: Picture, move: Move | None, names: Sequence[str]
) -> dict[str, tuple[Tensor, Layout]]:
    visitor = _Keep(names)
    n = picture.dimension
    call = picture.moved(None if move is None else lambda x, layout: move.on(x, layout, n))
    torch.manual_seed(0)  # whatever is drawn is drawn alike
    with Watch(call.model, picture.size, visitor):
        call.run()
    return visitor.found


Features = dict[str, tuple[Tensor, Layout]]


def _ways(
    picture: Picture, name: str, move: Move, plain: Features, moved: Features
) -> tuple[Tensor, Tensor, Tensor] | None:
    """f(x), g f(x) and f(g x) as (C, *S) of the first item; None where f has no map."""
    if name not in plain or name not in moved:
        return None
    (x, layout), (got, _) = plain[name], moved[name]
    n = picture.dimension
    try:
        expected = move.on(x, layout, n)
        ways = [canonical(t, layout, n)[0].double().cpu() for t in (x, expected, got)]
    except (LostError, RuntimeError):
        return None
    return (ways[0], ways[1], ways[2]) if min(ways[0].shape[1:]) > 1 else None


def _square(
    picture: Picture, name: str, move: Move, plain: Features, moved: Features
) -> Square | None:
    ways = _ways(picture, name, move, plain, moved)
    if ways is None:
        return None
    features, expected, got = ways
    apart = got - expected
    energy = (apart if apart.any() else features).square().flatten(1).sum(1)
    channel = int(energy.argmax())
    before, after = _input(picture.moved(None)), _input(_moved(picture, move))
    shown = [
        before, features[channel], expected[channel], after, got[channel], apart[channel]
    ]  # fmt: skip
    error = float(apart.norm() / expected.norm()) if expected.any() else 0.0
    return Square(name, move.name, [flat(p.numpy()) for p in shown], error)


def _moved(picture: Picture, move: Move) -> Call:
    return picture.moved(lambda x, layout: move.on(x, layout, picture.dimension))


def _input(call: Call) -> Tensor:
    """The first map among the arguments, its channels averaged."""
    found = next(t for _, t in call.tensors() if t.is_floating_point() and t.ndim > 2)
    return found[0].detach().double().mean(0).cpu()


def _error_map(
    picture: Picture, name: str, move: Move, plain: Features, moved: Features
) -> ErrorMap | None:
    ways = _ways(picture, name, move, plain, moved)
    if ways is None:
        return None
    _, expected, got = ways
    size = expected.square().mean().sqrt()
    return ErrorMap(name, flat(((got - expected).square().mean(0).sqrt() / size).numpy()))
