"""Does a window suit a point group? Symmetric padding, equal axes, a centred sampling grid.

A group maps the output positions of a strided window onto each other only if they lie
symmetrically about the input's centre: ``(S + 2 p - extent) % stride == 0`` on every axis that an
element reverses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.lattice.windows import Window


def check_window(window: Window, group: Group) -> None:
    """Refuse a window that the group does not map onto itself, whatever the input's size.

    Raises:
        StructureError: The group has another dimension, exchanges axes on which the window
            differs, or reverses an axis that is padded more at one end.
    """
    if window.dimension != group.dimension:
        raise StructureError(
            f"a group of {window.dimension} axes of space", f"{group} of {group.dimension}"
        )
    for name in ("kernel_size", "stride", "dilation", "padding"):
        values = getattr(window, name)
        if not all(group.keeps(column) for column in zip(*_pairs(values), strict=True)):
            raise StructureError(
                f"equal {name} on the axes that {group} exchanges",
                values,
                "give one value for all of them, or take a group that exchanges no axes",
            )
    for axis, (before, after) in enumerate(window.padding):
        if before != after and group.reversed_axes[axis]:
            raise StructureError(
                f"equal padding at both ends of axis {axis}, which {group} reverses",
                f"{before} before and {after} after",
                'with padding="same" choose dilation * (kernel_size - 1) even',
            )


def _pairs(values: Sequence[int | tuple[int, int]]) -> list[tuple[int, ...]]:
    return [value if isinstance(value, tuple) else (value,) for value in values]


def remainders(window: Window, group: Group, size: Sequence[int]) -> tuple[int, ...]:
    """Per axis ``(S + 2 p - extent) % stride``: not zero where the grid is off-centre.

    Axes that the group never reverses count as zero: there any grid is mapped onto itself.
    """
    rows = zip(size, window.padding, window.extent, window.stride, group.reversed_axes, strict=True)
    return tuple((s + sum(p) - e) % step if turned else 0 for s, p, e, step, turned in rows)


def exact_sizes(window: Window, group: Group, size: Sequence[int]) -> list[tuple[int, ...]]:
    """The nearest centred sizes: the larger, and the smaller where the window fits into it.

    Example:
        >>> from symconv.lattice.groups import cyclic
        >>> exact_sizes(Window.of(2, 3, stride=2, padding=1), cyclic(4), (32, 32))
        [(33, 33), (31, 31)]
    """
    rest = remainders(window, group, size)
    steps = zip(size, rest, window.stride, strict=True)
    larger = tuple(s + (step - r) % step for s, r, step in steps)
    smaller = tuple(s - r for s, r in zip(size, rest, strict=True))
    spans = zip(smaller, window.padding, window.extent, strict=True)
    fits = all(s >= 1 and s + sum(p) >= e for s, p, e in spans)
    return [larger, smaller] if fits else [larger]


def extra_padding(window: Window, group: Group, size: Sequence[int]) -> tuple[int, ...]:
    """Positions to add at *both* ends of each axis so that the grid is centred.

    Raises:
        StructureError: No such padding exists: stride and size have a parity at which a window of
            this extent is never centred.

    Example:
        >>> from symconv.lattice.groups import cyclic
        >>> extra_padding(Window.of(2, 3, stride=3), cyclic(4), (10, 10))
        (1, 1)
    """
    extra = []
    for rest, step in zip(remainders(window, group, size), window.stride, strict=True):
        both = (step - rest) % step
        both += step * (both % 2)
        if both % 2:
            raise StructureError(
                f"a window that padding centres on size {tuple(size)} at stride {window.stride}",
                f"extent {window.extent}, padding {window.padding}",
                f"use sizes such as {exact_sizes(window, group, size)}, or an extent "
                "dilation * (kernel_size - 1) + 1 of the other parity",
            )
        extra.append(both // 2)
    return tuple(extra)


def padded_more(window: Window, extra: Sequence[int]) -> Window:
    """The window with more padding at both ends."""
    rows = zip(window.padding, extra, strict=True)
    return replace(window, padding=tuple((b + more, a + more) for (b, a), more in rows))
