"""The runs of a measurement: once as it is, then once under each transform."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from symconv.auditing.call import Call, tensors_of
from symconv.auditing.equivariance.errors import (
    Error,
    difference,
    nearest,
    root_mean_square,
)
from symconv.auditing.equivariance.interior import Interior
from symconv.auditing.equivariance.layout import Layout, LostError
from symconv.auditing.equivariance.moves import Move, shift
from symconv.auditing.equivariance.picture import Picture
from symconv.auditing.equivariance.watch import (
    Step,
    Visitor,
    Watch,
    replaced,
    transformed,
)
from symconv.errors import StructureError

NOT_CALLED = "it was not called"
_SMALL = 1e-3
_JOINED = "it joins scales, of which some have no partner; not measured alone"


class Shelf:
    """Tensors laid down in a temporary file, so that the features of a whole run take no memory."""

    def __enter__(self) -> Shelf:
        self.file = tempfile.TemporaryFile()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def put(self, x: Tensor) -> Kept:
        """Lay a tensor down."""
        self.file.seek(0, 2)
        place = self.file.tell()
        flat = x.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            self.file.write(_bytes(flat))
        return Kept(self, place, tuple(x.shape), x.dtype, x.device)


@dataclass(frozen=True)
class Kept:
    """A tensor on the shelf."""

    shelf: Shelf
    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def get(self) -> Tensor:
        """The tensor again."""
        x = torch.empty(self.shape, dtype=self.dtype)
        if x.numel():
            self.shelf.file.seek(self.place)
            self.shelf.file.readinto(_bytes(x))
        return x.to(self.device)


def _bytes(x: Tensor) -> Any:
    """The memory of a contiguous tensor."""
    return memoryview(x.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


@dataclass
class Trace:
    """What one step gave in the first run.

    Attributes:
        name: The layer.
        kind: Its class, or the function.
        outputs: Its outputs with their layouts.
        inputs: Strides of its inputs' positions.
        scale: Root mean square of its inputs.
        local: Name of a transform -> the error of the layer alone, or why there is none.
    """

    name: str
    kind: str
    outputs: list[tuple[Kept, Layout]]
    inputs: list[Layout]
    scale: float
    local: dict[str, Error | str] = field(default_factory=dict)


class FirstRun(Visitor):
    """Keeps the features, and measures every layer alone under each transform."""

    def __init__(self, moves: Sequence[Move], dimension: int, shelf: Shelf):
        self.moves, self.dimension, self.shelf = moves, dimension, shelf
        self.traces: list[Trace] = []
        self._versions: list[int] = []
        self._held: list[tuple[Tensor, Tensor]] = []

    def before(self, step: Step) -> None:
        """Keep what the step may overwrite."""
        self._versions = [t._version for t, _ in step.given]
        self._held = [(t, t.clone()) for t, _ in step.given] if step.writes else []

    def after(self, step: Step) -> None:
        """Keep its outputs, and measure it alone."""
        written = [t._version for t, _ in step.given] != self._versions
        scale = max(root_mean_square(t) for t, _ in step.given) if not written else 0.0
        trace = Trace(
            step.name,
            step.op.name,
            [(self.shelf.put(t), layout) for t, layout in step.outputs],
            [m.layout for _, m in step.given if m.layout is not None],
            scale,
        )
        self.traces.append(trace)
        if written and not self._held:
            trace.local = {m.name: "it writes to its input" for m in self.moves}
            return
        for move in self.moves:
            trace.local[move.name] = self._best_alone(step, trace, move)
        self._held = []

    def _best_alone(self, step: Step, trace: Trace, move: Move) -> Error | str:
        """The layer under a transform; behind a stride also under a whole shift of its own map.

        There a shift of the picture is none by whole positions, which hardly any layer commutes
        with but by chance of smoothness. It is to blame if it errs under whole shifts, too.
        """
        found = self._alone(step, move)
        if self._invents(step, trace, move, found):
            return _JOINED
        steps = whole_shift(move, trace.inputs, self.dimension)
        if steps is None or (isinstance(found, Error) and found.rounding):
            return found
        other = self._alone(step, shift(steps))
        known = [e for e in (found, other) if isinstance(e, Error) and e.full is not None]
        return min(known, key=lambda e: e.full or 0.0) if known else found

    def _invents(self, step: Step, trace: Trace, move: Move, found: Error | str) -> bool:
        """Whether an error hangs on what stands for scales that have none to come from."""
        if not isinstance(found, Error) or not found.full or not move.lacks(trace.inputs):
            return False
        if found.full <= _SMALL:  # as of layers that take what is missing for nothing
            return False
        other = self._alone(step, replace(move, fill=1.0 + 10 * trace.scale))
        apart = math.inf
        if isinstance(other, Error) and other.full is not None:
            apart = abs(other.full - found.full)
        return apart > 1e-3 * found.full

    def _alone(self, step: Step, move: Move) -> Error | str:
        originals = {id(t): copy for t, copy in self._held}

        def on(x: Tensor, layout: Layout) -> Tensor:
            with torch._C.DisableTorchFunction():
                return move.on(originals.get(id(x), x), layout, self.dimension)

        try:
            new = transformed(step, on)
            args, kwargs = replaced((step.op.args, step.op.kwargs), new)
            got = [t for _, t in tensors_of(step.op.again(*args, **kwargs))]
            del new, args, kwargs
            found = [
                _error(got[i], out, layout, move, self.dimension, None, 0.0)
                for i, (out, layout) in zip(step.places, step.outputs, strict=True)
            ]
        except LostError as error:
            return str(error)
        except Exception as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        return worst(found)


def whole_shift(
    move: Move, inputs: Sequence[Layout], dimension: int
) -> tuple[Fraction, ...] | None:
    """The next larger shift that moves all inputs by whole positions; None if the move does."""
    strides = [layout.stride(dimension) for layout in inputs if layout.has("s")]
    if not any(move.whole_steps(s) for s in strides) or move.shift is None:
        return None
    common = [
        Fraction(math.lcm(*(s.numerator for s in axis)), math.gcd(*(s.denominator for s in axis)))
        for axis in zip(*strides, strict=True)
    ]
    return tuple(math.ceil(t / s) * s for t, s in zip(move.shift, common, strict=True))


def _error(
    got: Tensor,
    plain: Tensor,
    layout: Layout,
    move: Move,
    dimension: int,
    interior: Tensor | None,
    scale: float,
) -> Error:
    with torch._C.DisableTorchFunction():
        expected = move.on(plain, layout, dimension)
        steps = move.whole_steps(layout.stride(dimension)) if layout.has("s") else []
        if got.shape != expected.shape:
            raise LostError(f"its output is {tuple(got.shape)}, {tuple(expected.shape)} expected")
        if not steps:
            del plain  # it may be large, and is not needed any more
            return difference(got, expected, layout, move, dimension, interior, scale)
        others = (shift(s).on(plain, layout, dimension) for s in steps)
        return nearest(got, expected, others, layout, move, dimension, interior, scale)


def worst(found: Sequence[Error]) -> Error:
    """The largest of several errors; None counts as the largest."""

    def larger(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return max(known) if len(known) == len(values) else None

    inside = [e.interior for e in found if e.interior is not None]
    return Error(
        larger([e.full for e in found]),
        max(inside) if inside else None,
        all(e.rounding or e.full == 0 for e in found) and any(e.rounding for e in found),
        any(e.whole for e in found),
    )


class MovedRun(Visitor):
    """Compares every feature with the transformed one of the first run."""

    def __init__(self, move: Move, traces: Sequence[Trace], dimension: int, interior: Interior):
        self.move, self.dimension, self.interior = move, dimension, interior
        self.waiting: dict[str, list[int]] = {}
        for place, trace in enumerate(traces):
            self.waiting.setdefault(trace.name, []).append(place)
        self.traces = traces
        self.errors: list[Error | str] = [NOT_CALLED] * len(traces)

    def after(self, step: Step) -> None:
        """Compare its outputs with those of the first run."""
        places = self.waiting.get(step.name)
        if places:
            place = places.pop(0)
            outputs = [t for t, _ in step.outputs]
            self.errors[place] = self.compare(self.traces[place], outputs)

    def compare(self, trace: Trace, outputs: Sequence[Tensor]) -> Error | str:
        """The error of a step's outputs."""
        if len(outputs) != len(trace.outputs):
            return "it has other outputs"
        try:
            found = [
                _error(
                    t, kept.get(), layout, self.move, self.dimension,
                    self.interior.mask(trace.name, layout, self.move, self.dimension),
                    trace.scale,
                )
                for t, (kept, layout) in zip(outputs, trace.outputs, strict=True)
            ]  # fmt: skip
        except LostError as error:
            return str(error)
        except RuntimeError as error:
            return (str(error).splitlines() or ["it fails"])[0]
        return worst(found)


def first_run(picture: Picture, moves: Sequence[Move], shelf: Shelf) -> tuple[list[Trace], Trace]:
    """Run the model as it is.

    Returns:
        The traces of its layers in order, and that of its outputs.
    """
    visitor = FirstRun(moves, picture.dimension, shelf)
    outputs, layouts = outputs_of(picture, None, visitor)
    known = [
        (shelf.put(t), layout)
        for t, layout in zip(outputs, layouts, strict=True)
        if layout is not None
    ]
    return visitor.traces, Trace("", type(picture.call.model).__name__, known, [], 0.0)


def moved_run(
    picture: Picture,
    move: Move,
    traces: Sequence[Trace],
    whole: Trace,
    interior: Interior,
) -> tuple[list[Error | str], Error | str, str | None]:
    """Run the model under a transform.

    Returns:
        The errors of its layers in order, that of its outputs, and a note on classes kept. Where
        the model fails on the transformed input (of another size, say), the reason from there on.
    """
    visitor = MovedRun(move, traces, picture.dimension, interior)
    try:
        call = picture.moved(lambda x, layout: move.on(x, layout, picture.dimension))
        outputs, layouts = outputs_of(picture, call, visitor)
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        why = f"the model fails on the transformed input: {why}"
        return [why if e == NOT_CALLED else e for e in visitor.errors], why, None
    outputs = [t for t, layout in zip(outputs, layouts, strict=True) if layout is not None]
    return visitor.errors, visitor.compare(whole, outputs), _classes(outputs, whole)


def outputs_of(
    picture: Picture, call: Call | None, visitor: Visitor
) -> tuple[list[Tensor], list[Layout | None]]:
    """Run a call (by default that of the picture as it is): its outputs, and their layouts."""
    call = picture.moved(None) if call is None else call
    torch.manual_seed(0)  # whatever is drawn is drawn alike
    with Watch(call.model, picture.size, visitor) as watch:
        output = call.run()
    found = [t for _, t in tensors_of(output) if t.is_floating_point()]
    if not found:
        raise StructureError("an output that holds real numbers", type(output).__name__)
    return found, [watch.layout_of(t) for t in found]


def _classes(outputs: Sequence[Tensor], whole: Trace) -> str | None:
    """How often the largest score stays the same (Zhang 2019), where the output is a vector."""
    if not outputs or outputs[0].ndim != 2 or not whole.outputs:
        return None
    plain = whole.outputs[0][0].get()
    if plain.shape != outputs[0].shape or plain.shape[1] < 2:
        return None
    kept = int((plain.argmax(1) == outputs[0].argmax(1)).sum())
    return f"the same class for {kept} of {len(plain)} item{'s' if len(plain) > 1 else ''}"
