"""Comparing structures on pictures: `compare`."""

from symconv.comparison.experiment import compare
from symconv.comparison.results import Comparison

__all__ = ["Comparison", "compare"]
