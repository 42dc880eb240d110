"""`audit`: every part of the report on one call of one model."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from symconv import __version__
from symconv.auditing.call import Call, ModelError
from symconv.auditing.counts import count
from symconv.auditing.equivariance import measure
from symconv.auditing.receptive import receptive_fields
from symconv.auditing.records import LayerRow, ReceptiveField
from symconv.auditing.report import Audit
from symconv.auditing.sizes import find_sizes
from symconv.errors import StructureError
from symconv.lattice.groups import Group, parse

Found = TypeVar("Found")


def audit(
    model: nn.Module | torch.export.ExportedProgram,
    x: Any,
    group: Group | str | None = None,
    counts: bool = True,
    receptive_field: bool = True,
    equivariance: bool = True,
    sizes: bool = True,
) -> Audit:
    """Measure what a network connects, shares, commutes with, and which sizes it takes.

    Works on any `nn.Module` and on programs of `torch.export`, in evaluation mode. Nothing of the
    model is changed: parameters, buffers, hooks, mode and random state are afterwards as before.
    A part that cannot run is None, with the reason in `reasons`.

    Args:
        model: The network.
        x: Its input: a tensor (batch, channels, *space); or a tuple of arguments, or a dictionary
            of arguments by name.
        group: Symmetry group to test beside shifts, such as "C4"; by default what the input's
            axes allow.
        counts: Count inputs, fan-in, connections, weights, uses and multiply-accumulates.
        receptive_field: What each output sees.
        equivariance: Errors under shifts and the group, by layer and end to end.
        sizes: Smallest input, law of the output size, leak of zero padding.

    Raises:
        StructureError: The model or the group is none, or the model fails on this input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> report = audit(net, torch.zeros(1, 3, 16, 16), equivariance=False, sizes=False)
        >>> report.total.parameters, report.total.macs
        (260, 63488)
        >>> [(row.name, row.fan_in, row.weights) for row in report.layers]
        [('0', 27, 216), ('1', None, 0), ('2', 8, 32)]
    """
    call, reasons = Call.of(model, x), dict[str, str]()
    if group is not None and group != "trivial":  # that one needs the number of axes
        parse(group)

    def part(name: str, wanted: bool, measure: Callable[[], Found]) -> Found | None:
        return _attempt(name, measure, reasons) if wanted else None

    if not counts:
        call.check()
    counted = part("counts", counts, lambda: count(call))
    fields = part("receptive_field", receptive_field, lambda: receptive_fields(call))
    if fields and fields.output is None:
        why = fields.unknown or ("the output holds no tensor whose field is known",)
        reasons["receptive_field"] = "; ".join(why)
    measured = part("equivariance", equivariance, lambda: measure(call, group, fields))
    rows = counted.layers if counted else ()
    return Audit(
        model=type(call.model).__name__ if call.program is None else "exported program",
        input=call.describe(),
        layers=_with_fields(rows, fields.by_layer if fields else {}),
        total=counted.total if counted else None,
        receptive_field=fields.output if fields else None,
        equivariance=measured.rows if measured else None,
        culprits=measured.culprits if measured else (),
        period=measured.period if measured else None,
        sizes=part("sizes", sizes, lambda: find_sizes(call)),
        reasons=reasons,
        versions=_versions(),
        call=call,
    )


def _attempt(name: str, measure: Callable[[], Found], reasons: dict[str, str]) -> Found | None:
    """A part of the report; where it cannot run, None and the reason."""
    try:
        return measure()
    except ModelError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told = isinstance(error, (StructureError, ValueError, RuntimeError))
        reasons[name] = lines[0] if told else f"{type(error).__name__}: {lines[0]}"
        return None


def _with_fields(
    rows: tuple[LayerRow, ...], fields: dict[str, ReceptiveField]
) -> tuple[LayerRow, ...]:
    """The rows with their receptive fields; if nothing was counted, rows of fields alone."""
    if not rows:
        return tuple(LayerRow(name, "", receptive_field=f) for name, f in fields.items())
    return tuple(replace(row, receptive_field=fields.get(row.name)) for row in rows)


def _versions() -> dict[str, str]:
    return {
        "symconv": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
