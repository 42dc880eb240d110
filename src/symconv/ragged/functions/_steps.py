"""What the handlers of windowed functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH


def each(value: Any, n: int) -> tuple[int, ...]:
    """One value for each of n axes, as torch's functions read an argument."""
    if isinstance(value, Sequence) or hasattr(value, "__len__"):
        return tuple(value) * n if len(value) == 1 else tuple(value)
    return (value,) * n


def with_space(x: Any, n: int, name: str) -> Packed:
    """The input of a function of n-dimensional space.

    Raises:
        StructureError: It is no ragged batch (batch, channels, \\*space) of n axes.
    """
    if not isinstance(x, Packed):
        raise refused(f"a ragged input of {name}", type(x).__name__, "only weights may be tensors")
    labels = x.layout[2:]
    if x.layout[:2] != (BATCH, None) or len(labels) != n or None in labels:
        axes = f"(batch, channels, {n} axes of space)"
        raise refused(
            f"{axes} for {name}", x.described(), "permute the axes, or use the other rank"
        )
    return x.numbered()


def out_size(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Callable[[Any, int], Any]:
    """The size after a window has been moved over an axis, padded on both sides by `padding`."""

    def law(size: Any, axis: int) -> Any:
        step, pad = stride[axis], padding[axis]
        room = size + (2 * pad - dilation[axis] * (kernel[axis] - 1) - 1)
        if not ceil_mode:
            return room // step + 1
        out = (room + step - 1) // step + 1
        # the last window must begin in the input or the padding before it
        return out - ((out - 1) * step >= size + pad) * 1

    return law


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
