"""Upsampling back onto the grid from which a polyphase layer chose its phase."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import unalign
from symconv.lattice.windows import Size, per_axis
from symconv.nn.blur_pool import short

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class _PolyphaseUpsample(nn.Module):
    r"""Upsampling by whole factors that puts a map back where its phase came from.

        y[n, :, s l + p[n] + j] = x[n, :, l]     for 0 <= j < s ("nearest")
                                                 for j = 0, else 0 ("zeros")

    or linear interpolation between the cells of "nearest" ("linear"), all circular. A polyphase
    layer of stride s, layers of stride 1 and this with the same phase commute with every whole
    circular shift, exactly: the decoder of a U-Net. `PolyphasePool` on the same phase gives x
    back from "nearest" and "zeros".

    Shapes: input (N, C, \*S); phase (N, n), as the pool's `phase` gives; output (N, C, \*(s S)).

    Args:
        stride: s, an integer or one per axis.
        mode: "nearest", "zeros" or "linear".

    Raises:
        StructureError: A number is out of range, the mode is unknown, or (when called) the input
            has other axes or the phase another shape.

    Example:
        >>> import torch
        >>> from symconv.nn import PolyphasePool1d
        >>> x = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
        >>> pool, up = PolyphasePool1d(2), PolyphaseUpsample1d(2, mode="zeros")
        >>> phase = pool.phase(x)
        >>> up
        PolyphaseUpsample1d(2, mode='zeros')
        >>> up(pool(x, phase), phase)
        tensor([[[0., 3., 0., 2.]]])

    References:
        A. Chaman, I. Dokmanic, Truly shift-equivariant convolutional neural networks with
        adaptive polyphase upsampling (2021).
    """

    dimension: ClassVar[int]

    def __init__(self, stride: Size, mode: str = "nearest"):
        super().__init__()
        if mode not in ("nearest", "zeros", "linear"):
            raise StructureError('mode "nearest", "zeros" or "linear"', repr(mode))
        self.stride, self.mode = per_axis(stride, self.dimension, "stride"), mode

    def forward(self, x: Tensor, phase: Tensor) -> Tensor:
        """The larger map (N, C, *(s S)), moved back by `phase`."""
        if x.ndim != self.dimension + 2:
            space = ", ".join("DHW"[-self.dimension :])
            raise StructureError(f"an input (N, C, {space})", f"shape {tuple(x.shape)}")
        return unalign(self._enlarged(x), phase)

    def _enlarged(self, x: Tensor) -> Tensor:
        factors = tuple(map(float, self.stride))
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=factors, mode="nearest")
        if self.mode == "linear":
            y = F.pad(x, (1, 1) * self.dimension, "circular")
            mode = _LINEAR[self.dimension]
            y = F.interpolate(y, scale_factor=factors, mode=mode, align_corners=False)
            return y[(..., *(slice(step, -step) for step in self.stride))]
        size = [length * step for length, step in zip(x.shape[2:], self.stride, strict=True)]
        y = x.new_zeros(*x.shape[:2], *size)
        y[(..., *(slice(None, None, step) for step in self.stride))] = x
        return y

    def extra_repr(self) -> str:
        """The constructor's arguments; `mode` is left out at its default."""
        return short(self.stride) + (f", mode={self.mode!r}" if self.mode != "nearest" else "")


class PolyphaseUpsample1d(_PolyphaseUpsample):
    """Polyphase upsampling over one axis of space; documented at its base class."""

    dimension = 1


class PolyphaseUpsample2d(_PolyphaseUpsample):
    """Polyphase upsampling over two axes of space."""

    dimension = 2


class PolyphaseUpsample3d(_PolyphaseUpsample):
    """Polyphase upsampling over three axes of space."""

    dimension = 3


for _layer in (PolyphaseUpsample1d, PolyphaseUpsample2d, PolyphaseUpsample3d):
    _layer.__doc__ = _PolyphaseUpsample.__doc__
