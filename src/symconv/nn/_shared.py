"""What the windowed layers share: arguments, initial values, repr, torch's convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.functional import check_groups
from symconv.kernels import native
from symconv.lattice.windows import Size, Window, per_axis

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def positive(value: int, name: str) -> int:
    """`value` as a positive integer.

    Raises:
        StructureError: It is none.
    """
    return per_axis(value, 1, name)[0]


def configure(
    layer: Any,
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
    padding_mode: str,
) -> None:
    """Check the arguments that layers share with torch's and set them under torch's names.

    Raises:
        StructureError: One is out of range or they do not fit each other.
    """
    n = layer.dimension
    layer.window = Window.of(n, kernel_size, stride, padding, dilation, padding_mode)
    layer.in_channels = positive(in_channels, "in_channels")
    layer.out_channels = positive(out_channels, "out_channels")
    layer.groups = positive(groups, "groups")
    check_groups(in_channels, out_channels, groups)
    layer.kernel_size, layer.stride = layer.window.kernel_size, layer.window.stride
    layer.padding = padding if isinstance(padding, str) else per_axis(padding, n, "padding", 0)
    layer.dilation, layer.padding_mode = layer.window.dilation, padding_mode


def filter_shape(layer: Any) -> tuple[int, ...]:
    """One filter: (*kernel_size, in_channels // groups, out_channels)."""
    return (*layer.kernel_size, layer.in_channels // layer.groups, layer.out_channels)


def make_parameters(
    layer: Any, weight: tuple[int, ...], bias: tuple[int, ...] | None, **factory: Any
) -> None:
    """Register `weight` and `bias` (None where there is none) and draw their values."""
    layer.weight = nn.Parameter(native.in_large_pages(torch.empty(weight, **factory)))
    layer.register_parameter(
        "bias", None if bias is None else nn.Parameter(torch.empty(bias, **factory))
    )
    layer.reset_parameters()


def draw_uniform(layer: Any, fan_in: int) -> None:
    """Uniform in +-1 / sqrt(fan_in): what torch's layers draw for both weight and bias."""
    bound = 1 / math.sqrt(fan_in)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -bound, bound)


def describe(layer: Any, *first: str) -> str:
    """Constructor arguments that give the layer back; options at their default are left out."""
    n = layer.dimension
    parts = [str(layer.in_channels), str(layer.out_channels), f"kernel_size={layer.kernel_size}"]
    once, none = (1,) * n, (0,) * n
    defaults = {
        "stride": once,
        "padding": none,
        "output_padding": none,
        "dilation": once,
        "groups": 1,
        "padding_mode": "zeros",
    }
    options = {name: getattr(layer, name, default) for name, default in defaults.items()}
    options = [f"{k}={v!r}" for k, v in options.items() if v != defaults[k]]
    return ", ".join(
        [*parts, *first, *options, *([] if layer.bias is not None else ["bias=False"])]
    )


# Torch's convolutions


def conv_arguments(conv: nn.Module, dimension: int) -> dict[str, Any]:
    """The arguments with which our layer does what `conv` does.

    Raises:
        StructureError: It is no convolution of this dimension.
    """
    if not isinstance(conv, _CONV[dimension]):
        raise StructureError(f"a {_CONV[dimension].__name__}", type(conv).__name__)
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    arguments = {name: getattr(conv, name) for name in names.split()}
    weight: Any = conv.weight
    factory = {"device": weight.device, "dtype": weight.dtype}
    return arguments | {"bias": conv.bias is not None} | factory


def conv_filter(conv: Any) -> Tensor:
    """The filter of torch's convolution as (*kernel_size, in_channels // groups, out_channels)."""
    return conv.weight.movedim((0, 1), (-1, -2))


def start_as(layer: Any, conv: Any, bias_axis: int) -> Any:
    """Every filter of the layer becomes that of `conv`; biases vary along `bias_axis`."""
    with torch.no_grad():
        layer.weight.copy_(conv_filter(conv))
        if layer.bias is not None:
            layer.bias.movedim(bias_axis, -1).copy_(conv.bias)
    return layer.train(conv.training)


def as_conv(layer: Any, filters: Tensor, biases: Tensor | None, atol: float) -> nn.Module:
    """The convolution that a layer equals, from its filters (F, *filter) and biases (F, O).

    Raises:
        StructureError: The filters or biases differ by more than `atol`.
    """
    for name, values in (("filters", filters), ("biases", biases)):
        spread = 0.0 if values is None else float((values - values[:1]).abs().max())
        if not spread <= atol:
            raise StructureError(
                f"{name} that agree within atol={atol}",
                f"{name} that differ by {spread:.3g}",
                "only a layer that shares one filter is a convolution",
            )
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    arguments = {name: getattr(layer, name) for name in names.split()}
    factory = {"device": filters.device, "dtype": filters.dtype}
    conv = _CONV[layer.dimension](**arguments, bias=biases is not None, **factory)
    with torch.no_grad():
        conv_filter(conv).copy_(filters[0])
        if biases is not None:
            conv.bias.copy_(biases[0])
    return conv.train(layer.training)
