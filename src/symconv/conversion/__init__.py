"""Existing networks with more symmetry than they were built with."""

from symconv.conversion.antialiasing import antialias
from symconv.conversion.symmetrizing import Canonicaliser, boxes, prior_loss, symmetrize

__all__ = ["Canonicaliser", "antialias", "boxes", "prior_loss", "symmetrize"]
