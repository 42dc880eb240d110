"""The operators of local layers in Triton; see `symconv.kernels.triton`.

Shapes: x (B, C, *S) of any strides; weight (F, *K, C / groups, O); bias (O, *out); labels (L,) with
values below F, or None where F = L; y (B, O, *out); padding (before, after) per axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symconv.kernels.indices import kept
from symconv.kernels.triton import local_kernels as kernels
from symconv.kernels.triton.geometry import (
    PROGRAMS,
    Geometry,
    Ints,
    ceil,
    channels_fastest,
    launch,
    matrix_blocks,
    steps,
    suits_matrix,
    types,
    unfilled,
    vector_blocks,
)
from symconv.kernels.triton.index import members

WORKSPACE = 16 << 20  # bytes of partial sums, where few filters serve many positions


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """y[b, o, l] = bias[o, l] + sum over t, c of x[b, c, s l + d t - before] W[f(l), t, c, o]."""
    geometry = Geometry.of(x.shape[2:], weight.shape, stride, padding, dilation, groups)
    batch, channels = x.shape[0], weight.shape[-1]
    out, terms = geometry.out[3 - len(stride) :], geometry.taps * geometry.c
    if not (x.numel() and batch * channels * geometry.locations):
        return x.new_zeros(batch, channels, *out)
    if suits_matrix(batch, geometry):
        kernel, x, y = kernels.forward_matrix, channels_fastest(x), unfilled(x, channels, out)
        programs, blocks = matrix_blocks(batch, terms, geometry.o, x.element_size())
        programs *= geometry.locations * groups
    else:
        kernel, y = kernels.forward_vector, x.new_empty(batch, channels, *out)
        programs, blocks = vector_blocks(batch, geometry.out, terms, channels)
    bias_steps = None if bias is None else steps(bias.expand(1, channels, *out))
    launch(
        kernel, programs, y, x, weight.contiguous(), bias, labels, batch, bias_steps, steps(y),
        steps(x), geometry.size, geometry.out, **geometry.constants(), **types(x, y), **blocks,
    )  # fmt: skip
    return y.contiguous()


def adjoint(
    y: Tensor,
    weight: Tensor,
    labels: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """x[b, c, p] = sum over t, o of y[b, o, l] W[f(l), t, c, o] with s l + d t - before = p.

    Each input position gathers from the taps that see it.
    """
    geometry = Geometry.of(input_size, weight.shape, stride, padding, dilation, groups)
    batch, channels = y.shape[0], geometry.c * groups
    if not (y.numel() and math.prod(input_size) * channels):
        return y.new_zeros(batch, channels, *input_size)
    phases = geometry.phases()
    terms = math.prod(phases["COUNT"]) * geometry.o
    if suits_matrix(batch, geometry):
        kernel, y = kernels.adjoint_matrix, channels_fastest(y)
        x = unfilled(y, channels, input_size)
        programs, blocks = matrix_blocks(batch, terms, geometry.c, y.element_size())
        programs *= math.prod(input_size) * groups
    else:
        kernel, x = kernels.adjoint_vector, y.new_empty(batch, channels, *input_size)
        programs, blocks = vector_blocks(batch, geometry.size, terms, channels)
    launch(
        kernel, programs, x, y, weight.contiguous(), labels, batch, steps(x), steps(y),
        geometry.size, geometry.out, **geometry.constants(), **phases, **types(y, x), **blocks,
    )  # fmt: skip
    return x.contiguous()


def weight_gradient(
    x: Tensor,
    y: Tensor,
    labels: Tensor | None,
    weight_shape: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """dW[f, t, c, o] = sum over b and l of filter f of x[b, c, s l + d t - before] y[b, o, l]."""
    geometry = Geometry.of(x.shape[2:], weight_shape, stride, padding, dilation, groups)
    if not (x.numel() and y.numel()):
        return x.new_zeros(weight_shape)
    if labels is not None or suits_matrix(x.shape[0], geometry):
        return _matrix_gradient(x, y, labels, weight_shape, geometry)
    gradient, terms = x.new_empty(weight_shape), geometry.taps * geometry.c
    programs, blocks = vector_blocks(1, geometry.out, terms, weight_shape[-1])
    launch(
        kernels.gradient_vector, programs * ceil(terms, blocks["BK"]), gradient, x, y, x.shape[0],
        steps(x), steps(y), geometry.size, geometry.out,
        **geometry.constants(), **types(x, y), **blocks,
    )  # fmt: skip
    return gradient


def _matrix_gradient(
    x: Tensor, y: Tensor, labels: Tensor | None, weight_shape: Ints, geometry: Geometry
) -> Tensor:
    """Where few filters serve many positions, a sum is cut into parts, added up in their order."""
    batch, filters = x.shape[0], weight_shape[0]
    if batch > 1:
        x, y = channels_fastest(x), channels_fastest(y)
    shared = batch * geometry.locations // filters
    order, starts = (None, None) if labels is None else kept(labels, members, filters)
    item = x.element_size()
    programs, blocks = matrix_blocks(geometry.taps * geometry.c, shared, geometry.o, item)
    programs *= filters * geometry.groups
    room = WORKSPACE // (math.prod(weight_shape) * max(4, item))
    parts = max(1, min(ceil(PROGRAMS, programs), ceil(shared, 4 * blocks["BK"]), room))
    sums = torch.float32 if parts > 1 and item < 4 else x.dtype
    gradient = x.new_empty(parts, *weight_shape, dtype=sums)
    launch(
        kernels.gradient_matrix, programs * parts, gradient, x, y, order, starts, filters, parts,
        batch, steps(x), steps(y), geometry.size, geometry.out,
        **geometry.constants(), **types(x, y), **blocks,
    )  # fmt: skip
    return gradient[0] if parts == 1 else gradient.sum(0).to(x.dtype)
