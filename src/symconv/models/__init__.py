"""Reference networks."""

from symconv.models.small import Place, SmallNetwork, no_pool, parameters, plain_norm, widest

__all__ = ["Place", "SmallNetwork", "no_pool", "parameters", "plain_norm", "widest"]
