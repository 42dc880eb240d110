"""What an audit found: plain frozen records, and the ways to show them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from symconv.auditing.call import Call
from symconv.auditing.limits import Limit
from symconv.auditing.page import write
from symconv.auditing.table import text

Steps = int | Fraction


@dataclass(frozen=True)
class ReceptiveField:
    """What one output position sees of the input, on the unbounded lattice, per space axis.

    Output o sees the input positions from ``o * stride - padding`` to that plus ``size - 1``.

    Attributes:
        size: Input positions from the first to the last one seen; None on an axis that is seen
            whole.
        stride: Input positions per step of the output: 1/2 after upsampling by 2.
        padding: How far the field of output 0 begins before the input.
        holes: Some positions between the first and the last are not seen.
        everything: Every output sees the whole input (attention, global pooling, a dense layer).
    """

    size: tuple[int | None, ...]
    stride: tuple[Steps, ...]
    padding: tuple[Steps, ...]
    holes: bool = False
    everything: bool = False


@dataclass(frozen=True)
class LayerRow:
    """One layer, or one function called between layers; sums over all its calls.

    Counts are for the call as made, all items of the batch; connections, inputs and outputs are
    for one item of it and one call. None: does not apply, or was not asked for.

    Attributes:
        name: As in `named_modules`; a function is "name of the enclosing module:function".
        kind: Class of the module, or the function.
        input_shape: Shape of the first input tensor of the first call.
        output_shape: Shape of the first output tensor of the first call.
        inputs: Inputs m of one item.
        outputs: Outputs n of one item.
        fan_in: Inputs k that an output sees (the largest).
        mean_fan_in: Their mean over the outputs.
        connections: Distinct (output, input) pairs that exist.
        parameters: Trained numbers the layer owns, with biases.
        weights: Those of them that multiply inputs.
        uses: Connections per weight: how often one weight is used for one item, in the mean.
        macs: Multiply-accumulates, taps on zero padding included.
        padding_macs: Those of them that fall on zero padding.
        dense_parameters: Weights of a dense layer between the same lattices: m * n.
        sharing: Connections per free weight (the same as `uses` where each weight is used).
        receptive_field: Of the output with respect to the network's input.
        calls: How often the layer was called.
        note: What could not be counted ("unknown, at least ..."), or other remarks.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    inputs: int | None = None
    outputs: int | None = None
    fan_in: int | None = None
    mean_fan_in: float | None = None
    connections: int | None = None
    parameters: int | None = None
    weights: int | None = None
    uses: float | None = None
    macs: int | None = None
    padding_macs: int | None = None
    dense_parameters: int | None = None
    sharing: float | None = None
    receptive_field: ReceptiveField | None = None
    calls: int = 1
    note: str | None = None


@dataclass(frozen=True)
class Total:
    """The figures of the whole model.

    Attributes:
        parameters: Trained numbers, each storage once, with biases and norms.
        weights: Those of them that multiply inputs in a contraction, each storage once.
        connections: Summed over the layers.
        macs: Multiply-accumulates of the call; a lower bound if `unknown` is not empty.
        padding_macs: Those of them that fall on zero padding.
        dense_parameters: Summed over the layers.
        unknown: What could not be counted, one sentence each.
    """

    parameters: int
    weights: int
    connections: int
    macs: int
    padding_macs: int
    dense_parameters: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class EquivarianceRow:
    """How well one layer, or the whole model, commutes with one transform.

    Attributes:
        transform: "shift 1", "mirror", "turn 90", "rotate 30", "rescale 0.5" and the like.
        layer: Name of the layer; "" for the whole model.
        error: Relative error over all units.
        interior_error: Over the units whose receptive field avoids the border.
        local_error: Of this layer alone, fed with a transformed input.
        verdict: "exact" (rounding level), "approximate" or "broken".
        note: A remark.
        smallest_interior: The smallest input size that has interior units, where this one has none.
    """

    transform: str
    layer: str
    error: float | None
    interior_error: float | None
    local_error: float | None
    verdict: str
    note: str | None = None
    smallest_interior: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sizes:
    """Which input sizes a model takes.

    Attributes:
        smallest: Smallest input size that works, per space axis.
        law: Output size in symbols of the input size.
        fixed_by: The layer that fixes the input size, if one does.
        leak: Does what lies in a batch's zero padding reach valid output cells?
        notes: Remarks.
    """

    smallest: tuple[int, ...] | None = None
    law: str | None = None
    fixed_by: str | None = None
    leak: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """The whole report of `symconv.audit`.

    Attributes:
        model: Class of the model.
        input: The input in one line.
        layers: One row a layer, in the order of their first calls.
        total: The figures of the whole model.
        receptive_field: Of the output.
        equivariance: One row a transform and layer.
        sizes: Which sizes work.
        culprits: The layers that break a symmetry, one sentence each.
        period: Shifts by multiples of this many pixels are exact, per space axis.
        reasons: Part of the report -> why it is missing.
        versions: Package -> version that measured this.
        call: What was audited, for the pictures of the page; no part of the document.
    """

    model: str
    input: str
    layers: tuple[LayerRow, ...] = ()
    total: Total | None = None
    receptive_field: ReceptiveField | None = None
    equivariance: tuple[EquivarianceRow, ...] | None = None
    sizes: Sizes | None = None
    culprits: tuple[str, ...] = ()
    period: tuple[int, ...] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    call: Call | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries, lists, numbers and strings."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "call"}

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON; errors that are not finite become null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained page, and return its path."""
        return write(self, Path(path))

    def require(self, *limits: str, **named: float) -> None:
        """Hold the report to limits: for tests and continuous integration.

        `error` and `interior_error` bound the whole model under every transform, `local_error`
        every layer by itself, and `macs`, `parameters` and the other counts the totals. What was
        not measured fails.

        Args:
            *limits: Texts such as "interior_error=1e-4"; "error[shift 32]=1e-4" bounds only the
                transforms that begin so.
            **named: The same by name: ``interior_error=1e-4``.

        Raises:
            AssertionError: Something is above its limit, or was not measured; each is named.
            StructureError: A limit is none.

        Example:
            >>> Audit("Net", "1x3 float32", total=Total(10, 9, 9, 9, 0, 9)).require("macs=9")
        """
        asked = [*map(Limit.parse, limits), *(Limit(name, most) for name, most in named.items())]
        failures = [failure for limit in asked for failure in limit.failures(self)]
        if failures:
            raise AssertionError("the audit found:\n  " + "\n  ".join(failures))

    def __str__(self) -> str:
        """The tables, 80 columns wide."""
        return text(self)


def _plain(value: Any) -> Any:
    """Records as dictionaries, tuples as lists, whole fractions as integers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
