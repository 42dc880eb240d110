"""Small functions and layers that converted graphs call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import polyphase


class Call(nn.Module):
    """A function as a layer: a graph that is loaded from a file calls it, and does not trace it."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Tensor:
        """What the function gives."""
        return self.function(*arguments)

    def extra_repr(self) -> str:
        """The function's name."""
        return self.function.__name__


def chosen_phase(x: Tensor, stride: tuple[int, ...], exact: bool) -> Tensor:
    """The phase of x at a stride, (N, n); where shifts are to be exact, sizes must be multiples.

    Raises:
        StructureError: `exact`, and a size is no multiple of its stride.
    """
    known = exact and not torch.compiler.is_compiling() and x.device.type != "meta"
    if known and any(size % step for size, step in zip(x.shape[2:], stride, strict=True)):
        raise StructureError(
            f"maps whose sizes are multiples of the stride {stride}",
            tuple(x.shape[2:]),
            "pad or crop the input to multiples of `notes.divisor`",
        )
    return polyphase(x, stride)


def joint_phase(outer: Tensor, inner: Tensor, stride: tuple[int, ...]) -> Tensor:
    """One phase for two grids, one inside the other: outer + stride * inner."""
    return outer + inner * torch.tensor(stride, device=outer.device)


def wrapped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Circular padding by any number of cells; sides as those of `F.pad`."""
    for number in range(len(sides) // 2):
        before, after = sides[2 * number], sides[2 * number + 1]
        if before or after:
            axis = x.ndim - 1 - number
            size = x.shape[axis]
            index = torch.arange(-before, size + after, device=x.device) % size
            x = x.index_select(axis, index)
    return x


def cropped(x: Tensor, margins: Sequence[int]) -> Tensor:
    """Without `margins` cells at both ends of each axis of space."""
    for axis, margin in enumerate(margins, 2):
        x = x.narrow(axis, margin, x.shape[axis] - 2 * margin)
    return x


def dilated_mean(x: Tensor, size: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """The mean over a window whose taps are `dilation` apart; no padding."""
    for axis, (taps, step) in enumerate(zip(size, dilation, strict=True), 2):
        left = x.shape[axis] - step * (taps - 1)
        total = x.narrow(axis, 0, left)
        for tap in range(1, taps):
            total = total + x.narrow(axis, tap * step, left)
        x = total / taps
    return x


class WrappedUpsample(nn.Module):
    """Linear interpolation by whole factors, circular at the border.

    Args:
        factors: Whole factors, one per axis.
        mode: One of torch's modes.
    """

    def __init__(self, factors: tuple[int, ...], mode: str):
        super().__init__()
        self.factors, self.mode = tuple(factors), mode

    def forward(self, x: Tensor) -> Tensor:
        """The larger map."""
        margin = 2 if self.mode == "bicubic" else 1
        y = wrapped(x, (margin,) * (2 * len(self.factors)))
        y = F.interpolate(
            y, scale_factor=tuple(map(float, self.factors)), mode=self.mode, align_corners=False
        )
        return cropped(y, [margin * f for f in self.factors])

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.factors}, {self.mode!r}"
