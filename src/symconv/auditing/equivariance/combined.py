"""The axes of a feature made from several: sums, concatenations, products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import CHANNELS, Axis, Digit, Layout, LostError
from symconv.auditing.equivariance.operations import Operation, argument


def fits(given: Sequence[tuple[Tensor, Layout]], out: Tensor) -> bool:
    """Whether the output is as large as its inputs broadcast together."""
    try:
        return torch.broadcast_shapes(*(t.shape for t, _ in given)) == out.shape or any(
            t.shape == out.shape for t, _ in given
        )
    except RuntimeError:
        return False


def broadcast(layouts: Sequence[Layout], out: Tensor) -> Layout:
    """An elementwise operation: each axis from the input that varies along it."""
    axes, lead = list[Axis](), list[int]()
    for place in range(-out.ndim, 0):
        found = [g for g in layouts if len(g.axes) >= -place and g.shape[place] == out.shape[place]]
        if not found:
            raise LostError("shapes that do not fit")
        known = [g for g in found if g.kinds(place % len(g.axes)) & {CHANNELS, "s", "t"}]
        best = (known or found)[0]
        axes.append(best.axes[place])
        lead.append(best.lead[place])
    strides = {label: s for g in reversed(layouts) for label, s in g.strides}
    fields = [g.field for g in layouts if g.field is not None]
    sure = all(g.sure for g in layouts)
    if len({f.channels for f in fields}) > 1:
        fields, sure = [], False
    return Layout(
        tuple(axes), tuple(strides.items()), fields[0] if fields else None, sure, tuple(lead)
    )


def joined(op: Operation, known: dict[int, Layout], out: Tensor) -> Layout:
    """Concatenation: more channels, or class tokens before the positions."""
    parts = op.args[0] if op.args else op.kwargs["tensors"]
    dim = argument(op, 1, "dim", 0) % out.ndim
    layouts = [known.get(id(p)) for p in parts]
    most = max((g for g in layouts if g is not None), key=lambda g: "s" in g.kinds(dim))
    kinds = most.kinds(dim)
    if kinds <= {CHANNELS, "-"}:
        label = CHANNELS if CHANNELS in kinds else "-"
        result = most.with_axis(dim, (Digit(label, out.shape[dim]),))
        fields = [g.field if g is not None else None for g in layouts]
        if label != CHANNELS or not any(fields):
            return replace(result, sure=all(g is None or g.sure for g in layouts))
        group = next(f for f in fields if f is not None).group
        sizes = [p.shape[dim] for p in parts]
        whole = [f or group.trivial(n) for f, n in zip(fields, sizes, strict=True)]
        if any(f.group != group for f in whole):
            return replace(result, field=None, sure=False)
        return replace(result, field=sum(whole))
    before = [i for i, g in enumerate(layouts) if g is None or not g.kinds(dim) & {"s", "t"}]
    if before != list(range(len(parts) - 1)):
        raise LostError("positions joined")
    lead = sum(parts[i].shape[dim] for i in before) + most.lead[dim]
    return most.with_axis(dim, most.axes[dim], lead)


def linear(layout: Layout, out: Tensor) -> Layout:
    """The last axis, contracted with a weight."""
    axis = len(layout.axes) - 1
    size, kinds = out.shape[-1], layout.kinds(axis)
    if out.ndim != len(layout.axes):
        raise LostError("a linear layer")
    if kinds <= {CHANNELS, "-"} or CHANNELS in kinds:
        return layout.with_axis(axis, (Digit(CHANNELS, size),)).plain()
    if size == layout.shape[-1]:
        return layout.plain()  # it mixes positions
    other = layout.axis_of(CHANNELS) is not None
    return layout.with_axis(axis, (Digit("-" if other else CHANNELS, size),)).plain()


def product(a: Tensor, b: Tensor, known: dict[int, Layout], out: Tensor) -> Layout:
    """A product of matrices, of a feature with a weight or with another feature."""
    left, right = known.get(id(a)), known.get(id(b))
    if left is not None and right is None:
        if out.ndim != len(left.axes):
            raise LostError("a product with a vector")
        return linear(left, out)
    if a.ndim < 2 or b.ndim < 2:
        raise LostError("a product with a vector")
    if left is None:
        assert right is not None
        if out.ndim != len(right.axes):
            raise LostError("a product")
        order = [*range(out.ndim - 2), out.ndim - 1, out.ndim - 2]
        return linear(right.permuted(order), out.mT).permuted(order)
    assert right is not None
    batch = left if a.ndim >= b.ndim else right
    axes = [*batch.axes[:-2], left.axes[-2], right.axes[-1]]
    lead = [*batch.lead[:-2], left.lead[-2], right.lead[-1]]
    return _of_two(left, right, axes, lead)


def _of_two(left: Layout, right: Layout, axes: list[Axis], lead: Sequence[int]) -> Layout:
    """Axes from two features; a position of the second beside one of the first gets a new label."""
    strides, seen = dict(left.strides), set[tuple[str, int]]()
    for label, stride in right.strides:
        strides.setdefault(label, stride)
    for place, axis in enumerate(axes):
        digits = {(d.label, d.weight) for d in axis if d.size > 1}
        if any(label[0] in "sc" for label, _ in digits & seen):
            axes[place] = tuple(replace(d, label=_second(d.label)) for d in axis)
            for label, stride in right.strides:
                strides.setdefault(_second(label), stride)
        seen |= digits
    sure = left.sure and right.sure and left.field is None and right.field is None
    result = Layout(tuple(axes), tuple(strides.items()), None, sure, tuple(lead))
    for label, _ in right.strides:
        if result.total(_second(label)) not in (1, right.total(label)):
            raise LostError("positions within windows, beside others")
    return result


def _second(label: str) -> str:
    return f"t{label[1:]}" if label[0] == "s" else "-"


def einsum(op: Operation, known: dict[int, Layout], out: Tensor) -> Layout:
    """A contraction by letters: each letter of the output from the input that has it."""
    equation, *operands = op.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        raise LostError("einsum")
    inputs, output = equation.replace(" ", "").split("->")
    terms, letters = inputs.split(","), dict[str, tuple[Axis, int]]()
    layouts = [known.get(id(operand)) for operand in operands]
    for term, layout in zip(terms, layouts, strict=True):
        if layout is not None:
            pairs = zip(layout.axes, layout.lead, strict=True)
            letters = dict(zip(term, pairs, strict=True)) | letters
    sizes = dict(zip(output, out.shape, strict=True))
    found = [g for g in layouts if g is not None]
    channels = any(digit.label == CHANNELS for x in output if x in letters
                   for digit in letters[x][0])  # fmt: skip
    new = "-" if channels else CHANNELS
    axes = [letters[x][0] if x in letters else (Digit(new, sizes[x]),) for x in output]
    lead = [letters[x][1] if x in letters else 0 for x in output]
    return _of_two(found[0], found[-1], axes, lead)
