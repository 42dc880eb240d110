"""Filters that turn by any angle: Gaussian rings times circular harmonics, sampled at the taps.

A turn by 45 degrees moves no tap onto a tap, so the filters of C_8 and its like cannot be orbits of
taps. They are functions of the plane instead,

    f(r, phi) = sum of w * exp(-(r - radius)^2 / (2 width^2)) * cos(m phi) or sin(m phi),

which turn by turning each pair (cos, sin), and are then sampled. Sampling is what is inexact: it
commutes with quarter turns, and with others as far as input and filter are band-limited. Hence the
cut-off: a ring of few taps holds only low angular frequencies m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from symconv.errors import StructureError
from symconv.lattice import planar
from symconv.lattice.orbits import ABSENT, Orbits
from symconv.lattice.representations import Representation


class Ring(NamedTuple):
    """A ring of a filter: radius and width (standard deviation) in taps, highest frequency."""

    radius: float
    width: float
    cutoff: int


# Chosen by `benchmarks/rotations.py --choose`: least error at 45 degrees over natural (blur of one
# pixel) and smooth input (two), among rings whose functions stay well-conditioned.
_RINGS = {
    1: (Ring(0, 1, 0),),
    2: (Ring(0.707, 0.644, 1),),
    3: (Ring(0, 0.954, 0), Ring(0.46, 0.702, 2)),
    4: (Ring(0.911, 0.531, 1), Ring(1.127, 0.494, 2)),
    5: (Ring(0, 0.877, 0), Ring(1.064, 0.583, 2), Ring(1.68, 0.481, 2)),
    6: (Ring(0.901, 0.675, 1), Ring(1.265, 0.589, 2), Ring(2.255, 0.464, 2)),
    7: (Ring(0, 0.768, 0), Ring(1.521, 0.667, 2), Ring(1.825, 0.631, 2), Ring(2.812, 0.453, 2)),
}


def rings(kernel: int) -> tuple[Ring, ...]:
    """The rings of a filter with `kernel` taps a side.

    Beyond 7 taps they lie about one tap apart, the outermost narrow and just inside the border.

    Example:
        >>> rings(3)
        (Ring(radius=0, width=0.954, cutoff=0), Ring(radius=0.46, width=0.702, cutoff=2))
    """
    if kernel in _RINGS:
        return _RINGS[kernel]
    half, odd = (kernel - 1) / 2, kernel % 2
    radii = np.linspace(1.3 if odd else 0.7, half - 0.19, math.ceil(half))
    made = [Ring(float(r), 0.65, 1 if r < 1 else 2 if r < 3 else 3) for r in radii]
    made[-1] = made[-1]._replace(width=0.45)
    return (Ring(0, 0.8, 0), *made) if odd else tuple(made)


def harmonics(kernel: int) -> list[tuple[Ring, int]]:
    """Every ring with every frequency that it holds: one function for m = 0, two for others."""
    return [(ring, m) for ring in rings(kernel) for m in range(ring.cutoff + 1)]


def size(kernel: int) -> int:
    """Number of functions, of kernel^2 taps.

    Example:
        >>> [size(kernel) for kernel in (1, 2, 3, 5, 7)]
        [1, 3, 6, 11, 16]
    """
    return sum(1 if m == 0 else 2 for _, m in harmonics(kernel))


def sampled(kernel: int, matrix: np.ndarray | None = None) -> np.ndarray:
    """The functions (size, kernel^2) at the taps, moved by an orthogonal matrix g: f(g^-1 t).

    Each has norm 1 where g is the identity. A quarter turn permutes the taps to the last bit.

    Args:
        kernel: Taps a side.
        matrix: The element g (2, 2), on positions in tensor order; the identity if left out.
    """
    taps = np.indices((kernel, kernel)).reshape(2, -1).T - (kernel - 1) / 2
    if matrix is None:
        return _functions(kernel, taps) / _norms(kernel)
    # g = d r with d on the lattice and r less than a quarter turn: d permutes taps exactly.
    angle, mirrored = planar.parts(matrix)
    rest = (-angle if mirrored else angle) % 1 % planar.Fraction(1, 4)
    quarters = angle + rest if mirrored else angle - rest
    on_lattice = planar.from_turns(np.array(float(quarters)), np.array(mirrored))
    turned = taps @ on_lattice @ planar.turn(rest.numerator, rest.denominator)
    return _functions(kernel, turned) / _norms(kernel)


def _functions(kernel: int, positions: np.ndarray) -> np.ndarray:
    rows, columns = positions.T
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    found = []
    for ring, m in harmonics(kernel):
        height = np.exp(-((radius - ring.radius) ** 2) / (2 * ring.width**2))
        if m == 0:
            found.append(height)
        else:
            height = np.where(radius > 0, height, 0)  # no direction at the centre
            found += [height * np.cos(m * angle), height * np.sin(m * angle)]
    return np.stack(found)


@lru_cache(maxsize=64)
def _norms(kernel: int) -> np.ndarray:
    taps = np.indices((kernel, kernel)).reshape(2, -1).T - (kernel - 1) / 2
    return np.linalg.norm(_functions(kernel, taps), axis=1, keepdims=True)


def turning(m: int, matrix: np.ndarray) -> np.ndarray:
    """T (1, 1) or (2, 2) with which an element g moves (cos m phi, sin m phi): B(g^-1 t) = T B(t).

    Example:
        >>> turning(2, planar.turn(1, 4)).round(12) + 0.0
        array([[-1.,  0.],
               [ 0., -1.]])
    """
    if m == 0:
        return np.ones((1, 1))
    # In (column, row) order, in which phi is measured, the first axis goes to this angle.
    alpha = m * math.atan2(matrix[0, 1], matrix[1, 1])
    c, s = math.cos(alpha), math.sin(alpha)
    if np.linalg.det(matrix) < 0:
        return np.array([[c, s], [s, -c]])
    return np.array([[c, s], [-s, c]])


@dataclass(frozen=True, eq=False)
class Steered:
    """The filters between one copy each of two representations, as a linear map of free weights.

    ``filter[o, q, e] = sum over k of weight[index[o, q], k] * basis[o, k, e]``: an output's entries
    in `parts` groups of `basis` columns. To a regular field, each input channel is a part and the
    weights are those of another input, turned; otherwise there is one part.

    Attributes:
        index: (out size, parts), which row of the weights (rows, functions) each part takes.
        basis: (out size, functions, in size * taps / parts).
        rows: Rows of the weights.
    """

    index: np.ndarray
    basis: np.ndarray
    rows: int

    @property
    def functions(self) -> int:
        """Functions that are mixed in one part."""
        return self.basis.shape[1]

    @property
    def count(self) -> int:
        """Free weights."""
        return self.rows * self.functions

    @property
    def entries(self) -> Orbits:
        """Which entries (out size, in size * taps) are not always zero, as orbits of their own."""
        live = (np.abs(self.basis) > 1e-9).any(axis=1)
        sign = np.tile(live, self.index.shape[1]).astype(np.int64).ravel()
        return Orbits(np.where(sign, 0, ABSENT), sign, self.count)

    @property
    def energy(self) -> float:
        """Sum of an output's squared entries for weights of variance 1, mean over outputs."""
        return float((self.basis**2).sum()) * self.index.shape[1] / len(self.basis)


def steered(into: Representation, out: Representation, kernel: int) -> Steered:
    """The band-limited filters that are equivariant between two representations.

    A pair of channels (o, i) that g maps to (o', i') has the filter of the latter turned back:
    ``f[g o, g i](t) = sign * f[o, i](g^-1 t)``. So each orbit of pairs holds one function, free but
    for what the pair's stabiliser asks of it.

    Args:
        into: Representation of the input.
        out: Representation of the output, over the same group of the plane.
        kernel: Taps a side.

    References:
        Weiler, Hamprecht, Storath, Learning steerable filters for rotation equivariant CNNs
        (2018), section 2; Weiler and Cesa, General E(2)-equivariant steerable CNNs (2019),
        theorem 1 and appendix C.
    """
    group = out.group
    turned = np.stack([sampled(kernel, g) for g in group.matrices])
    if out.size == group.order and not out.signed and _is_regular(out) and not into.signed:
        # Element g moves output 0 to output g[0], and input i to input g[i].
        place, index = out.permutation[:, 0], np.empty((out.size, into.size), np.int64)
        for g, o in enumerate(place):
            index[o, into.permutation[g]] = np.arange(into.size)
        return Steered(index, turned[np.argsort(place)], into.size)
    return _by_orbits(into, out, kernel, turned)


def _is_regular(out: Representation) -> bool:
    return len(np.unique(out.permutation[:, 0])) == out.size


def _by_orbits(
    into: Representation, out: Representation, kernel: int, turned: np.ndarray
) -> Steered:
    """`steered` from the definition: one orbit of channel pairs after another."""
    group, seen, columns = out.group, set(), []
    taps = turned.shape[-1]
    for o in range(out.size):
        for i in range(into.size):
            if (o, i) in seen:
                continue
            image = list(zip(out.permutation[:, o], into.permutation[:, i], strict=True))
            signs = out.signs[:, o] * into.signs[:, i]
            seen.update(image)
            fixing = [g for g, pair in enumerate(image) if pair == (o, i)]
            free = _invariant(kernel, group.matrices[fixing], signs[fixing])
            filters = np.zeros((len(free), out.size, into.size, taps))
            for g, (o2, i2) in enumerate(image):
                filters[:, o2, i2] = signs[g] * (free @ turned[g])
            columns.append(filters)
    basis = np.concatenate(columns).transpose(1, 0, 2, 3).reshape(out.size, -1, into.size * taps)
    return Steered(np.zeros((out.size, 1), np.int64), basis, 1)


def _invariant(kernel: int, matrices: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Mixtures (free, size) of the functions with f(h^-1 t) = sign(h) f(t) for every h given."""
    found, start, total = [], 0, size(kernel)
    for _, m in harmonics(kernel):
        moved = np.stack([turning(m, h) for h in matrices])
        project = np.einsum("h,hab->ba", signs, moved) / len(matrices)
        values, vectors = np.linalg.eigh((project + project.T) / 2)
        for vector in vectors.T[values > 0.5]:
            row = np.zeros(total)
            row[start : start + len(vector)] = vector
            found.append(row)
        start += len(project)
    return np.array(found).reshape(-1, total)


def lost(into: Representation, out: Representation, kernel: int) -> StructureError:
    """Why no filter of this kernel exists between two representations: the frequencies it loses."""
    highest = max(ring.cutoff for ring in rings(kernel))
    between = f"{into.name.format(copies=1)} to {out.name.format(copies=1)}"
    return StructureError(
        f"a kernel that holds angular frequency {_least_frequency(into, out)}, the lowest from "
        f"{between}",
        f"kernel_size {kernel}, which holds those up to {highest}: higher ones are lost",
        "use regular fields, or a larger kernel where one holds it",
    )


def _least_frequency(into: Representation, out: Representation) -> int:
    """The lowest frequency m in which some filter between two representations exists."""
    both, m = _characters(into) * _characters(out), 0
    # At the latest m = the group's order is one: there no turn changes the functions.
    while both @ [np.trace(turning(m, g)) for g in out.group.matrices] < 0.5:
        m += 1
    return m


def _characters(representation: Representation) -> np.ndarray:
    here = representation.permutation == np.arange(representation.size)
    return (representation.signs * here).sum(axis=1)
