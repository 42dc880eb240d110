"""The transpose of locally connected layers: each input position spreads a filter of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.functional import check_input, check_size, correlate_transposed, transposed_size
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn import _shared
from symconv.structure import Structure


class _LocallyConnectedTranspose(nn.Module):
    r"""Unshared transposed convolution: the adjoint of a locally connected layer.

        y[b, c, s l + d t - p] += x[b, o, l] * W[l, t, c, o]    for all l, taps t, channels o

    and a bias for each output. It is exactly the transpose of the `LocallyConnected` layer that
    has this weight, these arguments, and this layer's output as its input.

    Shapes: input (N, in_channels, \*input_size) or without N; output (N, out_channels,
    \*output_size) with output_size = (input_size - 1) s - 2 p + d (kernel_size - 1) + 1 +
    output_padding; `weight` (\*input_size, \*kernel_size, out_channels // groups, in_channels);
    `bias` (out_channels, \*output_size). Exact up to the rounding of sums. Memory beside
    the operands: see `symconv.kernels.local`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next four.
        input_size: Positions of the input: filters that are not shared fit one size only.
        stride: Step between the places where neighbouring inputs write, in output positions.
        padding: Positions cut from both ends of an output axis.
        output_padding: Positions added at the end of an output axis, less than `stride`.
        groups: Blocks of channels that see only each other.
        bias: Add a learned bias to every output?
        dilation: Step between taps, in output positions.
        padding_mode: "zeros", as in torch's transposed convolutions.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: An argument is out of range, or (when called) the input has other channels
            or another size.

    Example:
        >>> layer = LocallyConnectedTranspose2d(8, 3, kernel_size=2, input_size=16, stride=2)
        >>> layer
        LocallyConnectedTranspose2d(8, 3, kernel_size=(2, 2), input_size=(16, 16), stride=(2, 2))
        >>> layer(torch.zeros(5, 8, 16, 16)).shape
        torch.Size([5, 3, 32, 32])

    References:
        Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.5: the transpose of a
        convolution, needed to train and to decode.
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
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if padding_mode != "zeros" or isinstance(padding, str):
            got = f"padding={padding!r}, padding_mode={padding_mode!r}"
            raise StructureError('padding as integers with padding_mode "zeros"', got)
        window = kernel_size, stride, padding, dilation, groups, padding_mode
        _shared.configure(self, in_channels, out_channels, *window)
        n = self.dimension
        self.output_padding = per_axis(output_padding, n, "output_padding", 0)
        self.input_size = per_axis(input_size, n, "input_size")
        self.output_size = transposed_size(self.window, self.input_size, output_padding)
        channels = out_channels // groups, in_channels
        weight = (*self.input_size, *self.window.kernel_size, *channels)
        biases = (out_channels, *self.output_size) if bias else None
        _shared.make_parameters(self, weight, biases, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform as torch's transposed convolutions do.

        They take out_channels // groups * taps for the fan-in.
        """
        _shared.draw_uniform(self, self.out_channels // self.groups * self.window.taps)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_channels, *input_size), or without N."""
        if not isinstance(x, Tensor):
            return x.uniform(self, type(self).__name__)  # a ragged batch, of one size
        check_input(x, self.dimension, self.in_channels, "in_channels")
        check_size(x, self.input_size, "input_size")
        filters = self.weight.flatten(0, self.dimension - 1)
        size, groups = self.output_size, self.groups
        return correlate_transposed(x, filters, self.bias, self.window, size, groups)

    def structure(self, input_size: Size | None = None) -> Structure:
        """What the layer connects and shares, at its own input size."""
        size = self.output_size
        if input_size is not None:
            size = transposed_size(
                self.window, per_axis(input_size, self.dimension, "input_size"), self.output_padding
            )
        base = Structure.local(self.out_channels, self.in_channels, self.window, size, self.groups)
        return base.transpose()

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return _shared.describe(self, f"input_size={self.input_size}")


class LocallyConnectedTranspose1d(_LocallyConnectedTranspose):
    """Unshared transposed convolution over one axis of space; see its base class."""

    dimension = 1


class LocallyConnectedTranspose2d(_LocallyConnectedTranspose):
    """Unshared transposed convolution over two axes of space; see its base class."""

    dimension = 2


class LocallyConnectedTranspose3d(_LocallyConnectedTranspose):
    """Unshared transposed convolution over three axes of space; see its base class."""

    dimension = 3
