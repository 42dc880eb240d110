"""One operation of a run, as the rules are given it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from symconv.auditing.receptive.reach import Reach
from symconv.auditing.receptive.seen import Digit, Seen


@dataclass(frozen=True)
class Step:
    """One operation: its name, its arguments by name, what its tensors see, and what came out."""

    name: str
    args: dict[str, Any]
    seen: Callable[[Tensor], Seen]
    shapes: list[tuple[int, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor that came out."""
        return self.shapes[0]

    @property
    def x(self) -> Seen:
        """What the first argument sees."""
        return self.seen(next(iter(self.args.values())))

    def dims(self, name: str = "dim") -> list[int]:
        """An argument that names axes; all of them where it names none."""
        given, n = self.args.get(name), len(self.x.axes)
        given = [given] if isinstance(given, int) else given
        return [d % n for d in given] if given else list(range(n))


def tensors(value: Any) -> Iterable[Tensor]:
    """Every tensor in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


def slid(x: Seen, axes: Iterable[int], outer: Iterable[Reach], shape: Sequence[int]) -> Seen:
    """Window operations along several axes."""
    for axis, outer_ in zip(axes, outer, strict=True):
        x = x.moved(axis, outer_, shape[axis])
    return x


def per_axis(value: Any, n: int) -> list[int]:
    """One number per axis; torch lets one stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def channels_replaced(x: Seen, axis: int, size: int) -> Seen:
    """Each output channel sees what any input channel saw."""
    x = x.summed(axis)
    return x.arranged(x.axis_replaced(axis, (Digit(size),)))
