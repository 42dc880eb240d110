"""Receptive fields: which input positions each output position sees."""

from symconv.auditing.receptive.fields import AxisField, Receptive, receptive_fields

__all__ = ["AxisField", "Receptive", "receptive_fields"]
