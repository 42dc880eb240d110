"""A window moved over space: what sizes become."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch


class Window:
    """A window moved over space: the size law, and how the operation is called in messages.

    Args:
        name: The operation.
        kernel: Taps along each axis.
        stride: Steps between windows.
        padding: Cells put before and after the space.
        dilation: Steps between taps.
        ceil_mode: May the last window reach beyond the padding?
    """

    def __init__(
        self,
        name: str,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool = False,
    ):
        self.name, self.ceil_mode = name, ceil_mode
        self.steps = tuple(kernel), tuple(stride), tuple(padding), tuple(dilation)
        steps = zip(*self.steps, strict=True)
        self.key = name, self.steps, ceil_mode
        self.keeps = all(s == 1 and 2 * p == d * (k - 1) for k, s, p, d in steps)

    def law(self, size: Any, axis: int) -> Any:
        """The size after the operation."""
        kernel, stride, padding, dilation = (amounts[axis] for amounts in self.steps)
        room = size + (2 * padding - dilation * (kernel - 1) - 1)
        if not self.ceil_mode:
            return room // stride + 1
        out = (room + stride - 1) // stride + 1
        # the last window must begin in the input or the padding before it
        return out - ((out - 1) * stride >= size + padding) * 1

    def described(self) -> str:
        """The operation with its arguments."""
        names = ("kernel", "stride", "padding", "dilation")
        told = ", ".join(f"{n} {s}" for n, s in zip(names, self.steps, strict=True))
        return f"{self.name} ({told})"


_cached = lru_cache(maxsize=1024)(Window)


def window(
    name: str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
) -> Window:
    """A `Window`, made once for the same arguments; in a compiled graph always."""
    make = Window if torch.compiler.is_compiling() else _cached
    return make(name, kernel, stride, padding, dilation, ceil_mode)
