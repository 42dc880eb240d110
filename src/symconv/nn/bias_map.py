"""A learned bias for each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.functional import check_input, check_size
from symconv.lattice.windows import Size, per_axis
from symconv.nn import _shared


class BiasMap(nn.Module):
    r"""Adds a learned bias per channel and position: y[b, c, l] = x[b, c, l] + bias[c, l].

    After a convolution it tells positions apart while the filters stay shared: n more weights
    where unshared filters need n * k, and often as good.

    Shapes: input and output (N, channels, \*size) or without N; `bias` (channels, \*size), zero at
    the start. Exact.

    Args:
        channels: Channels of the input.
        size: Positions per axis, one to three of them; an integer is one axis.
        device: Where the bias lies.
        dtype: Its type.

    Raises:
        StructureError: A size is not positive, or (when called) the input has another shape.

    Example:
        >>> layer = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), BiasMap(8, (30, 30)))
        >>> layer[1]
        BiasMap(8, size=(30, 30))
        >>> layer(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 8, 30, 30])
    """

    def __init__(
        self, channels: int, size: Size, device: Any = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        axes = len(size) if isinstance(size, Sequence) else 1
        self.channels, self.size = (
            _shared.positive(channels, "channels"),
            per_axis(size, axes, "size"),
        )
        self.bias = nn.Parameter(torch.empty(channels, *self.size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to zero: the layer starts as the identity."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus the bias, in the input's type."""
        if not isinstance(x, Tensor):
            return x.uniform(self, type(self).__name__)  # a ragged batch, of one size
        check_input(x, len(self.size), self.channels, "channels")
        check_size(x, self.size, "size")
        if not x.is_floating_point():
            raise StructureError("a floating-point input", x.dtype, "convert it with .to(dtype)")
        return x + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, size={self.size}"
