"""Downsampling behind a small low-pass filter, so that little is aliased."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice.windows import Size, per_axis

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}
_MODES["circular"] = "circular"


class _BlurPool(nn.Module):
    r"""Subsampling of blurred features, channel by channel.

        y[n, c, l] = sum over taps t of  w[t] x[n, c, s l + t - (k - 1) // 2]

    with binomial weights w[t] = prod over axes of C(k - 1, t) / 2^(k - 1): k = 2 is the box,
    3 the triangle, 5 the smoother filter of the paper. Less is aliased, not nothing: shift
    equivariance is *approximate* (`PolyphasePool` is exact). Put it where a stride was, after the
    activation: ``MaxPool2d(2, stride=1)`` and then this, or a convolution of stride 1, ReLU, and
    then this.

    Shapes: input (N, C, \*S), any C; output (N, C, \*out) with out = ceil(S / s). It commutes with
    shifts by multiples of s when padding is circular and S a multiple of s. Constants are
    kept, but for a border of zeros. Weights are whole multiples of powers of two.

    Args:
        kernel_size: k, an integer or one per axis.
        stride: s, an integer or one per axis.
        padding_mode: "reflect", "replicate", "circular" or "zeros": what lies beyond the border.

    Raises:
        StructureError: A number is out of range, the mode is unknown, or (when called) the input
            has other axes or is too small to be continued by its mirror image or its other side.

    Example:
        >>> pool = BlurPool1d(kernel_size=3, stride=2)
        >>> pool
        BlurPool1d(kernel_size=3, stride=2)
        >>> pool(torch.tensor([[[0.0, 4.0, 0.0, 0.0]]]))
        tensor([[[2., 1.]]])

    References:
        R. Zhang, Making convolutional networks shift-invariant again (2019), section 3.
    """

    dimension: ClassVar[int]
    taps: Tensor

    def __init__(self, kernel_size: Size = 3, stride: Size = 2, padding_mode: str = "reflect"):
        super().__init__()
        if padding_mode not in _MODES:
            raise StructureError(f"padding_mode among {', '.join(_MODES)}", repr(padding_mode))
        self.kernel_size = per_axis(kernel_size, self.dimension, "kernel_size")
        self.stride = per_axis(stride, self.dimension, "stride")
        self.padding_mode = padding_mode
        weights = torch.ones(())
        for k in self.kernel_size:
            row = torch.tensor([math.comb(k - 1, t) / 2 ** (k - 1) for t in range(k)])
            weights = weights[..., None] * row
        self.register_buffer("taps", weights[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The blurred and subsampled map (N, C, *out)."""
        if x.ndim != self.dimension + 2:
            space = ", ".join("DHW"[-self.dimension :])
            raise StructureError(f"an input (N, C, {space})", f"shape {tuple(x.shape)}")
        channels = x.shape[1]
        taps = self.taps.to(x.dtype).expand(channels, *self.taps.shape[1:])
        return _CONV[self.dimension](self._continued(x), taps, None, self.stride, groups=channels)

    def _continued(self, x: Tensor) -> Tensor:
        """The input with what lies beyond its border."""
        least = {"reflect": 1, "circular": 0}.get(self.padding_mode)
        reach = [k // 2 for k in self.kernel_size]
        if least is not None and any(
            size < after + least for size, after in zip(x.shape[2:], reach, strict=True)
        ):
            raise StructureError(
                f"a map of at least {tuple(after + least for after in reach)} positions",
                tuple(x.shape[2:]),
                'take padding_mode="replicate" or a smaller kernel_size',
            )
        sides = [side for k in reversed(self.kernel_size) for side in ((k - 1) // 2, k // 2)]
        return F.pad(x, sides, _MODES[self.padding_mode])

    def extra_repr(self) -> str:
        """The constructor's arguments; `padding_mode` is left out at its default."""
        text = f"kernel_size={short(self.kernel_size)}, stride={short(self.stride)}"
        mode = self.padding_mode
        return text + (f", padding_mode={mode!r}" if mode != "reflect" else "")


def short(values: tuple[int, ...]) -> str:
    """Equal entries as one of them."""
    return repr(values[0] if len(set(values)) == 1 else values)


class BlurPool1d(_BlurPool):
    """Blurred subsampling over one axis of space; documented at its base class."""

    dimension = 1


class BlurPool2d(_BlurPool):
    """Blurred subsampling over two axes of space."""

    dimension = 2


class BlurPool3d(_BlurPool):
    """Blurred subsampling over three axes of space."""

    dimension = 3


for _layer in (BlurPool1d, BlurPool2d, BlurPool3d):
    _layer.__doc__ = _BlurPool.__doc__
