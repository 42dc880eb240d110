"""Convolutions: zeros in the padding are what an item alone would meet beyond its border."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.functions._steps import each, with_space
from symconv.ragged.packed import FINITE, ZERO
from symconv.ragged.window import window


def _conv(function: Callable[..., Tensor], n: int) -> Callable[..., Any]:
    name = f"conv{n}d"

    def handler(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        x = with_space(input, n, name)
        kernel = weight.shape[2:]
        steps, valid = each(stride, n), x.valid
        reach = (0,) * n if isinstance(padding, str) else each(padding, n)
        if padding != "same":
            valid = x.swept(window(name, kernel, steps, reach, each(dilation, n)))
        alone = max(kernel) == 1 and not any(reach)
        x = x.tame() if alone else x.zeroed()
        canvases = x.canvases
        if alone and max(steps) > 1 and torch.is_grad_enabled():
            # torch 2.13 writes past the end in the gradient to such filters, channels last.
            canvases = [c.contiguous() for c in canvases]
        made = [function(c, weight, bias, stride, padding, dilation, groups) for c in canvases]
        clean = alone and bias is None and x.padding == ZERO
        return x.remade(made, valid, padding=ZERO if clean else FINITE)

    return handler


def _transposed(function: Callable[..., Tensor], n: int) -> Callable[..., Any]:
    name = f"conv_transpose{n}d"

    def handler(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        x = with_space(input, n, name)
        kernel, stride, padding = tuple(weight.shape[2:]), each(stride, n), each(padding, n)
        more, dilation = each(output_padding, n), each(dilation, n)

        def law(size: Any, axis: int) -> Any:
            reach = dilation[axis] * (kernel[axis] - 1) + 1 + more[axis] - 2 * padding[axis]
            return (size - 1) * stride[axis] + reach

        def told() -> str:
            return f"{name} (kernel {kernel}, stride {stride}, padding {padding})"

        valid = x.after((name, kernel, stride, padding, more, dilation), law, told)
        x = x.zeroed()
        made = [
            function(c, weight, bias, stride, padding, more, groups, dilation) for c in x.canvases
        ]
        return x.remade(made, valid)

    return handler


def linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear map of the last axis."""
    x = input
    if not hasattr(x, "layout") or x.layout[-1] is not None:
        raise refused(
            "a last axis without padding for linear",
            x.described() if hasattr(x, "described") else type(x).__name__,
            "pool the space away first (sc.nn.SpatialPyramidPool2d), or move channels last",
        )
    x = x.tame()
    made = [torch.nn.functional.linear(c, weight, bias) for c in x.canvases]
    return x.remade(made, padding=ZERO if bias is None and x.padding == ZERO else FINITE)


CONVOLUTIONS = {
    torch.conv1d: _conv(torch.conv1d, 1),
    torch.conv2d: _conv(torch.conv2d, 2),
    torch.conv3d: _conv(torch.conv3d, 3),
    torch.conv_transpose1d: _transposed(torch.conv_transpose1d, 1),
    torch.conv_transpose2d: _transposed(torch.conv_transpose2d, 2),
    torch.conv_transpose3d: _transposed(torch.conv_transpose3d, 3),
    torch.nn.functional.linear: linear,
}
