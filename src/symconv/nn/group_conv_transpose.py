"""The transpose of group convolution: equivariant up-sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_input, transposed_size
from symconv.lattice.filters import Filter
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn.group_conv import _GroupConv
from symconv.structure import Structure

_PLAIN: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class _GroupConvTranspose(_GroupConv):
    r"""Transposed convolution that commutes with a point group: the adjoint of a `GroupConv`.

        y = bias + A^T x,   A the group convolution from out_field to in_field

    with the same arguments, so that it has A's free weights in A's order. It brings a strided
    layer's output back to its input's size: a kernel and stride of 2, or a kernel of 4 with
    stride 2 and padding 1, doubles every size and is centred.

    Shapes: input (N, in_field.channels, \*S), or without N; output (N, out_field.channels, \*out),
    out = (S - 1) stride - 2 padding + dilation (kernel - 1) + 1 + output_padding; `weight` (free
    weights,): for each representation of the input, then of the output, (blocks, input copies,
    output copies, orbits); `bias` (copies that can have one,). Exact, as `GroupConv` is.

    Args:
        in_field: What the channels of the input mean.
        out_field: The same for the output, over the same group.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next two.
        stride: Step between the places where neighbouring inputs write.
        padding: Positions cut from both ends of the output.
        output_padding: Positions added at the end of the output, less than `stride`; only on axes
            that the group never reverses.
        groups: Blocks of copies that see only each other.
        bias: As in `GroupConv`.
        dilation: Step between taps.
        padding_mode: "zeros", the only one there is.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: As `GroupConv`, and for `output_padding` on an axis that the group
            reverses: the output would grow at one end.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> D4 = parse("D4")
        >>> up = GroupConvTranspose2d(D4.regular(8), D4.regular(4), kernel_size=2, stride=2)
        >>> up(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 32, 16, 16])

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016); Dumoulin and Visin, A
        guide to convolution arithmetic for deep learning (2016), section 4.
    """

    def __init__(
        self,
        in_field: Field,
        out_field: Field,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool | None = None,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        nn.Module.__init__(self)
        if padding_mode != "zeros":
            raise StructureError('padding_mode "zeros" for a transpose', repr(padding_mode))
        window = Window.of(self.dimension, kernel_size, stride, padding, dilation)
        self._configure(in_field, out_field, window, groups)
        self.padding = self._entries(padding, "padding")
        self.output_padding = self._entries(output_padding, "output_padding")
        turned = in_field.group.reversed_axes
        if any(more and t for more, t in zip(self.output_padding, turned, strict=True)):
            raise StructureError(
                f"output_padding 0 on the axes that {in_field.group} reverses",
                self.output_padding,
                "choose kernel_size and padding such that kernel - 2 padding equals stride",
            )
        if any(e >= s for e, s in zip(self.output_padding, self.stride, strict=True)):
            raise StructureError(f"output_padding below stride {self.stride}", self.output_padding)
        filter_ = Filter.of(out_field, in_field, window.kernel_size, self.groups)
        self._tie(filter_, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_field.channels, *S), or without N."""
        check_input(x, self.dimension, self.in_channels, str(self.in_field))
        # sizes may be symbols, or those of a ragged batch: there the convolution checks them
        if isinstance(x, Tensor) and not torch.compiler.is_compiling():
            self.window.transposed_size(x.shape[-self.dimension :], self.output_padding)
        window = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return _TRANSPOSE[self.dimension](x, self._current_filter(), self.full_bias(), *window)

    def structure(self, input_size: Size) -> Structure:
        """What the layer connects and shares on inputs of `input_size`."""
        size = transposed_size(
            self.window, per_axis(input_size, self.dimension, "input_size"), self.output_padding
        )
        fields = self.out_field, self.in_field
        return Structure.group_conv(*fields, self.window, size, self.groups).transpose()

    def to_conv(self, input_size: Sequence[int] | int | None = None) -> nn.Module:
        """The equal plain transposed convolution of torch; `input_size` is not needed."""
        options = {"padding": self.padding, "output_padding": self.output_padding}
        return self._plain(_PLAIN[self.dimension], **options)


class GroupConvTranspose1d(_GroupConvTranspose):
    """Transposed group convolution over one axis of space."""

    __doc__ = _GroupConvTranspose.__doc__
    dimension = 1


class GroupConvTranspose2d(_GroupConvTranspose):
    """Transposed group convolution over two axes of space."""

    __doc__ = _GroupConvTranspose.__doc__
    dimension = 2


class GroupConvTranspose3d(_GroupConvTranspose):
    """Transposed group convolution over three axes of space."""

    __doc__ = _GroupConvTranspose.__doc__
    dimension = 3
