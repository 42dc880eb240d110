"""The receptive fields of a call: by layer, of the output, and the units that avoid the border."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from symconv.auditing.axes import check_axes
from symconv.auditing.call import Call
from symconv.auditing.counts.fake import fake
from symconv.auditing.meta import meta
from symconv.auditing.receptive.reach import NotPeriodicError, Reach, repeated
from symconv.auditing.receptive.recursion import Follow, followed, plain_attention
from symconv.auditing.receptive.seen import Digits, Everything, Seen, Tangled, Unknown
from symconv.auditing.receptive.shadow import grown
from symconv.auditing.records import ReceptiveField, Steps
from symconv.auditing.state import left_as_found


@dataclass(frozen=True)
class AxisField:
    """What a layer's output sees along one space axis of the input.

    Attributes:
        reach: Output position -> input positions, exactly; None if the axis is seen whole.
        axis: The axis of the output tensor along which this moves; None if there is no single one.
    """

    reach: Reach | None
    axis: int | None

    def interior(self, inputs: int, outputs: int) -> slice:
        """The output positions that see no position outside an input of some length."""
        inside = [j for j in range(outputs) if self._inside(j, inputs)]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)

    def _inside(self, j: int, inputs: int) -> bool:
        hull = self.reach.hull(j) if self.reach else (-1, inputs)
        return hull is None or (hull[0] >= 0 and hull[1] < inputs)

    def smallest(self) -> int | None:
        """The shortest input with an output position that sees no position outside of it."""
        if self.reach is None or self.reach.step <= 0:
            return None
        ends = []
        for r in range(self.reach.period):
            hull = self.reach.hull(r)
            if hull is None:
                return 1
            first, last = hull
            last += max(0, -(first // self.reach.step)) * self.reach.step
            ends.append(last + 1)
        return min(ends)


@dataclass(frozen=True)
class Receptive:
    """The receptive fields of one call.

    Attributes:
        by_layer: Name of a module -> the field of its output (of its last call).
        output: The field of the model's output; None if it is not known.
        unknown: What could not be followed, one sentence each.
        axes: Name of a module -> the same per space axis, exactly.
    """

    by_layer: dict[str, ReceptiveField]
    output: ReceptiveField | None
    unknown: tuple[str, ...] = ()
    axes: dict[str, tuple[AxisField, ...]] = field(default_factory=dict)

    def interior(
        self, layer: str, input_size: Sequence[int], output_size: Sequence[int]
    ) -> tuple[slice, ...] | None:
        """The output positions of a layer whose receptive field avoids the border, per space axis.

        Empty slices where there are none; None where the layer's field is not known, or whole.

        Args:
            layer: Its name; "" for the model.
            input_size: Length of the input per space axis.
            output_size: Length of the layer's output along the same axes.
        """
        found = self.axes.get(layer)
        if found is None or any(f.reach is None for f in found):
            return None
        rows = zip(found, input_size, output_size, strict=True)
        return tuple(f.interior(n, m) for f, n, m in rows)

    def smallest_interior(self, layer: str) -> tuple[int, ...] | None:
        """The smallest input size at which a unit of the layer avoids the border."""
        sizes = [f.smallest() for f in self.axes.get(layer, ())]
        return None if not sizes or None in sizes else tuple(n for n in sizes if n is not None)


def receptive_fields(call: Call) -> Receptive:
    """The receptive field of every layer with respect to the first input that has space axes.

    Space axes are those after batch and channels, or the second one of integers (tokens). The
    model runs once on shapes alone, and every operation's exact rule is applied to what its
    tensors see; where a model needs numbers it runs for real. Norms that take their statistics
    from the map see all of it. An operation without a rule makes what follows unknown; the field of
    the output alone is then measured by gradients where that is possible, which is said.

    Exact on the unbounded lattice: for convolutions, pooling, interpolation, shifts, attention
    within windows and their like, in any composition and through permutes and reshapes. Fields are
    unions over channels: where channels that were joined are parted again, and for the entries of
    an unfolded window, they are upper bounds.

    Args:
        call: The model with its arguments.

    Raises:
        ValueError: No input has space axes.
        StructureError: It is a sequence (N, L, C).

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.MaxPool2d(2))
        >>> receptive_fields(Call.of(net, torch.zeros(1, 1, 9, 9))).output
        ReceptiveField(size=(4, 4), stride=(2, 2), padding=(0, 0), holes=False, everything=False)
    """
    check_axes(call)
    index, space = spatial_input(call)
    found = None
    for shapes_of in (meta, fake):
        with (
            suppress(Exception),  # it needs numbers, or it is wrong: the real run tells
            left_as_found(call.model, guarded=False),
            plain_attention(),
            torch.no_grad(),
            shapes_of(call) as quick,
        ):
            found = _collected(followed(quick, quick.tensors()[index][1], space)[0])
            break
    if found is None:
        with left_as_found(call.model), plain_attention(), torch.no_grad():
            found = _collected(followed(call, call.tensors()[index][1], space)[0])
    if found.output is None and any("the operation" in why for why in found.unknown):
        return _with_measured(found, call, index)
    return found


def _with_measured(found: Receptive, call: Call, index: int) -> Receptive:
    """Where an operation of the model has no rule: the output's field by a shadow run."""
    shape = call.tensors()[index][1].shape
    try:
        with left_as_found(call.model), plain_attention():
            seen = grown(call, units=3, index=index, most=4 * math.prod(shape[2:]))
    except Exception:
        return found
    first, second, third = ([m.positions(k) for k in range(len(m.seen))] for m in seen)
    steps = [b[0] - a[0] if a and b else 0 for a, b in zip(first, second, strict=True)]
    regular = all(
        s > 0 and [i + s for i in a] == b and [i + s for i in b] == c
        for s, a, b, c in zip(steps, first, second, third, strict=True)
    )
    if not regular or any(mask.touches for mask in seen):
        return found
    rows = list(zip(first, steps, seen[0].unit, strict=True))
    field = ReceptiveField(
        size=tuple(a[-1] - a[0] + 1 for a, _, _ in rows),
        stride=tuple(steps),
        padding=tuple(s * unit - a[0] for a, s, unit in rows),
        holes=any(len(a) < a[-1] - a[0] + 1 for a, _, _ in rows),
    )
    note = "the output's field is measured by gradients, in the middle of the map"
    return replace(found, output=field, unknown=(*found.unknown, note))


def spatial_input(call: Call) -> tuple[int, tuple[int, ...]]:
    """Which of the tensors given has space axes, and which axes they are."""
    for index, (_, tensor) in enumerate(call.tensors()):
        space = _space(tensor)
        if space:
            return index, space
    raise ValueError("no input has space axes (a batch, channels, and more)")


def _space(tensor: Tensor) -> tuple[int, ...]:
    real = tensor.is_floating_point() or tensor.is_complex()
    return tuple(range(2 if real else 1, tensor.dim())) if tensor.dim() > 1 else ()


def _collected(follow: Follow) -> Receptive:
    axes: dict[str, tuple[AxisField, ...]] = {}
    unknown = dict(follow.remarks)
    for name, seen in follow.modules.items():
        found = [axis_field(seen, k) for k in range(len(seen.views))]
        axes_known = tuple(f for f in found if isinstance(f, AxisField))
        if len(axes_known) == len(found):
            axes[name] = axes_known
            continue
        for why in found:
            if isinstance(why, str):
                unknown.setdefault(why if name == "" else f"{name}: {why}")
    fields = {name: summary(found) for name, found in axes.items()}
    return Receptive(fields, fields.get(""), _shortened(unknown), axes)


def _shortened(sentences: Mapping[str, object]) -> tuple[str, ...]:
    """Each reason once, with the first layer that it befalls."""
    first: dict[str, str] = {}
    for sentence in sentences:
        first.setdefault(sentence.split(": ", 1)[-1], sentence)
    return tuple(first.values())


def axis_field(seen: Seen, k: int) -> AxisField | str:
    """What a tensor's positions see along one axis of the input; a string says why not."""
    view = seen.views[k]
    if isinstance(view, (Unknown, Tangled)):
        return view.why
    if isinstance(view, Everything):
        return AxisField(None, None)
    if len(view) != 1:
        return "several axes see one of the input" if view else "it sees nothing of the input"
    ((carriers, reach),) = view.items()
    places = [a for d in carriers for a, digits in enumerate(seen.axes) if d in digits]
    if places and places[0] > 1 and 1 in places:  # its channels see different positions
        return axis_field(seen.summed(1), k)
    for axis, digits in enumerate(seen.axes):
        if digits == carriers:
            return AxisField(reach, axis)
        rest = digits[len(carriers) :]
        if carriers and digits == carriers + rest and seen.carriers.isdisjoint(rest):
            return _finer(reach, rest, axis)
    return AxisField(reach, None)


def _finer(reach: Reach, rest: Digits, axis: int) -> AxisField | str:
    try:
        for digit in rest:
            reach = reach.after(repeated(digit.size))
    except NotPeriodicError as error:
        return str(error)
    return AxisField(reach, axis)


def summary(found: Sequence[AxisField]) -> ReceptiveField:
    """The figures of a field."""
    reaches = [f.reach for f in found]
    known = [r for r in reaches if r is not None]
    return ReceptiveField(
        size=tuple(r.size if r else None for r in reaches),
        stride=tuple(_whole(r.stride) if r else 0 for r in reaches),
        padding=tuple(-_first(r) if r else 0 for r in reaches),
        holes=any(r.holes for r in known),
        everything=not known,
    )


def _first(reach: Reach) -> int:
    hull = reach.hull(0)
    return hull[0] if hull else 0


def _whole(stride) -> Steps:
    return stride.numerator if stride.denominator == 1 else stride
