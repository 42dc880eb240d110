"""Scales: a geometric row of sizes, and the fields over it.

Changes of size by whole powers of a factor form a group; the row of scales that a layer keeps is a
window of it, cut off at both ends. What leaves at an end is lost: fields over scales commute with
resizing on the scales that both sides have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from symconv.errors import StructureError
from symconv.lattice.representations import Field, Representation

_MOST = 32  # octaves; no axis has that many positions


@dataclass(frozen=True)
class Scales:
    """The scales 1, factor, factor ** 2, ..., `count` of them.

    Example:
        >>> octaves = Scales(2.0, 3)
        >>> octaves, octaves.regular(4).channels, octaves.trivial(3).channels
        (scales(2.0, 3), 12, 3)
    """

    factor: float
    count: int

    @property
    def sizes(self) -> tuple[float, ...]:
        """The scales themselves, relative to the first; two half octaves are an octave exactly."""
        return tuple(round(self.factor**k, 12) for k in range(self.count))

    @property
    def order(self) -> int:
        """Channels of one regular copy."""
        return self.count

    def trivial(self, copies: int) -> Field:
        """A field that scales do not divide: pictures, pooled features."""
        return self._field("trivial", 1, copies)

    def regular(self, copies: int) -> Field:
        """One channel for each scale in every copy, the scale index fastest."""
        return self._field("regular", self.count, copies)

    def _field(self, name: str, size: int, copies: int) -> Field:
        places = np.arange(size)[None]
        group: Any = self  # what fields ask of a group: its name and its fields
        text = f"{self}.{name}({{copies}})"
        return Representation(group, text, places, np.ones_like(places)).field(copies)

    def __str__(self) -> str:
        return f"scales({self.factor!r}, {self.count})"

    __repr__ = __str__


def scales(factor: float, count: int) -> Scales:
    """A row of scales, for `sc.nn.ScaleConv1d` and `ScaleConv2d`.

    Args:
        factor: From one scale to the next, above 1: 2 for octaves, ``2 ** 0.5`` for half octaves.
        count: How many scales; the largest is ``factor ** (count - 1)``.

    Raises:
        StructureError: The factor is not a finite number above 1, or the count not a positive
            integer.

    Example:
        >>> import symconv as sc
        >>> sc.groups.scales(2, 3).regular(8)
        scales(2.0, 3).regular(8)
    """
    if not isinstance(factor, Real) or not math.isfinite(factor) or factor <= 1:
        raise StructureError(
            "a factor above 1", repr(factor), "scales go from fine to coarse: 2 ** 0.5, 2, ..."
        )
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise StructureError("a count of scales, a positive integer", repr(count))
    if not (count - 1) * math.log2(factor) <= _MOST:
        raise StructureError(
            f"a largest scale of at most 2 ** {_MOST}", f"{factor!r} ** {count - 1}", "take fewer"
        )
    return Scales(float(factor), int(count))
