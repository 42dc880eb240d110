"""Pooling with a stride whose grid follows the content: exact for whole circular shifts."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import align, polyphase
from symconv.kernels.phase import check_phase, sampled
from symconv.lattice.windows import Size, per_axis
from symconv.nn.blur_pool import short

_POOLS: dict[str, dict[int, Any]] = {
    "max": {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d},
    "mean": {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d},
}

#: What holds for every layer on a grid of its own choice.
HOLDS = r"""
    What holds, with "circular": when the input moves by t whole positions, the output moves by a
    whole number of its own, (t + p - p') / s, where p and p' are the two phases: exactly, for
    every t. So class scores behind a global pool do not change. Each size must be a multiple of
    its stride. Where phases tie (of a constant, of stripes: they are shifts of each other, which
    is what a tie in all of the sums means in practice), the first is taken; the output is then
    right up to a whole shift of its own, which a global pool does not see. With "zeros" the
    output changes at the border, and the choice may: approximate.

    Features to be added or concatenated must lie on one grid: take `phase` once and pass it to
    every layer of that stride, and to `PolyphaseUpsample` on the way back."""


class _PolyphasePool(nn.Module):
    r"""Pooling with a stride, on the phase of the grid that holds most.

        y[n, c, l] = max (or mean) over taps t of  x[n, c, s l + t + p[n] - (k - 1) // 2]

    with the phase p of `sc.functional.polyphase`, for each item its own. With kernel_size 1 it is
    the subsampling alone. {holds}

    Shapes: input (N, C, \*S); output (N, C, \*out) with out = S / s; phase (N, n), whole numbers.

    Args:
        stride: s, an integer or one per axis.
        kernel_size: k, the window; an integer or one per axis.
        reduce: "max" or "mean" over the window.
        padding_mode: "circular", or "zeros": beyond the border lies nothing (a mean counts it
            as zeros).

    Raises:
        StructureError: A number is out of range, a name unknown, or (when called) the input has
            other axes, a size is not a multiple of its stride, or a window is larger than the map.

    Example:
        >>> x = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
        >>> pool = PolyphasePool1d(2)
        >>> pool
        PolyphasePool1d(2)
        >>> pool(x), pool(x.roll(1, -1)), pool(x.roll(2, -1))
        (tensor([[[3., 2.]]]), tensor([[[2., 3.]]]), tensor([[[2., 3.]]]))

    References:
        A. Chaman, I. Dokmanic, Truly shift-invariant convolutional neural networks (2021).
    """

    dimension: ClassVar[int]

    def __init__(
        self,
        stride: Size,
        kernel_size: Size = 1,
        reduce: str = "max",
        padding_mode: str = "circular",
    ):
        super().__init__()
        if reduce not in _POOLS:
            raise StructureError('reduce="max" or "mean"', repr(reduce))
        if padding_mode not in ("circular", "zeros"):
            raise StructureError('padding_mode "circular" or "zeros"', repr(padding_mode))
        self.stride = per_axis(stride, self.dimension, "stride")
        self.kernel_size = per_axis(kernel_size, self.dimension, "kernel_size")
        self.reduce, self.padding_mode = reduce, padding_mode

    def phase(self, x: Tensor) -> Tensor:
        """The phase (N, n) on which the pool lies, to be shared with other layers."""
        self.check_input(x)
        return polyphase(x, self.stride)

    def check_input(self, x: Tensor) -> None:
        """Axes, and sizes that are multiples of the stride where shifts are exact."""
        check_sizes(x, self.dimension, self.stride, self.padding_mode == "circular")

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """The pooled map (N, C, *out), on `phase` or, without one, on that of x."""
        self.check_input(x)
        phase = polyphase(x, self.stride) if phase is None else phase
        bare = set(self.kernel_size) == {1}
        if bare and self.padding_mode == "circular":
            check_phase(x, phase)
            return sampled(x, phase, self.stride)
        x = align(x, phase, self.padding_mode)
        if bare:
            return x[(..., *(slice(None, None, step) for step in self.stride))]
        # the last windows of each axis reach k - s positions beyond it where k > s
        sides = [(k - 1) // 2 for k in self.kernel_size]
        ends = [
            max(0, k - step - side)
            for k, step, side in zip(self.kernel_size, self.stride, sides, strict=True)
        ]
        if any(max(pair) > size for *pair, size in zip(sides, ends, x.shape[2:], strict=True)):
            raise StructureError(f"a map of at least {self.kernel_size}", tuple(x.shape[2:]))
        pads = [p for pair in zip(reversed(sides), reversed(ends), strict=True) for p in pair]
        if self.padding_mode == "circular":
            x = F.pad(x, pads, "circular")
        else:
            x = F.pad(x, pads, value=-torch.inf if self.reduce == "max" else 0.0)
        return _POOLS[self.reduce][self.dimension](x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        window, mode = self.kernel_size, self.padding_mode
        return (
            short(self.stride)
            + (f", kernel_size={short(window)}" if set(window) != {1} else "")
            + (f", reduce={self.reduce!r}" if self.reduce != "max" else "")
            + (f", padding_mode={mode!r}" if mode != "circular" else "")
        )


def check_sizes(x: Tensor, dimension: int, stride: tuple[int, ...], exact: bool) -> None:
    """Axes, and where the shifts are to be exact sizes that are multiples of the stride.

    Raises:
        StructureError: They are not.
    """
    if x.ndim != dimension + 2:
        space = ", ".join("DHW"[-dimension:])
        raise StructureError(f"an input (N, C, {space})", f"shape {tuple(x.shape)}")
    if exact and any(size % step for size, step in zip(x.shape[2:], stride, strict=True)):
        raise StructureError(
            f"sizes that are multiples of the stride {stride}",
            tuple(x.shape[2:]),
            'pad or crop the input, or take padding_mode="zeros", which is approximate',
        )


class PolyphasePool1d(_PolyphasePool):
    """Polyphase pooling over one axis of space; documented at its base class."""

    dimension = 1


class PolyphasePool2d(_PolyphasePool):
    """Polyphase pooling over two axes of space."""

    dimension = 2


class PolyphasePool3d(_PolyphasePool):
    """Polyphase pooling over three axes of space."""

    dimension = 3


_PolyphasePool.__doc__ = (_PolyphasePool.__doc__ or "").replace("{holds}", HOLDS.strip())
for _layer in (PolyphasePool1d, PolyphasePool2d, PolyphasePool3d):
    _layer.__doc__ = _PolyphasePool.__doc__
