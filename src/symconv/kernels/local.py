r"""Local correlation: a window slides over the input and each output position has its own filter.

With stride s, dilation d, padding p before the axis and a filter f(l) for each output position l,

    y[b, o, l] = bias[o, l] + sum over taps t, channels c of
                 x[b, c, s l + d t - p] * W[f(l), t, c, o]

The map is bilinear in x and W, so three operators are closed under differentiation: the output,
the gradient to the input (its adjoint in x, a layer in its own right) and the gradient to the
weight. The backward of each is written with the other two, to any order.

What runs is chosen by `symconv.kernels.path`: compiled kernels (`native`), Triton, or plain torch.
Memory beside operands and results: one copy of the input and of the output in the kernels' layout
and 16 MB (compiled; copies hold the padding and bfloat16 as float32, and a batch fills whole
vectors), or two such copies and 4 MiB of patches (plain torch).

Shapes: x (B, C, \*S); W (F, \*K, C / groups, O); bias (O, \*out) or None; labels (L,) with values
below F, or None where F = L = the number of output positions; y (B, O, \*out) with
out = (S + p + q - d (K - 1) - 1) // s + 1. `padding` lists p and q, zeros before and after, axis by
axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels import workspace
from symconv.kernels.native import local as native
from symconv.kernels.path import choose
from symconv.kernels.plain import local as plain
from symconv.kernels.workspace import output_size

Ints = Sequence[int]


def local_correlation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int = 1,
) -> Tensor:
    """The local correlation of x with the filters in `weight` (see the module).

    Exact up to the rounding of sums. Differentiable to any order.
    """
    if workspace.traced_for_export():
        return plain.exported_forward(x, weight, bias, labels, stride, padding, dilation, groups)
    workspace.refuse_tangents(x, weight, bias)
    return _forward(x, weight, bias, labels, stride, padding, dilation, groups)


def local_adjoint(
    y: Tensor,
    weight: Tensor,
    labels: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int = 1,
) -> Tensor:
    """The transpose of `local_correlation`: (B, O, *out) to (B, C, *input_size)."""
    geometry = stride, padding, dilation, groups
    if workspace.traced_for_export():
        return plain.exported_adjoint(y, weight, labels, input_size, *geometry)
    workspace.refuse_tangents(y, weight)
    return _adjoint(y, weight, labels, input_size, *geometry)


def _kernels(x: Tensor) -> ModuleType:
    path = choose(x)
    if path == "triton":
        from symconv.kernels.triton import local as triton  # an optional dependency

        return triton
    return native if path == "native" else plain


def _check(x: Ints, weight: Ints, y: Ints, labels: Tensor | None, *geometry: Any) -> None:
    """Refuse shapes that do not fit each other: the kernels take it on trust."""
    *steps, groups = geometry
    filters, *kernel, c, channels = weight
    out = output_size(x[2:], kernel, *steps)
    places = filters if labels is None else labels.numel()
    got = x[0], x[1], channels % groups, places, *y
    if got != (y[0], c * groups, 0, prod(out), x[0], channels, *out):
        shapes = f"input {tuple(x)}, filters {tuple(weight)} and output {tuple(y)}"
        each = f"{places} {'filters' if labels is None else 'labels'}"
        raise StructureError(
            f"shapes of one local correlation with a filter for each of {prod(out)} positions",
            f"{shapes}, {each}, groups={groups}",
        )


_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"


@torch.library.custom_op(
    "symconv::local_forward",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, Tensor? labels, {_GEOMETRY}) -> Tensor",
)
def _forward(x, weight, bias, labels, stride, padding, dilation, groups):
    out = output_size(x.shape[2:], weight.shape[1:-2], stride, padding, dilation)
    if workspace.empty(x, weight):
        return x.new_zeros(x.shape[0], weight.shape[-1], *out)
    geometry = stride, padding, dilation, groups
    y = x.shape[0], weight.shape[-1], *out
    _check(x.shape, weight.shape, y, labels, *geometry)
    if bias is not None and bias.shape != y[1:]:
        raise StructureError(f"a bias of shape {y[1:]}", tuple(bias.shape))
    return _kernels(x).forward(x, weight, bias, labels, *geometry)


@torch.library.custom_op(
    "symconv::local_adjoint",
    mutates_args=(),
    schema=f"(Tensor y, Tensor weight, Tensor? labels, SymInt[] input_size, {_GEOMETRY}) -> Tensor",
)
def _adjoint(y, weight, labels, input_size, stride, padding, dilation, groups):
    if workspace.empty(y, weight):
        return y.new_zeros(y.shape[0], weight.shape[-2] * groups, *input_size)
    geometry = stride, padding, dilation, groups
    x = y.shape[0], weight.shape[-2] * groups, *input_size
    _check(x, weight.shape, y.shape, labels, *geometry)
    return _kernels(y).adjoint(y, weight, labels, input_size, *geometry)


@torch.library.custom_op(
    "symconv::local_weight_gradient",
    mutates_args=(),
    schema=f"(Tensor x, Tensor y, Tensor? labels, SymInt[] weight_shape, {_GEOMETRY}) -> Tensor",
)
def _weight_gradient(x, y, labels, weight_shape, stride, padding, dilation, groups):
    if workspace.empty(x, y):
        return x.new_zeros(weight_shape)
    geometry = stride, padding, dilation, groups
    _check(x.shape, weight_shape, y.shape, labels, *geometry)
    return _kernels(x).weight_gradient(x, y, labels, weight_shape, *geometry)


@_forward.register_fake
def _(x, weight, bias, labels, stride, padding, dilation, groups):
    out = output_size(x.shape[2:], weight.shape[1:-2], stride, padding, dilation)
    return x.new_empty(x.shape[0], weight.shape[-1], *out)


@_adjoint.register_fake
def _(y, weight, labels, input_size, stride, padding, dilation, groups):
    return y.new_empty(y.shape[0], weight.shape[-2] * groups, *input_size)


@_weight_gradient.register_fake
def _(x, y, labels, weight_shape, stride, padding, dilation, groups):
    return x.new_empty(weight_shape)


def _setup_forward(ctx, inputs, output) -> None:
    x, weight, _, labels, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, labels)


def _setup(ctx, inputs, output) -> None:
    first, second, labels, _, *ctx.geometry = inputs
    ctx.save_for_backward(first, second, labels)


def _backward_forward(ctx, gradient):
    x, weight, labels = ctx.saved_tensors
    to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
    size, shape, geometry = x.shape[2:], weight.shape, ctx.geometry
    return (
        _adjoint(gradient, weight, labels, size, *geometry) if to_x else None,
        _weight_gradient(x, gradient, labels, shape, *geometry) if to_weight else None,
        gradient.sum(0) if to_bias else None,
        *(None,) * 5,
    )


def _backward_adjoint(ctx, gradient):
    y, weight, labels = ctx.saved_tensors
    to_y, to_weight, *_ = ctx.needs_input_grad
    shape, geometry = weight.shape, ctx.geometry
    return (
        _forward(gradient, weight, None, labels, *geometry) if to_y else None,
        _weight_gradient(gradient, y, labels, shape, *geometry) if to_weight else None,
        *(None,) * 6,
    )


def _backward_weight_gradient(ctx, gradient):
    x, y, labels = ctx.saved_tensors
    to_x, to_y, *_ = ctx.needs_input_grad
    size, geometry = x.shape[2:], ctx.geometry
    return (
        _adjoint(y, gradient, labels, size, *geometry) if to_x else None,
        _forward(x, gradient, None, labels, *geometry) if to_y else None,
        *(None,) * 6,
    )


_forward.register_autograd(_backward_forward, setup_context=_setup_forward)
_adjoint.register_autograd(_backward_adjoint, setup_context=_setup)
_weight_gradient.register_autograd(_backward_weight_gradient, setup_context=_setup)
