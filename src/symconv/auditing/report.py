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
from symconv.auditing.records import EquivarianceRow, LayerRow, ReceptiveField, Sizes, Total
from symconv.auditing.table import text


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
