"""What the layers on fields share: the copies of a field as runs, checks, tracing to plain torch.

Channels are axis 1 of an input (N, C, *S). A copy's components lie side by side, so a run of
copies of one size is a view (N, copies, size, *S): nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from symconv.errors import StructureError
from symconv.lattice.representations import Field


class Run(NamedTuple):
    """Neighbouring copies of one size, all signed or all pure permutations, from a channel on."""

    start: int
    copies: int
    size: int
    signed: bool

    @property
    def channels(self) -> int:
        """Channels of the run."""
        return self.copies * self.size


def runs_of(field: Field) -> tuple[Run, ...]:
    """A field as runs, as few as there can be.

    Raises:
        StructureError: It is no field, or one without channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> C4 = parse("C4")
        >>> runs_of(C4.regular(2) + C4.regular(1) + C4.vector(1))
        (Run(start=0, copies=3, size=4, signed=False), Run(start=12, copies=1, size=2, signed=True))
    """
    if not isinstance(field, Field) or field.channels == 0:
        raise StructureError("a field with channels, such as C4.regular(8)", repr(field))
    runs: list[Run] = []
    start = 0
    for representation, copies in field.parts:
        size, signed = representation.size, representation.signed
        if copies and runs and runs[-1][2:] == (size, signed):
            runs[-1] = runs[-1]._replace(copies=runs[-1].copies + copies)
        elif copies:
            runs.append(Run(start, copies, size, signed))
        start += copies * size
    return tuple(runs)


def check_channels(x: Tensor, runs: Sequence[Run], field: Field) -> None:
    """Is x (N, C, *S) with the channels of a field's runs?

    Raises:
        StructureError: It is not.
    """
    channels = runs[-1].start + runs[-1].channels
    if x.ndim < 2 or x.shape[1] != channels:
        raise StructureError(
            f"an input (N, {channels}, *space) for the field {field}", f"shape {tuple(x.shape)}"
        )


def part(x: Tensor, run: Run, axis: int = 1) -> Tensor:
    """The channels of one run."""
    whole = run.start == 0 and isinstance(x, Tensor) and run.channels == x.shape[axis]
    return x if whole else x.narrow(axis, run.start, run.channels)


def split(x: Tensor, runs: Sequence[Run]) -> list[Tensor]:
    """The runs of x (N, C, *S) as views (N, copies, size, *S)."""
    return [part(x, run).unflatten(1, (run.copies, run.size)) for run in runs]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Runs (N, copies, size, *S) as one tensor (N, C, *S): undoes `split`."""
    return cat([each.flatten(1, 2) for each in parts])


def cat(parts: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Tensors side by side; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def spread(values: Tensor, runs: Sequence[Run]) -> Tensor:
    """One value per copy as one per channel, in memory order."""
    rows, first = [], 0
    for run in runs:
        each = values.narrow(0, first, run.copies)[:, None]
        rows.append(each.expand(-1, run.size).reshape(-1))
        first += run.copies
    return cat(rows, 0)


def merge(values: Tensor, runs: Sequence[Run]) -> Tensor:
    """One value per channel as their sum per copy: the transpose of `spread`."""
    rows = [part(values, run, 0).view(run.copies, run.size) for run in runs]
    return cat([row.sum(1) for row in rows], 0)


def unsigned(values: Tensor, runs: Sequence[Run]) -> Tensor:
    """Of one value per copy, those of copies that are not signed."""
    parts = zip(values.split([run.copies for run in runs]), runs, strict=True)
    return torch.cat([values[:0], *(kept for kept, run in parts if not run.signed)])


def filled(values: Tensor, runs: Sequence[Run]) -> Tensor:
    """Values of the copies that are not signed as one per copy, zero for signed ones."""
    rows, first = [], 0
    for run in runs:
        if run.signed:
            rows.append(values.new_zeros(run.copies))
        else:
            rows.append(values.narrow(0, first, run.copies))
            first += run.copies
    return cat(rows, 0)


def along(values: Tensor, like: Tensor, axis: int = 1) -> Tensor:
    """A vector laid along one axis of `like`, to broadcast against it."""
    return values.reshape(*(1,) * axis, -1, *(1,) * (like.ndim - axis - 1))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of many values are taken: at least float32."""
    return torch.promote_types(dtype, torch.float32)


class _Forward(nn.Module):
    """A layer's `compute` as a module, for tracing."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, x):  # no annotation: the graph would keep it as a string and not pickle
        return self.layer.compute(x)


def traced(layer: nn.Module) -> fx.GraphModule:
    """A layer's `compute` as a graph of torch's own functions, which loads without this package.

    Parameters become constants, so that what is spread from them is spread once, here.
    """
    fixed = deepcopy(layer)
    for name, value in list(fixed.named_parameters(recurse=False)):
        delattr(fixed, name)
        fixed.register_buffer(name, value.detach())
    graph = fx.symbolic_trace(_Forward(fixed))
    graph.train(layer.training)
    return graph
