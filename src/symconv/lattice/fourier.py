"""The Fourier transform of functions on a cyclic or dihedral group, over the real numbers.

A regular field's copy holds a function on the group, and a map that commutes with the group is
block-diagonal in the irreducible representations: one number for each of dimension 1, one 2x2
matrix for each of dimension 2. A dihedral group's 2-dimensional ones occur twice, with the same
matrix: it acts on two columns. The transform is a product of sparse matrices (butterflies), as in
any fast Fourier transform; for C1, C2, C4 and D1, D2, D4 all entries are -1, 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import NamedTuple

import numpy as np

Matrix = np.ndarray


class Program(NamedTuple):
    """A matrix times a vector as a straight line of short sums.

    Attributes:
        steps: Terms (slot, coefficient) of one sum each. The vector's entries are the first
            slots; each sum makes the next one.
        outputs: The slots of the result.
    """

    steps: tuple[tuple[tuple[int, float], ...], ...]
    outputs: tuple[int, ...]

    @property
    def additions(self) -> int:
        """Additions of two slots, a mere scaling counted as one."""
        return sum(max(1, len(terms) - 1) for terms in self.steps)


@dataclass(frozen=True)
class Fourier:
    """The real Fourier transform of a group, unnormalised: its rows are orthogonal.

    Rows: the `ones` irreducible representations of dimension 1, then for each of the `twos` of
    dimension 2 its two components, each in `columns` copies.

    Attributes:
        places: The group's elements in the order in which `factors` take them: the powers r^k of
            a turn, then r^k m for a mirror m.
        ones: How many irreducible representations have dimension 1.
        twos: How many have dimension 2 over the real numbers.
        columns: How often each of dimension 2 occurs (1 in cyclic groups, 2 in dihedral ones).
        factors: Sparse matrices whose product, the last one leftmost, is the transform.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> transform = fourier(parse("C4").product)
        >>> transform.matrix.astype(int)
        array([[ 1,  1,  1,  1],
               [ 1, -1,  1, -1],
               [ 1,  0, -1,  0],
               [ 0,  1,  0, -1]])
        >>> transform.products, fourier(parse("D4").product).products
        (6, 12)

    References:
        Serre, Linear representations of finite groups (1977), sections 5.1, 5.3 and 6.2; Diaconis
        and Rockmore, Efficient computation of the Fourier transform on finite groups (1990).
    """

    places: tuple[int, ...]
    ones: int
    twos: int
    columns: int
    factors: tuple[Matrix, ...]

    @property
    def order(self) -> int:
        """Number of elements of the group."""
        return len(self.places)

    @property
    def products(self) -> int:
        """Multiplications that a map between two regular copies takes, instead of order squared."""
        return self.ones + 4 * self.columns * self.twos

    @cached_property
    def matrix(self) -> Matrix:
        """The transform (order, order), acting on functions in the group's own order."""
        inner = reduce(lambda product, factor: factor @ product, self.factors)
        matrix = np.empty_like(inner)
        matrix[:, self.places] = inner
        return matrix

    @cached_property
    def forward(self) -> Program:
        """The transform as sums."""
        return _program(self.factors, self.places, range(self.order))

    @cached_property
    def backward(self) -> Program:
        """The transposed transform as sums: the inverse, but for a scale per row."""
        transposed = [factor.T for factor in reversed(self.factors)]
        return _program(transposed, range(self.order), np.argsort(self.places))

    def blocks(self, orbits: Matrix) -> Matrix:
        """How a filter's free weights give the blocks, scaled so that transposing ends it.

        ``filter = matrix.T @ blocks @ matrix``: the scales of both transforms are in the blocks.

        Args:
            orbits: Which of the `order` weights each entry (output, input) of the filter between
                two regular copies holds.

        Returns:
            (ones + 4 * twos, order): coefficients of the weights in the blocks of dimension 1,
            then in (two, row, column) of those of dimension 2.
        """
        scaled = self.matrix / (self.matrix**2).sum(axis=1, keepdims=True)
        tables = (orbits == np.arange(self.order)[:, None, None]).astype(float)
        every = np.moveaxis(scaled @ tables @ scaled.T, 0, -1)
        single = every[range(self.ones), range(self.ones)]
        shape = self.twos, 2, self.columns, self.twos, 2, self.columns, self.order
        double = every[self.ones :, self.ones :].reshape(shape)[:, :, 0, :, :, 0]
        double = double[range(self.twos), :, range(self.twos)]
        return np.concatenate([single, double.reshape(4 * self.twos, self.order)])


def fourier(product: Matrix) -> Fourier | None:
    """The transform of a group given by its multiplication table; None if neither kind fits.

    Groups that are cyclic or dihedral in the abstract count too: a mirror is C2, two are D2.
    """
    return _fourier(product.tobytes(), len(product))


@lru_cache(maxsize=64)
def _fourier(table: bytes, order: int) -> Fourier | None:
    product = np.frombuffer(table, np.int64).reshape(order, order)
    powers = max((_powers(product, g) for g in range(order)), key=len)
    turns = len(powers)
    factors, ones = _cyclic(turns), 2 - turns % 2 if turns > 1 else 1
    if turns == order:
        return Fourier(tuple(powers), ones, (turns - ones) // 2, 1, tuple(factors))
    mirror = next((g for g in range(order) if _reverses(product, g, powers)), None)
    if 2 * turns != order or mirror is None:
        return None
    both = [_side_by_side(factor, factor) for factor in factors]
    places = (*powers, *product[powers, mirror].tolist())
    return Fourier(places, 2 * ones, (turns - ones) // 2, 2, (*both, _mirrored(turns, ones)))


def _powers(product: Matrix, element: int) -> list[int]:
    powers = [0]
    while (following := int(product[powers[-1], element])) != 0:
        powers.append(following)
    return powers


def _reverses(product: Matrix, mirror: int, powers: Sequence[int]) -> bool:
    """Is this an involution outside the powers of a turn that turns them round?"""
    turn, back = powers[1 % len(powers)], powers[-1]
    outside = mirror not in powers and product[mirror, mirror] == 0
    return bool(outside and product[product[mirror, turn], mirror] == back)


def _cyclic(n: int) -> list[Matrix]:
    """Factors of the transform of C_n: rows 1, alternating (n even), then cosine and sine pairs.

    An even n is split into sums and differences of opposite elements, which hold the even and
    the odd frequencies; an odd one is folded at its identity.
    """
    if n == 1:
        return [np.eye(1)]
    if n % 2:
        return [_fold(n, 1), _waves(n, range((n + 1) // 2), np.arange(n) / n)]
    half = n // 2
    butterfly = np.kron([[1, 1], [1, -1]], np.eye(half))
    even, odd = _cyclic(half), _odd(half)
    identity = [np.eye(half)]
    even = identity * (len(odd) - len(even)) + even
    odd = odd + identity * (len(even) - len(odd))
    halves = [_side_by_side(a, b) for a, b in zip(even, odd, strict=True)]
    halves[-1] = halves[-1][np.array(_sorted_rows(half))]
    return [butterfly.astype(float), *halves]


def _side_by_side(a: Matrix, b: Matrix) -> Matrix:
    """Two blocks on a diagonal."""
    return np.block([[a, np.zeros((len(a), len(b)))], [np.zeros((len(b), len(a))), b]])


def _odd(half: int) -> list[Matrix]:
    """Odd frequencies of C_(2 half) from the differences of opposite elements."""
    if half <= 2:
        return [np.eye(half)]
    odd = range(1, half + 1, 2)
    return [_fold(half, -1), _waves(half, odd, np.arange(half) / (2 * half))]


def _fold(n: int, sign: int) -> Matrix:
    """x_k + sign x_(n-k) in place of x_k for k below n / 2, x_k - sign x_(n-k) beyond."""
    fold = np.eye(n)
    for k in range(1, (n + 1) // 2):
        fold[k, n - k] = sign
        fold[n - k, k], fold[n - k, n - k] = 1, -sign
    return fold


def _waves(n: int, frequencies: Sequence[int], turns: Matrix) -> Matrix:
    """Cosines and sines of folded values: rows that are alone (1, alternating) first."""
    single, pairs = [], []
    k = np.arange(n)
    for frequency in frequencies:
        cosine = _rounded(np.cos(2 * np.pi * frequency * turns)) * (2 * k < n)
        sine = _rounded(np.sin(2 * np.pi * frequency * turns[(n - k) % n])) * (2 * k >= n)
        alone = not sine.any()
        (single if alone else pairs).extend([cosine] if alone else [cosine, sine])
    return np.stack(single + pairs)


def _rounded(values: Matrix) -> Matrix:
    """Halves and whole numbers without the rounding errors of trigonometry."""
    near = np.rint(2 * values) / 2
    return np.where(np.abs(values - near) < 1e-12, near, values)


def _sorted_rows(half: int) -> list[int]:
    """Rows of the two halves of C_(2 half): those of dimension 1 first, then by frequency."""
    single = {0: 0}
    pairs = {}
    for start, first in ((0, 0), (half, 1)):
        alone = [f for f in range(first, half + 1, 2) if f in (0, half)]
        others = [f for f in range(first, half + 1, 2) if f not in (0, half)]
        single |= {f: start + i for i, f in enumerate(alone)}
        pairs |= {f: start + len(alone) + 2 * i for i, f in enumerate(others)}
    return [single[f] for f in sorted(single)] + [
        pairs[f] + component for f in sorted(pairs) for component in (0, 1)
    ]


def _mirrored(turns: int, ones: int) -> Matrix:
    """From the transforms over r^k and over r^k m to that of the dihedral group.

    With (a, b) the cosine and sine over r^k and (c, d) those over r^k m, the pairs (a + c, b - d)
    and (b + d, c - a) are each kept by multiplication from the right, with the same matrices.
    """
    x, z = np.split(np.eye(2 * turns), 2)
    rows = [row for f in range(ones) for row in (x[f] + z[f], x[f] - z[f])]
    for f in range(ones, turns, 2):
        a, b, c, d = x[f], x[f + 1], z[f], z[f + 1]
        rows += [a + c, b + d, b - d, c - a]
    return np.stack(rows)


def _program(
    factors: Sequence[Matrix], inputs: Sequence[int], outputs: Sequence[int] | Matrix
) -> Program:
    """The product of sparse matrices as sums, one for each row that is no mere copy."""
    slots, steps = list(inputs), []
    order = len(slots)
    for factor in factors:
        following = []
        for row in factor:
            terms = [(slots[j], float(row[j])) for j in np.argsort(-row, kind="stable") if row[j]]
            if len(terms) == 1 and terms[0][1] == 1:
                following.append(terms[0][0])
            else:
                following.append(order + len(steps))
                steps.append(tuple(terms))
        slots = following
    return Program(tuple(steps), tuple(slots[i] for i in outputs))
