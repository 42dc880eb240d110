"""Locally connected layers: a window for each output, and a filter of its own for each."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from symconv.functional import check_input, check_size, correlate
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn import _shared
from symconv.structure import Structure


class _LocallyConnected(nn.Module):
    r"""Unshared convolution: the connections of a convolution, but a filter per output position.

        y[b, o, l] = bias[o, l] + sum over taps t, channels c of
                     x[b, c, s l + d t - p] * W[l, t, c, o]

    Shapes: input (N, in_channels, \*input_size) or without N; output (N, out_channels,
    \*output_size); `weight` (\*output_size, \*kernel_size, in_channels // groups, out_channels);
    `bias` (out_channels, \*output_size). Exact up to the rounding of sums. Memory beside
    the operands: see `symconv.kernels.local`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next five.
        input_size: Positions of the input: filters that are not shared fit one size only.
        stride: Step between outputs, in input positions.
        padding: Positions added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps, in input positions.
        groups: Blocks of channels that see only each other.
        bias: Add a learned bias to every output?
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: An argument is out of range, or (when called) the input has other channels
            or another size.

    Example:
        >>> layer = LocallyConnected2d(3, 8, kernel_size=3, input_size=32, padding=1)
        >>> layer
        LocallyConnected2d(3, 8, kernel_size=(3, 3), input_size=(32, 32), padding=(1, 1))
        >>> layer(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 8, 32, 32])
        >>> layer.weight.shape
        torch.Size([32, 32, 3, 3, 3, 8])

    References:
        LeCun, Generalization and network design strategies (1989); Goodfellow, Bengio, Courville,
        Deep Learning (2016), section 9.5: unshared convolution.
    """

    dimension: ClassVar[int]
    window: Window
    in_channels: int
    out_channels: int
    groups: int
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        input_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        window = kernel_size, stride, padding, dilation, groups, padding_mode
        _shared.configure(self, in_channels, out_channels, *window)
        self.input_size = per_axis(input_size, self.dimension, "input_size")
        self.output_size = self.window.output_size(self.input_size)
        weight = (*self.output_size, *_shared.filter_shape(self))
        biases = (out_channels, *self.output_size) if bias else None
        _shared.make_parameters(self, weight, biases, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in +-1 / sqrt(fan-in) as torch's convolutions do."""
        _shared.draw_uniform(self, self.in_channels // self.groups * self.window.taps)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_channels, *input_size), or without N."""
        if not isinstance(x, Tensor):
            return x.uniform(self, type(self).__name__)  # a ragged batch, of one size
        check_input(x, self.dimension, self.in_channels, "in_channels")
        check_size(x, self.input_size, "input_size")
        filters = self.weight.flatten(0, self.dimension - 1)
        return correlate(x, filters, None, self.bias, self.window, self.groups)

    def structure(self, input_size: Size | None = None) -> Structure:
        """What the layer connects and shares, at its own input size."""
        size = self.input_size if input_size is None else input_size
        return Structure.local(self.in_channels, self.out_channels, self.window, size, self.groups)

    @classmethod
    def from_conv(cls, conv: nn.Module, input_size: Size) -> Self:
        """A layer that starts as `conv` on inputs of `input_size`, its filters then untied.

        Raises:
            StructureError: `conv` is no convolution of this dimension.
        """
        layer = cls(**_shared.conv_arguments(conv, cls.dimension), input_size=input_size)
        return _shared.start_as(layer, conv, bias_axis=0)

    def to_conv(self, atol: float = 0.0) -> nn.Module:
        """The equal torch convolution, where all filters agree (those of the first position).

        Raises:
            StructureError: Filters or biases differ by more than `atol`.
        """
        filters = self.weight.detach().flatten(0, self.dimension - 1)
        biases = None if self.bias is None else self.bias.detach().flatten(1).t()
        return _shared.as_conv(self, filters, biases, atol)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return _shared.describe(self, f"input_size={self.input_size}")


class LocallyConnected1d(_LocallyConnected):
    """Unshared convolution over one axis of space; see its base class."""

    dimension = 1


class LocallyConnected2d(_LocallyConnected):
    """Unshared convolution over two axes of space; see its base class."""

    dimension = 2


class LocallyConnected3d(_LocallyConnected):
    """Unshared convolution over three axes of space; see its base class."""

    dimension = 3
