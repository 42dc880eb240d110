"""Rotations and reflections of the plane by any fraction of a turn, in one exact form.

Every orthogonal 2 x 2 matrix of finite order is a turn, or a turn after the mirror of the last
axis. Its angle is a rational part of the whole turn; matrices are made anew from that fraction, so
that equal elements have equal bits, whatever product they came from, and those that map the
lattice onto itself are integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from symconv.errors import StructureError

LARGEST = 1000  # denominators beyond it are taken for rounding


def is_signed_permutation(matrix: np.ndarray) -> bool:
    """Whether a matrix permutes the axes and flips some: it maps the lattice onto itself.

    Example:
        >>> [is_signed_permutation(np.array(m)) for m in ([[0, -1], [1, 0]], [[1, 1], [1, 1]])]
        [True, False]
    """
    ones = np.abs(matrix)
    whole = np.isin(ones, (0, 1)).all()
    return bool(whole and (ones.sum(0) == 1).all() and (ones.sum(1) == 1).all())


def turn(parts: int, of: int) -> np.ndarray:
    """The matrix of a turn by `parts` of `of` equal parts, counter-clockwise as `torch.rot90`."""
    return from_turns(np.array(parts / of), np.array(False))


def from_turns(turns: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Matrices (..., 2, 2) of turns (as a part of the whole), after the mirror where `mirrored`."""
    quarters = 4 * turns
    whole = quarters == np.rint(quarters)
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    c, s = np.where(whole, np.rint(c), c) + 0.0, np.where(whole, np.rint(s), s) + 0.0
    flip = np.where(mirrored, -1.0, 1.0)
    rows = np.stack([c, -s * flip, s, c * flip], -1) + 0.0  # no negative zeros: bits are compared
    return rows.reshape(*np.shape(turns), 2, 2)


def parts(matrix: np.ndarray) -> tuple[Fraction, bool]:
    """The turn, as a part of the whole below 1, and whether the mirror comes before it.

    Raises:
        StructureError: The matrix is not orthogonal, or no power of it up to `LARGEST` is the
            identity.

    Example:
        >>> parts(turn(1, 8)), parts(np.array([[0, -1], [-1, 0]]))
        ((Fraction(1, 8), False), (Fraction(3, 4), True))
    """
    matrix = np.asarray(matrix, float)
    angle = math.atan2(matrix[1, 0], matrix[0, 0]) / (2 * math.pi)
    found = Fraction(angle).limit_denominator(LARGEST) % 1, bool(np.linalg.det(matrix) < 0)
    again = from_turns(np.array(float(found[0])), np.array(found[1]))
    if not np.allclose(again, matrix, rtol=0, atol=1e-9):
        raise StructureError(
            f"turns and mirrors of the plane whose order is at most {LARGEST}", matrix.tolist()
        )
    return found


def finest(matrices: Sequence[np.ndarray]) -> int:
    """Into how many equal parts the whole turn must be cut to hold every product of some matrices.

    Example:
        >>> finest([turn(1, 6), turn(1, 4)])
        12
    """
    return math.lcm(*(parts(matrix)[0].denominator for matrix in matrices))


def snapped(matrices: np.ndarray, cuts: int) -> np.ndarray:
    """Matrices (..., 2, 2) made anew from their turns, each a multiple of 1 / `cuts`."""
    turns = np.arctan2(matrices[..., 1, 0], matrices[..., 0, 0]) / (2 * np.pi)
    return from_turns(np.rint(turns * cuts) % cuts / cuts, np.linalg.det(matrices) < 0)
