"""Batches of items of any size, whose results equal those of each item alone."""

from symconv.ragged.batch import Ragged
from symconv.ragged.extent import Extent

__all__ = ["Extent", "Ragged"]
