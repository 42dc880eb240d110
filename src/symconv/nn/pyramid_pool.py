"""Spatial pyramid pooling: a map of any size becomes a vector of fixed length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice.windows import per_axis

_MAX: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
_MEAN: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_POOLS = {"max": _MAX, "mean": _MEAN}


class _SpatialPyramidPool(nn.Module):
    r"""Pools a map over grids of several finenesses, and sets the bins' values side by side.

        level L, bin i of an axis of size S:  positions floor(i S / L) to ceil((i + 1) S / L) - 1
        y = all bins of the first level, channel by channel, then those of the next

    However large the input, the output is one vector for a dense layer. Level 1 is global pooling;
    finer ones keep roughly where something was. An axis with fewer positions than bins counts some
    of them in several bins.

    Shapes: input (N, C, \*S), or a `Ragged` of N such maps of C channels, each with its own size;
    output (N, C * bins), `bins` the sum over the levels of their bins, L \*\* n for an integer L.
    Every map of a `Ragged` is divided by its own size. Exact.

    Args:
        levels: Bins of each level, along every axis, or a tuple of one number per axis.
        reduce: "max", as published, or "mean".

    Raises:
        StructureError: A level is not positive, there are none, `reduce` is unknown, or (when
            called) the input has another number of axes.

    Example:
        >>> pool = SpatialPyramidPool2d(levels=(1, 2, 4))
        >>> pool, pool.bins
        (SpatialPyramidPool2d(levels=(1, 2, 4)), 21)
        >>> [tuple(pool(torch.zeros(2, 8, h, w)).shape) for h, w in ((13, 13), (7, 30))]
        [(2, 168), (2, 168)]

    References:
        He, Zhang, Ren, Sun, Spatial pyramid pooling in deep convolutional networks for visual
        recognition (2014), section 2.2 and appendix A.
    """

    dimension: ClassVar[int]

    def __init__(self, levels: Sequence[int | Sequence[int]] = (1, 2, 4), reduce: str = "max"):
        super().__init__()
        if reduce not in _POOLS:
            raise StructureError('reduce="max" or "mean"', repr(reduce))
        if not isinstance(levels, Sequence) or not levels:
            raise StructureError("levels=(1, 2, 4) or the like", repr(levels))
        self.levels, self.reduce = tuple(levels), reduce
        self._grids = [per_axis(level, self.dimension, "level") for level in levels]

    @property
    def bins(self) -> int:
        """Bins of all levels together: the output has as many values per channel."""
        return sum(math.prod(grid) for grid in self._grids)

    def forward(self, x: Tensor) -> Tensor:
        """The vector (N, C * bins) of each map."""
        n = self.dimension
        if x.ndim != n + 2:
            space = ", ".join("DHW"[-n:])
            raise StructureError(f"an input (N, C, {space})", f"shape {tuple(x.shape)}")
        pool = _POOLS[self.reduce][n]
        return torch.cat([pool(x, grid).flatten(1) for grid in self._grids], 1)

    def extra_repr(self) -> str:
        """The constructor's arguments; `reduce` is left out at its default."""
        return f"levels={self.levels}" + (
            f", reduce={self.reduce!r}" if self.reduce != "max" else ""
        )


class SpatialPyramidPool1d(_SpatialPyramidPool):
    """Spatial pyramid pooling over one axis; see its base class."""

    dimension = 1


class SpatialPyramidPool2d(_SpatialPyramidPool):
    """Spatial pyramid pooling over two axes; see its base class."""

    dimension = 2


class SpatialPyramidPool3d(_SpatialPyramidPool):
    """Spatial pyramid pooling over three axes; see its base class."""

    dimension = 3
