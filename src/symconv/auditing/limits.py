"""Limits on what an audit found, for continuous integration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symconv.errors import StructureError

if TYPE_CHECKING:
    from symconv.auditing.records import EquivarianceRow
    from symconv.auditing.report import Audit

ERRORS = ("error", "interior_error", "local_error")
COUNTS = ("parameters", "weights", "connections", "macs", "padding_macs", "dense_parameters")


@dataclass(frozen=True)
class Limit:
    """The most that a figure may be.

    `error` and `interior_error` bound the whole model's rows, `local_error` the layers' rows, and
    the names of counts the totals.

    Args:
        name: The figure.
        most: Its largest value that passes.
        transform: Only for transforms that begin with this; "" for all.
    """

    name: str
    most: float
    transform: str = ""

    def __post_init__(self):
        if self.name not in (*ERRORS, *COUNTS):
            raise StructureError(f"a limit on one of {', '.join((*ERRORS, *COUNTS))}", self.name)
        if isinstance(self.most, bool) or not isinstance(self.most, (int, float)):
            raise StructureError(f"a number as the limit of {self.name}", repr(self.most))
        if not (math.isfinite(self.most) and self.most >= 0):
            raise StructureError(f"a finite limit of {self.name}, at least 0", self.most)

    @classmethod
    def parse(cls, text: str) -> Limit:
        """A limit as the command takes it.

        Raises:
            StructureError: The text is none.

        Example:
            >>> Limit.parse("interior_error=1e-4")
            Limit(name='interior_error', most=0.0001, transform='')
            >>> Limit.parse("error[shift 32]=0.01").transform
            'shift 32'
        """
        match = re.fullmatch(r"\s*(\w+)\s*(?:\[([^]]*)\])?\s*=\s*(\S+)\s*", text)
        try:
            most = float(match[3]) if match else None
        except ValueError:
            most = None
        if match is None or most is None:
            mend = "such as interior_error=1e-4, or error[shift 32]=1e-4 for some transforms only"
            raise StructureError("a limit NAME=NUMBER", repr(text), mend)
        return cls(match[1], most, (match[2] or "").strip())

    def failures(self, audit: Audit) -> Iterator[str]:
        """What is above the limit, or was not measured: one sentence each."""
        if self.name in COUNTS:
            yield from self._of_total(audit)
            return
        rows = self._rows(audit)
        if not rows:
            why = audit.reasons.get("equivariance", "the audit has no such rows")
            yield f"{self.name} was not measured: {why}"
        for row in rows:
            found = getattr(row, self.name)
            where = row.transform + (f", {row.layer}" if row.layer else "")
            if found is None:
                yield f"{where}: {self.name} was not measured{_why(row)}"
            elif not found <= self.most:
                yield f"{where}: {self.name} {found:.3g} is above {self.most:g}"

    def _rows(self, audit: Audit) -> Sequence[EquivarianceRow]:
        local = self.name == "local_error"
        return [
            row
            for row in audit.equivariance or ()
            if row.transform.startswith(self.transform)
            and bool(row.layer) == local
            and not (local and row.local_error is None)
        ]

    def _of_total(self, audit: Audit) -> Iterator[str]:
        if audit.total is None:
            why = audit.reasons.get("counts", "the audit has no counts")
            yield f"{self.name} was not measured: {why}"
            return
        found = getattr(audit.total, self.name)
        if found > self.most:
            yield f"{self.name} {found:,} is above {self.most:,g}"
        elif audit.total.unknown and self.name != "parameters":
            yield f"{self.name} is only known to be at least {found:,}: {audit.total.unknown[0]}"


def _why(row: EquivarianceRow) -> str:
    if row.smallest_interior is not None:
        sizes = "x".join(map(str, row.smallest_interior))
        return f": no unit avoids the border; an input of {sizes} has one that does"
    return f": {row.note}" if row.note else ""
