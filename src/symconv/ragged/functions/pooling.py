"""Pools: the largest value ignores the padding, the mean counts cells as an item alone does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.functions._steps import each, with_space
from symconv.ragged.packed import ANY
from symconv.ragged.valid import Valid, lowered, zeroed
from symconv.ragged.window import window

_MAX: dict[int, Any] = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}
_MEAN: dict[int, Any] = {2: F.avg_pool2d, 3: F.avg_pool3d}


def _max_pool(n: int) -> Callable[..., Any]:
    name = f"max_pool{n}d"

    def handler(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        x = with_space(input, n, name)
        if return_indices:
            raise refused(
                f"{name} without return_indices",
                "return_indices=True",
                "indices count cells of one size; pool without them and upsample by a factor",
            )
        kernel, padding, dilation = each(kernel_size, n), each(padding, n), each(dilation, n)
        stride = kernel if _absent(stride) else each(stride, n)
        valid = x.swept(window(name, kernel, stride, padding, dilation, ceil_mode))
        made = [
            _MAX[n](lowered(c, v, x.layout), kernel, stride, padding, dilation, ceil_mode)
            for c, v in zip(x.canvases, x.valid, strict=True)
        ]
        return x.remade(made, valid, padding=ANY)

    return handler


def _absent(stride: Any) -> bool:
    return stride is None or (hasattr(stride, "__len__") and len(stride) == 0)


def _avg_pool(n: int) -> Callable[..., Any]:
    name = f"avg_pool{n}d"

    def handler(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        x = with_space(input, n, name)
        kernel, padding = each(kernel_size, n), each(padding, n)
        stride = kernel if _absent(stride) else each(stride, n)
        valid = x.swept(window(name, kernel, stride, padding, (1,) * n, ceil_mode))
        x = x.zeroed()
        # windows that are cut at an item's border divide by fewer cells
        cut = divisor_override is None and (ceil_mode or (not count_include_pad and any(padding)))
        divisor = 1 if cut else divisor_override
        made = []
        for canvas, before in zip(x.canvases, x.valid, strict=True):
            y = _summed(n, canvas, kernel, stride, padding, ceil_mode, divisor)
            if cut:
                for axis in range(n):
                    steps = kernel[axis], stride[axis], padding[axis]
                    y = y / _counts(before, axis, y, steps, count_include_pad)
            made.append(y)
        return x.remade(made, valid)

    return handler


def _summed(
    n: int, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, divisor: int | None
) -> Tensor:
    """The sum over each window by `divisor`; None: by all cells of the window."""
    if n == 1:  # torch's own takes no divisor
        steps = (1, *kernel), (1, *stride), (0, *padding), ceil_mode, True, divisor
        return F.avg_pool2d(x[:, :, None], *steps).squeeze(2)
    return _MEAN[n](x, kernel, stride, padding, ceil_mode, True, divisor)


def _counts(valid: Valid, axis: int, y: Tensor, window: Any, with_padding: bool) -> Tensor:
    """Cells of each window along one axis, (items, 1, ..., outputs, ..., 1): at least one."""
    kernel, stride, padding = window
    outputs = y.shape[2 + axis]
    size = valid.table[:, axis, None]
    start = torch.arange(outputs) * stride - padding
    end = torch.minimum(start + kernel, size + padding)
    if not with_padding:
        start, end = start.clamp(min=0), torch.minimum(end, size)
    shape = [len(size)] + [1] * (y.ndim - 1)
    shape[2 + axis] = outputs
    return (end - start).clamp(min=1).view(shape).to(y.device, y.dtype)


# Adaptive pools


def _bounds(valid: Valid, axis: int, cells: int, outputs: int, device: Any) -> Tensor:
    """Which cells each output sees along one axis: bool (items, outputs, cells)."""
    size = valid.table[:, axis, None].to(device)
    at = torch.arange(outputs, device=device)
    start, end = at * size // outputs, ((at + 1) * size + outputs - 1) // outputs
    here = torch.arange(cells, device=device)
    return (here >= start[..., None]) & (here < end[..., None])


def _adaptive_mean(x: Tensor, valid: Valid, size: tuple[int, ...]) -> Tensor:
    if all(s == 1 for s in size):
        counts = valid.table.prod(1).to(x.device, x.dtype)
        total = x.sum(tuple(range(2, x.ndim)), keepdim=True)
        return total / counts.view(-1, *[1] * (x.ndim - 1))
    for axis, outputs in enumerate(size):
        seen = _bounds(valid, axis, x.shape[2 + axis], outputs, x.device).to(x.dtype)
        weights = seen / seen.sum(-1, keepdim=True)
        y = x.movedim(2 + axis, -1)
        flat = y.flatten(1, -2) @ weights.transpose(1, 2)
        x = flat.view(*y.shape[:-1], outputs).movedim(-1, 2 + axis)
    return x


def _adaptive_max(x: Tensor, valid: Valid, size: tuple[int, ...]) -> Tensor:
    if all(s == 1 for s in size):
        return x.amax(tuple(range(2, x.ndim)), keepdim=True)
    low = torch.full((), -torch.inf, dtype=x.dtype, device=x.device)
    for axis, outputs in enumerate(size):
        seen = _bounds(valid, axis, x.shape[2 + axis], outputs, x.device)
        shape = [len(seen)] + [1] * (x.ndim - 1)
        shape[2 + axis] = x.shape[2 + axis]
        views = [seen[:, o].reshape(shape) for o in range(outputs)]
        x = torch.stack([torch.where(v, x, low).amax(2 + axis) for v in views], 2 + axis)
    return x


def _adaptive(n: int, mean: bool) -> Callable[..., Any]:
    name = f"adaptive_{'avg' if mean else 'max'}_pool{n}d"
    kernel: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    largest: Any = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
    function = (kernel if mean else largest)[n]

    def handler(input: Any, output_size: Any, return_indices: bool = False) -> Any:
        x = with_space(input, n, name)
        size = each(output_size, n)
        if return_indices or any(s is None for s in size):
            raise refused(
                f"{name} to a whole number on every axis, without indices",
                f"{output_size}, return_indices={return_indices}",
                "give a size for each axis",
            )
        parts = []
        for c, v in zip(x.canvases, x.valid, strict=True):
            if v.full:
                parts.append(function(c, size))
            elif mean:
                parts.append(_adaptive_mean(zeroed(c, v, x.layout), v, size))
            else:
                parts.append(_adaptive_max(lowered(c, v, x.layout), v, size))
        return x.places.join(parts, 0)

    return handler


POOLS: dict[Any, Any] = {
    torch.max_pool1d: _max_pool(1),
    torch.max_pool2d: _max_pool(2),
    torch.max_pool3d: _max_pool(3),
    F.avg_pool1d: _avg_pool(1),
    F.avg_pool2d: _avg_pool(2),
    F.avg_pool3d: _avg_pool(3),
}
for _n in (1, 2, 3):
    _pool = _max_pool(_n)
    POOLS[getattr(F, f"max_pool{_n}d")] = _pool
    for _mean in (True, False):
        _name = f"adaptive_{'avg' if _mean else 'max'}_pool{_n}d"
        POOLS[getattr(F, _name)] = _adaptive(_n, _mean)
        if hasattr(torch, _name):
            POOLS[getattr(torch, _name)] = POOLS[getattr(F, _name)]
