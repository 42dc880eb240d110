"""Strided convolution whose grid follows the content: exact for whole circular shifts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import align, polyphase
from symconv.kernels.phase import check_phase, sampled
from symconv.nn.polyphase_pool import HOLDS, check_sizes

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

_DOC = r"""A strided convolution, on the phase of the grid that holds most of the input.

        y[n, :, l] = conv(x moved by -p[n])[:, l],   p the phase of `sc.functional.polyphase`

    Torch's convolution in everything else: arguments, weights and `state_dict` are those of
    `nn.Conv`, so that trained weights load into it, and at stride 1 it is the same layer. {holds}
    The phase is chosen on the input, so that no output is computed in vain: beside the
    convolution it costs one copy of the input and one pass over it.

    Circular padding must keep the output at S / s positions: E - s <= 2 padding < E on each axis,
    with E = dilation (kernel_size - 1) + 1. Without padding and with E <= s (patches) the shifts
    are circular too. Any other padding moves zeros in at the border: approximate.

    Shapes: input (N, C, \*S); output (N, O, \*out); phase (N, n).

    Raises:
        StructureError: Circular padding that does not keep the size, or (when called) an input
            with other axes or a size that is not a multiple of its stride.

    Example:
        >>> import torch
        >>> conv = PolyphaseConv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular")
        >>> x = torch.rand(4, 1, 8)
        >>> with torch.no_grad():
        ...     [bool((conv(x).sum(-1) - conv(x.roll(t, -1)).sum(-1)).abs().max() < 1e-5)
        ...      for t in (1, 2, 3)]
        [True, True, True]

    References:
        A. Chaman, I. Dokmanic, Truly shift-invariant convolutional neural networks (2021).
    """


class _Polyphase:
    """What the convolutions add to torch's."""

    def check_padding(self: Any) -> None:
        """Set the mode in which items are moved; refuse circular padding that changes the size."""
        circular, kept = self.padding_mode == "circular", True
        amounts = (0,) * len(self.stride) if isinstance(self.padding, str) else self.padding
        patches = not isinstance(self.padding, str) or self.padding == "valid"
        for k, d, s, p in zip(self.kernel_size, self.dilation, self.stride, amounts, strict=True):
            extent = d * (k - 1) + 1
            kept &= extent - s <= 2 * p < extent
            patches &= p == 0 and extent <= s
        if circular and not kept and set(self.stride) != {1}:
            raise StructureError(
                "circular padding that keeps the output at size / stride",
                f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}",
                "take padding = dilation * (kernel_size - 1) // 2",
            )
        self.shift_mode = "circular" if circular or patches else "zeros"
        self.pointwise = patches and set(self.kernel_size) == {1}

    def phase(self: Any, x: Tensor) -> Tensor:
        """The phase (N, n) on which the output lies, to be shared with other layers."""
        self.check_input(x)
        return polyphase(x, self.stride)

    def check_input(self: Any, x: Tensor) -> None:
        """Axes, and sizes that are multiples of the stride where shifts are exact."""
        check_sizes(x, len(self.stride), self.stride, self.shift_mode == "circular")

    def forward(self: Any, input: Tensor, phase: Tensor | None = None) -> Tensor:
        """The output (N, O, *out), on `phase` or, without one, on that of the input."""
        if set(self.stride) == {1}:
            return self._conv_forward(input, self.weight, self.bias)
        self.check_input(input)
        offsets = polyphase(input, self.stride) if phase is None else phase
        if self.pointwise:  # the other phases are not needed at all
            check_phase(input, offsets)
            x = sampled(input, offsets, self.stride)
            return _CONV[len(self.stride)](x, self.weight, self.bias, groups=self.groups)
        return self._conv_forward(align(input, offsets, self.shift_mode), self.weight, self.bias)


class PolyphaseConv1d(_Polyphase, nn.Conv1d):
    """Polyphase strided convolution over one axis of space."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.check_padding()


class PolyphaseConv2d(_Polyphase, nn.Conv2d):
    """Polyphase strided convolution over two axes of space."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.check_padding()


class PolyphaseConv3d(_Polyphase, nn.Conv3d):
    """Polyphase strided convolution over three axes of space."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.check_padding()


for _layer in (PolyphaseConv1d, PolyphaseConv2d, PolyphaseConv3d):
    _layer.__doc__ = _DOC.replace("{holds}", HOLDS.strip())
