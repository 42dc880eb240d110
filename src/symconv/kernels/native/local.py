"""Local correlation by the compiled kernels; arguments as in `symconv.kernels.plain.local`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels import native
from symconv.kernels.workspace import output_size

Ints = Sequence[int]

_FORWARD, _ADJOINT, _WEIGHT_GRADIENT = range(3)


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
    """The output (B, O, *out)."""
    size, channels = x.shape[2:], weight.shape[-1]
    out = output_size(size, weight.shape[1:-2], stride, padding, dilation)
    y = native.empty(x, (x.shape[0], channels, *out))
    bias = None if bias is None else bias.contiguous()
    steps = stride, padding, dilation, groups
    numbers = _numbers(len(x), weight.shape, size, out, steps, x.stride(), y.stride())
    _run(_FORWARD, x, numbers, x, weight.contiguous(), None, bias, labels, y)
    return y


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
    """The gradient to the input (B, C, *input_size)."""
    y = y.contiguous()
    x = native.empty(y, (y.shape[0], weight.shape[-2] * groups, *input_size))
    steps = stride, padding, dilation, groups
    numbers = _numbers(len(y), weight.shape, input_size, y.shape[2:], steps, x.stride(), y.stride())
    _run(_ADJOINT, y, numbers, None, weight.contiguous(), y, None, labels, x)
    return x


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
    """The gradient to the weight."""
    y = y.contiguous()
    weight = native.empty(x, weight_shape)
    steps = stride, padding, dilation, groups
    numbers = _numbers(
        len(x), weight_shape, x.shape[2:], y.shape[2:], steps, x.stride(), y.stride()
    )
    _run(_WEIGHT_GRADIENT, x, numbers, x, None, y, None, labels, weight)
    return weight


def _numbers(
    batch: int, weight: Ints, size: Ints, out: Ints, steps: tuple, x: Ints, y: Ints
) -> list[int]:
    """The sizes in the order in which bindings.cpp reads them; x and y are strides."""
    stride, padding, dilation, groups = steps
    filters, *kernel, c, channels = weight
    rows = (size, 1), (out, 1), (kernel, 1), (stride, 1), (dilation, 1), (padding[::2], 0)
    space = [value for row, fill in rows for value in _lead(row, fill)]
    head = batch, groups, c, channels // groups, filters
    pairs = zip(padding[::2], padding[1::2], strict=True)
    reach = [s + sum(p) for s, p in zip(size, pairs, strict=True)]
    if batch * c * groups * prod(reach) >= native.MOST:
        raise StructureError(
            f"an input of fewer than {native.MOST} padded entries",
            f"size {tuple(reach)}, {batch} items",
        )
    return [*head, *space, *x[:2], *_lead(x[2:], 0), *y[:2]]


def _lead(values: Ints, fill: int) -> list[int]:
    return [fill] * (3 - len(values)) + list(values)


def _run(
    which: int,
    like: Tensor,
    numbers: list[int],
    x: Tensor | None,
    weight: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    labels: Tensor | None,
    result: Tensor,
) -> None:
    operands = x, weight, y, bias, result
    native.check(like, *operands)
    labels = None if labels is None else labels.long().contiguous()
    where = map(native.address, (*operands[:4], labels, result))
    how = which, native.SET, native.TYPES[like.dtype], numbers
    try:
        native._cpu.run_local(*how, *where, torch.get_num_threads())
    except IndexError as beyond:
        raise StructureError(f"labels in 0..{numbers[4] - 1}", str(beyond)) from None
