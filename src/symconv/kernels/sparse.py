r"""Sparse product with a constant fan-in: each output sees k chosen inputs.

    y[b, o] = bias[o] + sum over j < k of  x[b, connections[o, j]] * W[o, j]

Three operators closed under differentiation, as in `symconv.kernels.local`: the output, the
gradient to the input (its adjoint in x) and the gradient to the weight. What runs is chosen by
`symconv.kernels.path`.

Shapes: x (B, m); W and connections (n, k); bias (n,) or None; y (B, n).
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from symconv.kernels import workspace
from symconv.kernels.native import sparse as native
from symconv.kernels.path import choose
from symconv.kernels.plain import sparse as plain


def sparse_product(
    x: Tensor, weight: Tensor, connections: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The product of x with the sparse matrix of `weight` at `connections` (see the module).

    Exact up to the rounding of sums. Differentiable to any order.
    """
    if workspace.traced_for_export():
        y = plain.exported_forward(x, weight, connections)
        return y if bias is None else y + bias
    return _forward(x, weight, connections, bias)


def _kernels(x: Tensor) -> ModuleType:
    path = choose(x)
    if path == "triton":
        from symconv.kernels.triton import sparse as triton  # an optional dependency

        return triton
    return native if path == "native" else plain


@torch.library.custom_op(
    "symconv::sparse_forward",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor connections, Tensor? bias) -> Tensor",
)
def _forward(x, weight, connections, bias):
    if workspace.empty(x, weight):
        return x.new_zeros(x.shape[0], weight.shape[0])
    y = _kernels(x).forward(x, weight, connections)
    return y if bias is None else y.add_(bias)


@torch.library.custom_op(
    "symconv::sparse_adjoint",
    mutates_args=(),
    schema="(Tensor y, Tensor weight, Tensor connections, SymInt inputs) -> Tensor",
)
def _adjoint(y, weight, connections, inputs):
    if workspace.empty(y, weight):
        return y.new_zeros(y.shape[0], inputs)
    return _kernels(y).adjoint(y, weight, connections, inputs)


@torch.library.custom_op(
    "symconv::sparse_weight_gradient",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor connections) -> Tensor",
)
def _weight_gradient(x, y, connections):
    if workspace.empty(x, y, connections):
        return x.new_zeros(connections.shape)
    return _kernels(x).weight_gradient(x, y, connections)


@_forward.register_fake
def _(x, weight, connections, bias):
    return x.new_empty(x.shape[0], weight.shape[0])


@_adjoint.register_fake
def _(y, weight, connections, inputs):
    return y.new_empty(y.shape[0], inputs)


@_weight_gradient.register_fake
def _(x, y, connections):
    return x.new_empty(connections.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward_forward(ctx, gradient):
    x, weight, connections = ctx.saved_tensors
    to_x, to_weight, _, to_bias = ctx.needs_input_grad
    return (
        _adjoint(gradient, weight, connections, x.shape[1]) if to_x else None,
        _weight_gradient(x, gradient, connections) if to_weight else None,
        None,
        gradient.sum(0) if to_bias else None,
    )


def _backward_adjoint(ctx, gradient):
    y, weight, connections = ctx.saved_tensors
    to_y, to_weight, *_ = ctx.needs_input_grad
    return (
        _forward(gradient, weight, connections, None) if to_y else None,
        _weight_gradient(gradient, y, connections) if to_weight else None,
        None,
        None,
    )


def _backward_weight_gradient(ctx, gradient):
    x, y, connections = ctx.saved_tensors
    to_x, to_y, _ = ctx.needs_input_grad
    return (
        _adjoint(y, gradient, connections, x.shape[1]) if to_x else None,
        _forward(x, gradient, connections, None) if to_y else None,
        None,
    )


_forward.register_autograd(_backward_forward, setup_context=_setup)
_adjoint.register_autograd(_backward_adjoint, setup_context=_setup)
_weight_gradient.register_autograd(_backward_weight_gradient, setup_context=_setup)
