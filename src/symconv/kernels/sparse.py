r"""Sparse product with a constant fan-in: each output sees k chosen inputs.

    y[b, o] = bias[o] + sum over j < k of  x[b, connections[o, j]] * W[o, j]

Three operators closed under differentiation, as in `symconv.kernels.local`: the output, the
gradient to the input (its adjoint in x) and the gradient to the weight. What runs is chosen by
`symconv.kernels.path`.

Shapes: x (B, m); W and connections (n, k); bias (n,) or None; y (B, n).
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

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
    if not workspace.eager(x, weight, connections, bias):
        workspace.refuse_tangents(x, weight, bias)
        return _forward(x, weight, connections, bias)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    ):
        return _Product.apply(x, weight, connections, bias)
    return _compute(x, weight, connections, bias)


def _kernels(x: Tensor) -> ModuleType:
    path = choose(x)
    if path == "triton":
        from symconv.kernels.triton import sparse as triton  # an optional dependency

        return triton
    return native if path == "native" else plain


def _compute(x, weight, connections, bias):
    if workspace.empty(x, weight):
        y = x.new_zeros(x.shape[0], weight.shape[0])
        return y if bias is None else y.add_(bias)
    kernels = _kernels(x)
    if kernels is native:
        return native.forward(x, weight, connections, bias)
    y = kernels.forward(x, weight, connections)
    return y if bias is None else y.add_(bias)


def _compute_adjoint(y, weight, connections, inputs):
    if workspace.empty(y, weight):
        return y.new_zeros(y.shape[0], inputs)
    return _kernels(y).adjoint(y, weight, connections, inputs)


def _compute_weight_gradient(x, y, connections):
    if workspace.empty(x, y, connections):
        return x.new_zeros(connections.shape)
    return _kernels(x).weight_gradient(x, y, connections)


def _operator(name: str, compute: Callable[..., Tensor], arguments: str) -> Any:
    schema = f"({arguments}) -> Tensor"
    return torch.library.custom_op(f"symconv::{name}", compute, mutates_args=(), schema=schema)


_forward = _operator(
    "sparse_forward", _compute, "Tensor x, Tensor weight, Tensor connections, Tensor? bias"
)
_adjoint = _operator(
    "sparse_adjoint",
    _compute_adjoint,
    "Tensor y, Tensor weight, Tensor connections, SymInt inputs",
)
_weight_gradient = _operator(
    "sparse_weight_gradient",
    _compute_weight_gradient,
    "Tensor x, Tensor y, Tensor connections",
)


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


def _gradients(ctx, gradient, adjoint, weight_gradient):
    x, weight, connections = ctx.saved_tensors
    to_x, to_weight, _, to_bias = ctx.needs_input_grad
    # First the larger result: the scratch of the other then counts beside it as in use at a time,
    # and the next step finds memory for both kept.
    gradient_to_weight = weight_gradient(x, gradient, connections) if to_weight else None
    return (
        adjoint(gradient, weight, connections, x.shape[1]) if to_x else None,
        gradient_to_weight,
        None,
        gradient.sum(0) if to_bias else None,
    )


def _backward_forward(ctx, gradient):
    return _gradients(ctx, gradient, _adjoint, _weight_gradient)


class _Product(torch.autograd.Function):
    """`_forward` in eager PyTorch, without the dispatcher's detours."""

    @staticmethod
    def forward(ctx, x, weight, connections, bias):
        ctx.save_for_backward(x, weight, connections)
        return _compute(x, weight, connections, bias)

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled() or not workspace.eager(gradient):
            return _backward_forward(ctx, gradient)
        return _gradients(ctx, gradient, _compute_adjoint, _compute_weight_gradient)


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
