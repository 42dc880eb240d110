"""Any model made invariant or equivariant: a mean over a group, or one pose for each input."""

from symconv.conversion.symmetrizing.canonicaliser import Canonicaliser, prior_loss
from symconv.conversion.symmetrizing.entry import symmetrize
from symconv.conversion.symmetrizing.outputs import boxes

__all__ = ["Canonicaliser", "boxes", "prior_loss", "symmetrize"]
