"""The compiled kernels: what they take, and how tensors are handed over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

try:
    from symconv.kernels import _cpu
except ImportError as missing:
    _cpu = None
    WHY_NOT = str(missing)
else:
    WHY_NOT = ""

Ints = Sequence[int]

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
LARGE = 1 << 20  # bytes from which a result's memory comes from the extension, which keeps some
SET = _cpu.instruction_sets()[0] if _cpu else ""


def _empty(like: Tensor, shape: Ints) -> Tensor:
    if math.prod(shape) * like.element_size() < LARGE:
        return like.new_empty(shape)
    return torch.from_dlpack(_cpu.empty(TYPES[like.dtype], list(shape)))


def _lead(values: Ints, fill: int) -> list[int]:
    return [fill] * (3 - len(values)) + list(values)


def _numbers(x_like, x_strides, y, weight_shape, size, out, stride, padding, dilation, groups):
    filters, *kernel, c, channels = weight_shape
    n = len(kernel)
    return [
        x_like, groups, c, channels // groups, filters,
        *_lead(size, 1), *_lead(out, 1), *_lead(kernel, 1), *_lead(stride, 1),
        *_lead(dilation, 1), *_lead(padding[::2], 0),
        *x_strides[:2], *_lead(x_strides[2:], 0), *y,
    ]  # fmt: skip


def _contiguous_strides(shape: Ints) -> list[int]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= extent
    return strides


def _run(which, like, numbers, x, w, y, bias, labels, result):
    def pointer(t):
        return 0 if t is None else t.data_ptr()

    _cpu.run_local(
        which, SET, TYPES[like.dtype], numbers,
        pointer(x), pointer(w), pointer(y), pointer(bias), pointer(labels), result.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def forward(x, weight, labels, stride, padding, dilation, groups, out):
    y = _empty(x, (x.shape[0], weight.shape[-1], *out))
    weight = weight.contiguous()
    ys = [weight.shape[-1] * math.prod(out), math.prod(out)]
    numbers = _numbers(len(x), x.stride(), ys, weight.shape, x.shape[2:], out, stride, padding,
                       dilation, groups)  # fmt: skip
    _run(0, x, numbers, x, weight, None, None, labels, y)
    return y


def adjoint(y, weight, labels, input_size, stride, padding, dilation, groups):
    y, weight = y.contiguous(), weight.contiguous()
    shape = (y.shape[0], weight.shape[-2] * groups, *input_size)
    x = _empty(y, shape)
    numbers = _numbers(len(y), _contiguous_strides(shape), y.stride()[:2], weight.shape, input_size,
                       y.shape[2:], stride, padding, dilation, groups)  # fmt: skip
    _run(1, y, numbers, None, weight, y, None, labels, x)
    return x


def weight_gradient(x, y, labels, weight_shape, stride, padding, dilation, groups):
    y = y.contiguous()
    w = _empty(x, weight_shape)
    numbers = _numbers(len(x), x.stride(), y.stride()[:2], weight_shape, x.shape[2:], y.shape[2:],
                       stride, padding, dilation, groups)  # fmt: skip
    _run(2, x, numbers, x, None, y, None, labels, w)
    return w
