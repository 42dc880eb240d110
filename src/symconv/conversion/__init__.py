"""Existing networks with more symmetry than they were built with."""

from symconv.conversion.symmetrizing import Canonicaliser, boxes, prior_loss, symmetrize

__all__ = ["Canonicaliser", "boxes", "prior_loss", "symmetrize"]
