"""Equivariance errors: what commutes with a network and its layers, and what does not."""

from symconv.auditing.equivariance.measure import Measured, measure

__all__ = ["Measured", "measure"]
