"""The input of a call as a picture that can be moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call
from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import smooth
from symconv.auditing.equivariance.scaling import scales_of
from symconv.auditing.equivariance.watch import mark
from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.lattice.representations import Field
from symconv.lattice.scales import Scales


@dataclass(frozen=True, eq=False)
class Picture:
    """Those arguments of a call that are maps (N, C, *S) of one size.

    Attributes:
        call: The model and its arguments.
        size: Space S.
        field: What a group does to the channels; None: nothing.
        note: Said of every result.
    """

    call: Call
    size: tuple[int, ...]
    field: Field | None = None
    note: str | None = None

    @classmethod
    def of(cls, call: Call) -> Picture:
        """Find the maps among a call's arguments.

        Raises:
            StructureError: There are none.
        """
        maps = [t for _, t in call.tensors() if t.is_floating_point() and t.ndim > 2]
        if not maps:
            got = call.describe()
            raise StructureError("an input with space axes (batch, channels, *space)", got)
        size = tuple(maps[0].shape[2:])
        if max(size) < 2:
            raise StructureError("an input of more than one position", call.describe())
        flat = [t for t in maps if t.shape[2:] == size and _is_constant(t)]
        note = None
        if flat:
            noise = {id(t): _noise(t) for t in flat}
            call = _replaced(call, lambda t: noise.get(id(t), t))
            note = "the input is the same everywhere: measured on normal noise"
        return cls(call, size, _declared(call, maps[0].shape[1]), note)

    @property
    def dimension(self) -> int:
        """Axes of space."""
        return len(self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the maps."""
        return next(t.dtype for _, t in self.call.tensors() if self.holds(t))

    def holds(self, x: Tensor) -> bool:
        """Whether an argument is one of the maps."""
        return x.is_floating_point() and tuple(x.shape[2:]) == self.size and x.ndim > 2

    def layout(self, x: Tensor) -> Layout:
        """The layout of one of the maps."""
        field = self.field
        if field is not None and field.channels != x.shape[1]:
            field = None
        return Layout.channels_first(x.shape, [Fraction(1)] * self.dimension, field)

    def seen_as(self, source: str) -> Picture:
        """The picture as given, or "smooth": band-limited and faded out."""
        if source == "given":
            return self
        n = self.dimension
        changed = _replaced(self.call, lambda t: smooth(t, n) if self.holds(t) else t)
        return Picture(changed, self.size, self.field, self.note)

    def moved(self, on: Callable[[Tensor, Layout], Tensor] | None) -> Call:
        """The call with every map transformed (or copied) and marked as a feature."""

        def move(t: Tensor) -> Tensor:
            if not self.holds(t):
                return t
            layout = self.layout(t)
            y = t.detach().clone() if on is None else on(t, layout)
            y = y.contiguous() if y is not t else y.clone()
            mark(y, layout.resized(tuple(y.shape)))
            return y

        return _replaced(self.call, move)


def _replaced(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    def leaf(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    args, kwargs = tree_map(leaf, (call.args, call.kwargs))
    return call.replaced(*args, **kwargs)


def _is_constant(x: Tensor) -> bool:
    flat = x.detach().flatten(2)
    return bool((flat == flat[..., :1]).all())


def _noise(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def declared_group(call: Call, dimension: int) -> Group | None:
    """The group of the network's own fields: that of the first layer that has some."""
    for field in _fields(call):
        if isinstance(field.group, Group) and field.group.dimension == dimension:
            return field.group
    return None


def declared_scales(call: Call) -> Scales | None:
    """The scales of the network's own fields: those of the first layer that has some."""
    return next((scales for f in _fields(call) if (scales := scales_of(f)) is not None), None)


def _fields(call: Call) -> Iterator[Field]:
    """The fields of the network's layers, in order."""
    for module in call.model.modules():
        for name in ("in_field", "field", "out_field"):
            field = getattr(module, name, None)
            if isinstance(field, Field):
                yield field


def _declared(call: Call, channels: int) -> Field | None:
    """The field of the input: what the first layer that has fields takes, if it fits."""
    for module in call.model.modules():
        field = getattr(module, "in_field", getattr(module, "field", None))
        if isinstance(field, Field):
            return field if field.channels == channels else None
    return None
