"""Counting a call: interactions, sharing and multiply-accumulates, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symconv.auditing.call import Call, tensors_of
from symconv.auditing.counts.fake import fake
from symconv.auditing.counts.provenance import KEPT, Provenance, tensors
from symconv.auditing.counts.rows import tabulate
from symconv.auditing.counts.visits import Visit, Visits
from symconv.auditing.counts.watch import Outward, Watch
from symconv.auditing.records import LayerRow, Total
from symconv.auditing.state import left_as_found

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """What one call of a model connects, shares and multiplies.

    Attributes:
        layers: One row a layer, or function between layers, in the order of the first calls.
        total: The figures of the whole model.
    """

    layers: tuple[LayerRow, ...]
    total: Total


def count(call: Call) -> Counts:
    """Count a call, in evaluation mode: inputs, fan-in, connections, weights, MACs.

    Every operation of the run is seen as torch dispatches it, whoever calls it: layers, functions
    in a forward, operators of exported programs. What contracts is counted by formula, what is
    known to contract nothing is passed over, and all else is reported as unknown. The run happens
    on fake tensors, which have shapes and no numbers; where a model needs numbers (its control
    flow depends on the data, or an operation has no fake form) it is run for real.

    Multiply-accumulates and parameters are exact integers. Attention counts every pair of a query
    and a key, masked or not; torch's fused fast path is counted as the layers that it stands for.

    Args:
        call: The model with its arguments.

    Raises:
        ModelError: The model fails on this input.

    Example:
        >>> conv = nn.Conv2d(3, 16, 3, padding=1)
        >>> row = count(Call.of(conv, torch.zeros(1, 3, 32, 32))).layers[0]
        >>> row.fan_in, row.connections, row.parameters, row.weights
        (27, 424128, 448, 432)
        >>> row.macs, row.padding_macs, round(row.uses, 1)
        (442368, 18240, 981.8)
    """
    with left_as_found(call.model, guarded=False), torch.no_grad():
        try:
            with _quiet(), fake(call) as quick:
                watched = _watch(quick, numbers=False)
            return _tabulated(call, *watched)
        except Exception:
            pass  # it needs numbers, or it is wrong: the real run tells
    with left_as_found(call.model), torch.no_grad():
        try:
            watched = _watch(call, numbers=True)
        except Exception:
            call.check()  # is it the model's own fault?
            raise
        return _tabulated(call, *watched)


def _watch(call: Call, numbers: bool) -> tuple[Any, Visits, Provenance]:
    """Run a call and see what happens."""
    provenance = Provenance()
    for number, parameter in enumerate(call.model.parameters()):
        provenance.add(parameter, number)
    for constant in [*call.model.buffers(), *_attributes(call.model)]:
        provenance.add(constant, KEPT)
    visits = Visits(call.model, provenance)
    outward = Outward(visits) if numbers else nullcontext()
    with visits, outward, Watch(visits, provenance, numbers):
        return call.run(), visits, provenance


def _tabulated(call: Call, output: Any, visits: Visits, provenance: Provenance) -> Counts:
    reported = visits.settled()
    items = _items(call, output, reported)
    return Counts(*tabulate(call.model, reported, items, provenance))


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules keep without registering them."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from tensors(value)


def _items(call: Call, output: Any, visits: list[Visit]) -> int:
    """Items of the batch: the first axis, if input and output share it and it divides all."""
    given, made = call.tensors(), tensors_of(output)
    if not given or not made or given[0][1].dim() < 2 or made[0][1].dim() < 1:
        return 1
    items = given[0][1].shape[0]
    if not items or made[0][1].shape[0] != items:
        return 1
    uses = [use for visit in visits for use in visit.uses if not use.of_weights_alone]
    numbers = [n for u in uses for n in (u.inputs, u.outputs, u.connections, u.items) if n]
    numbers += [n for visit in visits if visit.whole for n in (visit.inputs, visit.outputs)]
    return 1 if any(n % items for n in numbers) else items


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log of what fake tensors cannot do: the real run tells."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
