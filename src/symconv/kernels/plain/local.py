"""Local correlation in plain torch: products of patches with filters, within a workspace.

Memory: beside the operands in channels-last layout, at most `workspace.BYTES` of patches (and of
filters, where they are gathered or grouped) is held at a time, or one patch where that is larger.
No n x m matrix and no unfolded copy of the input is built, in the forward or the backward pass.
Arguments as in `symconv.kernels.local`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from symconv.kernels import workspace
from symconv.kernels.workspace import output_size

Ints = Sequence[int]


class _Plan(NamedTuple):
    """The sizes of one call; every operator walks its output positions in the same chunks."""

    batch: int
    groups: int
    kernel: tuple[int, ...]
    stride: Ints
    dilation: Ints
    out: tuple[int, ...]
    c: int  # input channels of a group
    o: int  # output channels of a group

    @property
    def taps(self) -> int:
        return math.prod(self.kernel) * self.c

    @classmethod
    def of(cls, batch: int, out: Ints, weight: Ints, stride: Ints, dilation: Ints, groups: int):
        *kernel, c, channels = weight[1:]
        return cls(
            batch, groups, tuple(kernel), stride, dilation, tuple(out), c, channels // groups
        )

    def chunks(self, item: int, copies_filters: bool) -> Iterator[tuple[slice, Any, slice]]:
        """(flat output positions, the box of them, batch rows), patches within the workspace."""
        entries = workspace.BYTES // item
        patch = self.groups * self.taps
        rows = max(1, min(self.batch, entries // patch))
        each = rows * patch + (patch * self.o if copies_filters else 0)
        for flat, box in workspace.boxes(self.out, max(1, entries // each)):
            for start in range(0, self.batch, rows):
                yield flat, box, slice(start, min(start + rows, self.batch))

    def window(self, x: Tensor) -> Tensor:
        """Every patch of channels-last x as a view: (B, *out, *kernel, groups, C / groups)."""
        batch, *space, channel = x.stride()
        steps = [s * step for s, step in zip(space, self.stride, strict=True)]
        taps = [s * step for s, step in zip(space, self.dilation, strict=True)]
        shape = (self.batch, *self.out, *self.kernel, self.groups, self.c)
        return x.as_strided(shape, (batch, *steps, *taps, self.c * channel, channel))

    def patches(self, view: Tensor, box: tuple[slice, ...], rows: slice) -> Tensor:
        """The patches of a box, copied: (positions * groups, rows, taps)."""
        n = len(self.out)
        part = view[(rows, *box)]
        axes = (*range(1, n + 1), 2 * n + 1, 0, *range(n + 1, 2 * n + 1), 2 * n + 2)
        return part.permute(axes).reshape(-1, rows.stop - rows.start, self.taps)

    def outputs(self, y: Tensor, flat: slice, rows: slice) -> Tensor:
        """Entries of y (B, O, L) at some positions, copied: (positions * groups, rows, o)."""
        part = y[rows, :, flat].unflatten(1, (self.groups, self.o))
        return part.permute(3, 1, 0, 2).reshape(-1, rows.stop - rows.start, self.o)

    def filters(self, weight: Tensor, labels: Tensor | None, flat: slice) -> Tensor:
        """The filters of some positions: (positions * groups, taps, o); a view if it can be."""
        part = weight[flat] if labels is None else weight[labels[flat]]
        part = part.reshape(-1, self.taps, self.groups, self.o)
        return part.transpose(1, 2).reshape(-1, self.taps, self.o)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous()


def forward(x, weight, bias, labels, stride, padding, dilation, groups) -> Tensor:
    """The output (B, O, *out)."""
    out = output_size(x.shape[2:], weight.shape[1:-2], stride, padding, dilation)
    y = x.new_empty(x.shape[0], weight.shape[-1], *out)
    plan = _Plan.of(len(x), out, weight.shape, stride, dilation, groups)
    view, flat_y = plan.window(_channels_last(padded(x, padding))), y.flatten(2)
    for flat, box, rows in plan.chunks(x.element_size(), labels is not None or groups > 1):
        part = plan.patches(view, box, rows) @ plan.filters(weight, labels, flat)
        part = part.view(-1, groups, rows.stop - rows.start, plan.o)
        flat_y[rows, :, flat].unflatten(1, (groups, plan.o)).copy_(part.permute(2, 1, 3, 0))
    return y if bias is None else y.add_(bias)


def adjoint(y, weight, labels, input_size, stride, padding, dilation, groups) -> Tensor:
    """The gradient to the input (B, C, *input_size)."""
    channels = weight.shape[-2] * groups
    dtype = workspace.accumulator(y.dtype)
    size = [s + sum(pair) for s, pair in zip(input_size, _pairs(padding), strict=True)]
    x = y.new_zeros(y.shape[0], *size, channels, dtype=dtype)
    plan = _Plan.of(len(y), y.shape[2:], weight.shape, stride, dilation, groups)
    view, flat_y = plan.window(x), y.flatten(2)
    for flat, box, rows in plan.chunks(x.element_size(), labels is not None or groups > 1):
        part = plan.outputs(flat_y, flat, rows) @ plan.filters(weight, labels, flat).mT
        _add_patches(view[(rows, *box)], part, plan)
    x = cropped(x.movedim(-1, 1), padding, input_size)
    return x.to(y.dtype, memory_format=torch.contiguous_format, copy=True)


def _add_patches(view: Tensor, part: Tensor, plan: _Plan) -> None:
    # Patches overlap, so they are added tap by tap: within one tap each position occurs once.
    n = len(plan.out)
    rows, *box = view.shape[: n + 1]
    part = part.view(*box, plan.groups, rows, *plan.kernel, plan.c)
    part = part.permute(n + 1, *range(n), *range(n + 2, 2 * n + 2), n, 2 * n + 2)
    for tap in itertools.product(*map(range, plan.kernel)):
        at = (slice(None),) * (n + 1) + tap
        view[at].add_(part[at])


def weight_gradient(x, y, labels, weight_shape, stride, padding, dilation, groups) -> Tensor:
    """The gradient to the weight."""
    plan = _Plan.of(len(x), y.shape[2:], weight_shape, stride, dilation, groups)
    x = padded(x, padding)
    view, flat_y = plan.window(_channels_last(x)), y.flatten(2)
    if labels is None and groups == 1:
        gradient = x.new_empty(weight_shape)
        by_filter = gradient.view(-1, plan.taps, plan.o)
        for flat, box, rows in plan.chunks(x.element_size(), False):
            patches, part = plan.patches(view, box, rows).mT, plan.outputs(flat_y, flat, rows)
            torch.baddbmm(
                by_filter[flat], patches, part, beta=float(rows.start > 0), out=by_filter[flat]
            )
        return gradient
    # In single precision where positions share a filter: many terms meet in one entry.
    gradient = x.new_zeros(weight_shape, dtype=workspace.accumulator(x.dtype))
    by_filter = gradient.view(-1, plan.taps, groups, plan.o)
    for flat, box, rows in plan.chunks(gradient.element_size(), True):
        part = plan.patches(view, box, rows).mT @ plan.outputs(flat_y, flat, rows)
        part = part.view(-1, groups, plan.taps, plan.o).transpose(1, 2).to(gradient.dtype)
        if labels is None:
            by_filter[flat] += part
        else:
            by_filter.index_add_(0, labels[flat], part)
    return gradient.to(x.dtype)


def _pairs(padding: Ints) -> list[tuple[int, int]]:
    return list(zip(padding[::2], padding[1::2], strict=True))


def padded(x: Tensor, padding: Ints) -> Tensor:
    """The input with zeros around it."""
    if not any(padding):
        return x
    return F.pad(x, [amount for pair in reversed(_pairs(padding)) for amount in pair])


def cropped(x: Tensor, padding: Ints, size: Ints) -> Tensor:
    """What lies within the padding, as a view."""
    for axis, (extent, (before, _)) in enumerate(zip(size, _pairs(padding), strict=True), 2):
        x = x.narrow(axis, before, extent)
    return x


# For graphs that are exported: one product per tap, no unfolded copy.


def _taps(weight: Tensor, labels: Tensor | None, groups: int) -> Iterator[tuple[Any, Tensor]]:
    for tap in itertools.product(*(range(k) for k in weight.shape[1:-2])):
        part = weight[(slice(None), *tap)]
        part = part if labels is None else part[labels]
        yield tap, part.unflatten(-1, (groups, -1))


def exported_forward(x, weight, bias, labels, stride, padding, dilation, groups) -> Tensor:
    """`forward` in operators that every runtime has."""
    out = output_size(x.shape[2:], weight.shape[1:-2], stride, padding, dilation)
    x = padded(x, padding)
    terms = []
    for tap, part in _taps(weight, labels, groups):
        seen = x
        for axis, (t, d, s, o) in enumerate(zip(tap, dilation, stride, out, strict=True), 2):
            seen = seen.narrow(axis, d * t, s * (o - 1) + 1)
            seen = seen[(slice(None),) * axis + (slice(None, None, s),)]
        seen = seen.flatten(2).unflatten(1, (groups, -1))
        terms.append(torch.einsum("bgcl,lcgo->bgol", seen, part))
    y = sum(terms[1:], terms[0]).flatten(1, 2).unflatten(2, out)
    return y if bias is None else y + bias


def exported_adjoint(y, weight, labels, input_size, stride, padding, dilation, groups) -> Tensor:
    """`adjoint` in operators that every runtime has."""
    out, size = y.shape[2:], input_size
    input_size = [s + sum(pair) for s, pair in zip(size, _pairs(padding), strict=True)]
    terms = []
    y = y.flatten(2).unflatten(1, (groups, -1))
    for tap, part in _taps(weight, labels, groups):
        term = torch.einsum("bgol,lcgo->bgcl", y, part).flatten(1, 2).unflatten(2, out)
        pads = []
        for axis, (t, d, s, o) in enumerate(zip(tap, dilation, stride, out, strict=True), 2):
            if s > 1:  # zeros between neighbours, by one more axis
                term = F.pad(term.unsqueeze(axis + 1), [0, 0] * (len(out) + 1 - axis) + [0, s - 1])
                term = term.flatten(axis, axis + 1).narrow(axis, 0, s * (o - 1) + 1)
            pads = [d * t, input_size[axis - 2] - d * t - s * (o - 1) - 1, *pads]
        terms.append(F.pad(term, pads))
    return cropped(sum(terms[1:], terms[0]), padding, size)
