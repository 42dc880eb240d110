"""The effective receptive field: how strongly each input position acts on one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symconv.auditing.call import Call
from symconv.auditing.state import left_as_found

if TYPE_CHECKING:
    from symconv.auditing.records import LayerRow, ReceptiveField

_TRIES = 8  # layers, from the last one, of which one gives the heat map


@dataclass(frozen=True)
class Heat:
    """How strongly each input position acts on the middle output of a layer.

    Args:
        layer: Its name.
        values: Gradient magnitudes (height, width), summed over input channels.
        box: First row, first column, height and width of the exact receptive field.
        at: The output position.
        half: Part of the box's positions, the strongest, that hold half of the squared gradient.
    """

    layer: str
    values: NDArray
    box: tuple[float, float, float, float]
    at: tuple[int, ...]
    half: float


def heat(call: Call, rows: Sequence[LayerRow]) -> Heat | None:
    """The effective receptive field of the last layer whose exact one is a box.

    The gradient of the middle output position, all channels together, with respect to the input
    (Luo, Li, Urtasun, Zemel, Understanding the Effective Receptive Field in Deep Convolutional
    Neural Networks, 2016), at the input that was audited.

    Args:
        call: The model and its input.
        rows: The rows of the report.
    """
    modules = dict(call.model.named_modules())
    candidates = [
        (row.name, row.receptive_field)
        for row in reversed(rows)
        if row.name in modules and row.receptive_field is not None and row.calls == 1
        and not row.receptive_field.everything and None not in row.receptive_field.size
    ]  # fmt: skip
    fields = dict(candidates[:_TRIES])
    with left_as_found(call.model), torch.enable_grad(), captured(call.model, [*fields]) as layers:
        x, watched = _watching(call)
        if x is None:
            return None
        watched.run()
        for name, field in fields.items():
            found = _heat(x, name, layers.get(name), field)
            if found is not None:
                return found
    return None


def _heat(x: Tensor, name: str, y: Tensor | None, field: ReceptiveField) -> Heat | None:
    """The gradient of the middle position of y, if its axes are those of x."""
    if y is None or x.ndim != 2 + len(field.size) or not _lattice(y, x, field):
        return None
    at = tuple(size // 2 for size in y.shape[2:])
    middle = y[(0, slice(None), *at)].sum()
    (gradient,) = torch.autograd.grad(middle, x, retain_graph=True, allow_unused=True)
    if gradient is None:
        return None
    values = gradient[0].abs().sum(0).double().cpu().numpy()
    start = [o * s - p for o, s, p in zip(at, field.stride, field.padding, strict=True)]
    inside = tuple(
        slice(max(0, round(float(a))), max(0, round(float(a)) + int(n or 0)))
        for a, n in zip(start, field.size, strict=True)
    )
    box = values[inside]
    if not box.any() or not np.isclose(box.sum(), values.sum()):
        return None  # the axes mean something else here: tokens, or channels last
    sizes = [float(n or 0) for n in field.size]
    first, last = ([0.0, *map(float, start)][-2:], [1.0, *sizes][-2:])
    return Heat(name, flat(values), (*first, *last), at, _half(box))  # type: ignore[arg-type]


def _lattice(y: Tensor, x: Tensor, field: ReceptiveField) -> bool:
    """Is y about as large as the input over the stride, on the axes after batch and channels?"""
    if y.ndim != x.ndim or not y.requires_grad or 0 in field.stride:
        return False
    expected = [n / float(s) for n, s in zip(x.shape[2:], field.stride, strict=True)]
    return all(abs(n - e) <= 2 + e / 2 for n, e in zip(y.shape[2:], expected, strict=True))


def _watching(call: Call) -> tuple[Tensor | None, Call]:
    """The call with a copy of its first floating-point argument that gradients reach."""
    arguments = list(call.args) if call.args else list(call.kwargs.values())
    for index, value in enumerate(arguments):
        if isinstance(value, Tensor) and value.is_floating_point():
            x = value.detach().clone().requires_grad_()
            arguments[index] = x
            if call.args:
                return x, call.replaced(*arguments, **call.kwargs)
            return x, call.replaced(**dict(zip(call.kwargs, arguments, strict=True)))
    return None, call


def _half(box: NDArray) -> float:
    """The part of the positions that holds half of the energy.

    Example:
        >>> _half(np.ones((4, 5))), _half(np.array([3.0, 1, 1, 1]))
        (0.5, 0.25)
    """
    energy = np.sort(box.ravel() ** 2)[::-1].cumsum()
    return float(np.searchsorted(energy, 0.5 * energy[-1] * (1 - 1e-12)) + 1) / energy.size


def flat(values: NDArray) -> NDArray:
    """Values over space as a picture: a line as one row, a volume by its middle slice.

    Example:
        >>> flat(np.zeros(5)).shape, flat(np.zeros((4, 5, 6))).shape
        ((1, 5), (5, 6))
    """
    while values.ndim > 2:
        values = values[len(values) // 2]
    return np.atleast_2d(values)


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within, the first output tensor of each named layer's last call is kept."""
    modules, found, handles = dict(model.named_modules()), {}, []

    def keep(name: str):
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = output

        return hook

    for name in names:
        handles.append(modules[name].register_forward_hook(keep(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
