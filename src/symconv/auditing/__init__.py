"""Auditing any network: what it connects, shares, commutes with, and which sizes it takes."""

from symconv.auditing.report import (
    Audit,
    EquivarianceRow,
    LayerRow,
    ReceptiveField,
    Sizes,
    Total,
)
from symconv.auditing.run import audit

__all__ = ["Audit", "EquivarianceRow", "LayerRow", "ReceptiveField", "Sizes", "Total", "audit"]
