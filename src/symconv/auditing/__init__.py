"""Auditing any network: what it connects, shares, commutes with, and which sizes it takes."""

from symconv.auditing.call import ModelError
from symconv.auditing.records import EquivarianceRow, LayerRow, ReceptiveField, Sizes, Total
from symconv.auditing.report import Audit
from symconv.auditing.run import audit

__all__ = [
    "Audit",
    "EquivarianceRow",
    "LayerRow",
    "ModelError",
    "ReceptiveField",
    "Sizes",
    "Total",
    "audit",
]
