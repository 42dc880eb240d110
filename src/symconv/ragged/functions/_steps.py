"""What the handlers of windowed functions share."""

from __future__ import annotations

from typing import Any

from symconv.ragged.check import refused
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH

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


def with_channels(x: Any, name: str) -> Packed:
    """The input of a function that looks at channels on axis 1 and any space after it.

    Raises:
        StructureError: It is no such batch.
    """
    if not isinstance(x, Packed):
        raise refused(f"a ragged input of {name}", type(x).__name__, "only weights may be tensors")
    if x.layout == STANDARD.get(len(x.layout) - 2):
        return x
    if x.layout[:2] != (BATCH, None) or not all(isinstance(label, int) for label in x.layout[2:]):
        axes = f"(batch, channels, *space) for {name}"
        raise refused(axes, x.described(), "permute the axes")
    return x
