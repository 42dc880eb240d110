"""Reference networks."""

from symconv.models.small import SmallNetwork, parameters, widest

__all__ = ["SmallNetwork", "parameters", "widest"]
