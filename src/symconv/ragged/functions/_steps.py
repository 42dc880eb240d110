"""What the handlers of windowed functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH, Valid

STANDARD = {n: (BATCH, None, *range(n)) for n in (1, 2, 3)}  # (batch, channels, *space)


def each(value: Any, n: int) -> tuple[int, ...]:
    """One value for each of n axes, as torch's functions read an argument."""
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * n if len(value) == 1 else tuple(value)


def with_space(x: Any, n: int, name: str) -> Packed:
    r"""The input of a function of n-dimensional space.

    Raises:
        StructureError: It is no ragged batch (batch, channels, \*space) of n axes.
    """
    if not isinstance(x, Packed):
        raise refused(f"a ragged input of {name}", type(x).__name__, "only weights may be tensors")
    if x.layout == STANDARD[n] and x.columns == n:
        return x
    labels = x.layout[2:]
    if x.layout[:2] != (BATCH, None) or len(labels) != n or None in labels:
        axes = f"(batch, channels, {n} axes of space)"
        raise refused(
            f"{axes} for {name}", x.described(), "permute the axes, or use the other rank"
        )
    return x.numbered()


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

    def after(self, x: Packed) -> Sequence[Valid]:
        """The extents of a batch after it."""
        if self.keeps:
            return x.valid
        return x.after((self.name, self.steps, self.ceil_mode), self.law, self.described)


def with_channels(x: Any, name: str) -> Packed:
    """The input of a function that looks at channels on axis 1 and any space after it.

    Raises:
        StructureError: It is no such batch.
    """
    if not isinstance(x, Packed):
        raise refused(f"a ragged input of {name}", type(x).__name__, "only weights may be tensors")
    if x.layout[:2] != (BATCH, None) or not all(isinstance(label, int) for label in x.layout[2:]):
        axes = f"(batch, channels, *space) for {name}"
        raise refused(axes, x.described(), "permute the axes")
    return x
