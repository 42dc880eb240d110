"""Measure how well a network and each of its layers commute with transforms of its input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from symconv.auditing.axes import check_axes
from symconv.auditing.call import Call
from symconv.auditing.counts.fake import fake
from symconv.auditing.equivariance.culprits import Layer, culprits
from symconv.auditing.equivariance.errors import EXACT, Error, verdict
from symconv.auditing.equivariance.interior import Interior
from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import Move, moves_for, rescaling, shift
from symconv.auditing.equivariance.picture import Picture, declared_group, declared_scales
from symconv.auditing.equivariance.runs import (
    Shelf,
    Trace,
    first_run,
    moved_run,
    outputs_of,
    worst,
)
from symconv.auditing.equivariance.scaling import factors_for, rounds_apart, scales_of, steps_of
from symconv.auditing.equivariance.watch import Step, Visitor
from symconv.auditing.receptive import Receptive
from symconv.auditing.records import EquivarianceRow
from symconv.auditing.state import left_as_found
from symconv.lattice.groups import Group
from symconv.lattice.scales import Scales


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        rows: One a transform and layer; the whole model, "", first.
        culprits: The layers that break a symmetry, one sentence each.
        period: Circular shifts by multiples of this are exact, per axis; None if none is known.
    """

    rows: tuple[EquivarianceRow, ...]
    culprits: tuple[str, ...]
    period: tuple[int, ...] | None


def measure(
    call: Call, group: Group | str | None = None, receptive: Receptive | None = None
) -> Measured:
    """Equivariance errors of every layer and of the whole model.

    For features phi of a layer and a transform g, ``||phi(g x) - g phi(x)|| / ||g phi(x)||``: over
    all units (`error`), over those whose receptive field avoids the border before and after g
    (`interior_error`), and of the layer alone, fed with g h where h is the input that it got
    (`local_error`). Measured in the model's own type: rounding is the floor, and nothing is
    copied but the features, which wait in a temporary file.

    Transforms are circular shifts along all axes of space at once, by one position, by the total
    stride, and by half a position (a Fourier shift); the elements of a group, or a mirror and a
    quarter turn; without a group a rotation by 45 degrees and a rescaling, too: by 0.5, or a step
    of the network's own scales, along which features move (what has no partner is left out). On a
    map of stride s a shift by t is one by t / s. Fractional shifts, rotations off the lattice and
    rescalings are measured on the input faded out towards the inscribed circle and without
    frequencies of a quarter cycle per pixel and above; rotations count the positions within 0.9 of
    that circle, which interpolation keeps.

    Args:
        call: The model and its input.
        group: The symmetry group; by default that of the network's own fields, if it has any.
        receptive: Receptive fields, for the interior.

    Raises:
        StructureError: The input has no space axes, or is a sequence (N, L, C).
    """
    check_axes(call)
    picture = Picture.of(call)
    n = picture.dimension
    declared = declared_group(call, n)
    survey = _surveyed(picture)
    rescaled = _rescaling(picture, declared_scales(call))
    moves = moves_for(picture.size, survey.period, group, declared, rescaled)
    interior = Interior(receptive, picture.size)
    layers, rows, period = list[Layer](), list[EquivarianceRow](), None
    wholes = list[Trace]()
    with left_as_found(call.model), torch.no_grad(), Shelf() as shelf:
        for source in ("given", "smooth"):
            mine = [m for m in moves if m.source == source]
            if not mine:
                continue
            seen = picture.seen_as(source)
            traces, whole = first_run(seen, mine, shelf)
            wholes.append(whole)
            for move in mine:
                found = moved_run(seen, move, traces, whole, interior)
                made = _rows(move, traces, whole, found, interior, picture)
                rows += made
            if source == "given":
                period = _period(seen, survey.period, whole, rows, interior)
                layers = [Layer.of(t, n) for t in traces]
        blind = _blindness(wholes, picture.dtype)
    order = {move.name: place for place, move in enumerate(moves)}
    rows.sort(key=lambda row: order[row.transform])
    asked = group is not None or declared is not None
    judged = [m for m in moves if m.source == "given" and (m.shift is not None or asked)]
    said = culprits(rows, layers, judged, period, EXACT.get(picture.dtype, 0.0))
    return Measured(tuple(rows), (*blind, *said), period)


def _rescaling(picture: Picture, scales: Scales | None) -> Move:
    """The change of size to measure: with scales the first whose pictures the model takes."""
    first, *others = factors_for(scales)
    taken = (f for f in (first, *others) if _takes(picture, f))
    return rescaling(next(taken, first) if others else first, scales)


def _takes(picture: Picture, factor: float) -> bool:
    """Whether the model takes pictures so many times as large, by tensors without numbers."""

    def resized(x: Tensor, _: Layout) -> Tensor:
        space = [round(size * factor) for size in picture.size]
        return x.new_empty((*x.shape[: x.ndim - len(space)], *space))

    try:
        with left_as_found(picture.call.model), torch.no_grad(), fake(picture.call) as call:
            Picture(call, picture.size, picture.field).moved(resized).run()
    except Exception:  # whatever a model raises on a size that it does not take
        return False
    return True


def _blindness(wholes: Sequence[Trace], dtype: torch.dtype) -> tuple[str, ...]:
    """A warning where the outputs for two inputs agree to rounding: all is exact then."""
    if len(wholes) < 2 or not wholes[0].outputs:
        return ()
    change = 0.0
    for (a, _), (b, _) in zip(wholes[0].outputs, wholes[1].outputs, strict=True):
        one, other = a.get(), b.get()
        scale = float(one.double().norm())
        apart = float((one - other).double().norm())
        if not math.isfinite(apart):
            return ()
        change = max(change, apart / scale if scale else 0.0)
    if change > min(10 * EXACT.get(dtype, 0.0), 0.03):
        return ()
    return (
        f"the output hardly depends on the input (it changes by {change:.1g} between two inputs): "
        "what is exact for the whole model says little",
    )


# Strides


class _Survey(Visitor):
    """Total stride: the least common multiple of the strides of all features."""

    def __init__(self, size: tuple[int, ...]):
        self.size = size
        self.period = [1] * len(size)

    def after(self, step: Step) -> None:
        for _, layout in step.outputs:
            space = layout.space(len(self.size))
            for axis, stride in enumerate(layout.stride(len(self.size))):
                if space[axis] > 1:
                    self.period[axis] = math.lcm(self.period[axis], Fraction(stride).numerator)


def _surveyed(picture: Picture) -> _Survey:
    """Run the model on tensors without numbers, or where that fails on real ones."""
    for quick in (True, False):
        survey = _Survey(picture.size)
        try:
            with left_as_found(picture.call.model, guarded=not quick), torch.no_grad():
                if quick:
                    with fake(picture.call) as call:
                        outputs_of(Picture(call, picture.size), None, survey)
                else:
                    outputs_of(picture, None, survey)
            break
        except Exception:
            if not quick:
                raise
    survey.period = [p if p < s else 1 for p, s in zip(survey.period, picture.size, strict=True)]
    return survey


def _period(
    picture: Picture,
    total: Sequence[int],
    whole: Trace,
    rows: Sequence[EquivarianceRow],
    interior: Interior,
) -> tuple[int, ...] | None:
    """The smallest whole shift of each axis that is exact for the whole model, as measured.

    Exact shifts form a group, so the smallest divides the total stride if that one is exact.
    """
    known: dict[str, str | None] = {r.transform: r.verdict for r in rows if r.layer == ""}

    def exact(steps: Sequence[int]) -> bool:
        move = shift(steps)
        if move.name not in known:
            _, error, _ = moved_run(picture, move, [], whole, interior)
            full = error.full if isinstance(error, Error) else None
            rounding = isinstance(error, Error) and error.rounding
            known[move.name] = verdict(full, picture.dtype, rounding)
        return known[move.name] == "exact"

    ones = [1] * len(total)
    if exact(ones):
        return tuple(ones)
    if max(total) == 1 or not exact(total):
        return None
    period = list(total)
    if len(set(total)) == 1:  # all axes at once first: they usually agree
        period = _smallest(period, range(len(total)), exact)
    for axis in range(len(total)):
        period = _smallest(period, [axis], exact)
    return tuple(period)


def _smallest(period: list[int], axes: Sequence[int], exact) -> list[int]:
    shrunk = True
    while shrunk:
        shrunk = False
        for prime in _primes(period[axes[0]]):
            less = [p // prime if a in axes else p for a, p in enumerate(period)]
            if exact(less):
                period, shrunk = less, True
                break
    return period


def _primes(number: int) -> list[int]:
    return [p for p in range(2, number + 1) if number % p == 0 and all(p % q for q in range(2, p))]


# Rows

_WHOLE = "each item's map moves by a whole number of its own positions, t / s rounded down or up"


def _rows(
    move: Move,
    traces: Sequence[Trace],
    whole: Trace,
    found: tuple[list[Error | str], Error | str, str | None],
    interior: Interior,
    picture: Picture,
) -> list[EquivarianceRow]:
    errors, total, classes = found
    by_name: dict[str, list[int]] = {}
    for place, trace in enumerate(traces):
        by_name.setdefault(trace.name, []).append(place)
    rows = []
    own = [traces[i].local[move.name] for i in by_name.pop("", [])]
    notes = [picture.note, classes, _unusual(move, picture.dimension), _unmoved(move, traces)]
    notes.append(_along(move, traces, picture.size))
    rows.append(_row(move, "", [total], own, notes, interior, picture))
    for name, places in by_name.items():
        local = [traces[i].local[move.name] for i in places]
        mine = [errors[i] for i in places]
        rows.append(_row(move, name, mine, local, [], interior, picture))
    return rows


def _unmoved(move: Move, traces: Sequence[Trace]) -> str | None:
    """What is assumed of a network without fields."""
    layouts = [layout for trace in traces for layout in trace.inputs]
    if move.element is None or all(layout.field is not None for layout in layouts):
        return None
    return "channels of layers without a field are taken to stay where they are"


def _along(move: Move, traces: Sequence[Trace], size: Sequence[int]) -> str | None:
    """How features over scales move."""
    fields = [layout.field for trace in traces for _, layout in trace.outputs]
    scales = next((found for f in fields if (found := scales_of(f)) is not None), None)
    if scales is None or move.factor is None or not (steps := steps_of(scales, move.factor)):
        return None
    by = f"{abs(steps)} scale{'s' if abs(steps) > 1 else ''}"
    said = f"features over {scales} move by {by}, and those without a partner there are left out"
    apart = [n for n in dict.fromkeys(size) if rounds_apart(scales, move.factor, n)]
    if apart:
        sizes = ", ".join(map(str, apart))
        said += f"; of {sizes} positions the scales' grids round otherwise, which adds to the error"
    return said


def _unusual(move: Move, dimension: int) -> str | None:
    if move.source == "given":
        return None
    edge = {1: "both ends", 2: "the inscribed circle"}.get(dimension, "the inscribed ball")
    within = "; positions within 0.9 of that circle" if move.keeps else ""
    return f"input below a quarter cycle per pixel, faded out towards {edge}{within}"


def _row(
    move: Move,
    name: str,
    errors: Sequence[Error | str],
    local: Sequence[Error | str],
    notes: Sequence[str | None],
    interior: Interior,
    picture: Picture,
) -> EquivarianceRow:
    end, alone = _merged(errors), _merged(local)
    said = [note for note in notes if note]
    said += [why for why in (end, alone) if isinstance(why, str)]
    if isinstance(end, Error) and end.full is None:
        said.append("values that are not finite")
    if isinstance(end, Error) and end.whole and (end.full or 0.0) <= EXACT.get(picture.dtype, 0.0):
        said.append(_WHOLE)
    inside = end.interior if isinstance(end, Error) else None
    smallest = None
    if inside is None and isinstance(end, Error):
        why = interior.why_none(name)
        smallest = None if why else interior.smallest(name, move)
        if name == "" and why:
            said.append(f"no interior: {why}")
    judge = end if name == "" else alone
    judge = judge if isinstance(judge, Error) else end
    full, rounding = (judge.full, judge.rounding) if isinstance(judge, Error) else (None, False)
    return EquivarianceRow(
        move.name,
        name,
        end.full if isinstance(end, Error) else None,
        inside,
        alone.full if isinstance(alone, Error) else None,
        verdict(full, picture.dtype, rounding) if full is not None or rounding else None,
        "; ".join(dict.fromkeys(said)) or None,
        smallest,
    )


def _merged(found: Sequence[Error | str]) -> Error | str | None:
    """The worst of several calls; a reason where none was measured."""
    known = [e for e in found if isinstance(e, Error)]
    if known:
        return worst(known)
    return next((why for why in found if isinstance(why, str)), None)
