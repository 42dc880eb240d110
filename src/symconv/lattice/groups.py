"""Groups of turns and mirrors: those that act exactly on a pixel lattice, and C_N and D_N.

A lattice of points is mapped onto itself by an orthogonal matrix only if that matrix permutes the
axes and flips some of them. In n dimensions these form the hyperoctahedral group B_n with
n! * 2**n elements: the mirror in 1-D, D4 in 2-D, the full octahedral group in 3-D. They are integer
arithmetic, and one code path serves every dimension. In the plane there are also the turns by any
part of the whole (`exact` is False): on a lattice they act by interpolation.

Matrices act on positions in tensor order (row before column), so the quarter turn is the one of
`torch.rot90(x, 1, (-2, -1))`: content at (row, column) about the centre moves to (-column, row).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral

import numpy as np

from symconv.errors import StructureError
from symconv.lattice import planar, representations
from symconv.lattice.scales import Scales as Scales
from symconv.lattice.scales import scales as scales


@dataclass(frozen=True)
class Element:
    """One element of a group; ``a * b`` is "first b, then a", ``~a`` the inverse."""

    group: Group
    index: int

    @property
    def matrix(self) -> np.ndarray:
        """The orthogonal matrix (n, n), acting on positions in tensor order."""
        return self.group.matrices[self.index]

    @property
    def exact(self) -> bool:
        """Whether it maps the lattice onto itself: a signed permutation of the axes."""
        return planar.is_signed_permutation(self.matrix)

    def __mul__(self, other: Element) -> Element:
        if self.group != other.group:
            raise StructureError(f"an element of {self.group}", f"one of {other.group}")
        return Element(self.group, int(self.group.product[self.index, other.index]))

    def __invert__(self) -> Element:
        return Element(self.group, int(self.group.inverse[self.index]))

    def __repr__(self) -> str:
        return f"{self.group!r}.elements[{self.index}]"


class Group:
    """A finite group of orthogonal matrices, closed from its generators.

    Attributes:
        name: How it is written, "C4" for instance.
        matrices: Array (order, n, n), the identity first: signed permutations as integers, or in
            the plane turns and mirrors of any finite order.
        generators: Indices into `matrices` of elements that generate the group.
        reversed_axes: Per axis, does some element reverse it? There padding must be equal at both
            ends, and the sampling grid of a strided layer centred.

    Example:
        >>> C4 = cyclic(4)
        >>> turn = C4.elements[1]
        >>> turn * turn * turn == ~turn
        True
        >>> C4.regular(2).channels
        8
    """

    def __init__(self, name: str, generators: Iterable[np.ndarray], dimension: int):
        self.name = name
        self.dimension = dimension
        steps = [np.asarray(g) for g in generators]
        exact = all(planar.is_signed_permutation(step) for step in steps)
        for step in steps:
            if step.shape != (dimension, dimension) or not (exact or dimension == 2):
                raise StructureError(
                    f"signed permutation matrices of {dimension} axes", step.tolist()
                )
        self._cuts = None if exact else planar.finest(steps)
        self.matrices = _closure(
            [self._multiple(step) for step in steps], dimension, self._multiple
        )
        self.generators = tuple(self._find(self._multiple(step)) for step in steps)
        # Not cached on first use: that takes a lock, through which torch.compile cannot follow.
        reverses = (self.matrices == -1).any(axis=(0, 2)) | (not exact)
        self.reversed_axes: tuple[bool, ...] = tuple(reverses.tolist())

    def _multiple(self, matrices: np.ndarray) -> np.ndarray:
        """Products of elements without their rounding, so that equal ones have equal bits."""
        if self._cuts is None:
            return matrices.astype(np.int64)
        return planar.snapped(matrices, self._cuts)

    def _find(self, matrix: np.ndarray) -> int:
        found = np.flatnonzero((self.matrices == matrix).all(axis=(1, 2)))
        if len(found) == 0:
            raise StructureError(f"an element of {self}", np.asarray(matrix).tolist())
        return int(found[0])

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.matrices)

    @property
    def exact(self) -> bool:
        """Whether every element maps the lattice onto itself, without interpolation."""
        return self._cuts is None

    @property
    def elements(self) -> tuple[Element, ...]:
        """All elements, the identity first."""
        return tuple(Element(self, index) for index in range(self.order))

    @cached_property
    def product(self) -> np.ndarray:
        """Multiplication table (order, order): ``product[a, b]`` is "first b, then a"."""
        both = self._multiple(np.einsum("aij,bjk->abik", self.matrices, self.matrices))
        keys = {m.tobytes(): index for index, m in enumerate(self.matrices)}
        flat = both.reshape(-1, self.dimension, self.dimension)
        return np.array([keys[m.tobytes()] for m in flat]).reshape(self.order, self.order)

    @cached_property
    def inverse(self) -> np.ndarray:
        """Index of each element's inverse."""
        return np.argwhere(self.product == 0)[:, 1]

    def keeps(self, values: Sequence[int]) -> bool:
        """Whether one value per axis is the same on all axes that the group exchanges.

        Example:
            >>> cyclic(4).keeps((3, 5)), dihedral(2).keeps((3, 5))
            (False, True)
        """
        if not self.exact:
            return len(set(values)) <= 1
        return bool((np.abs(self.matrices) @ np.asarray(values) == np.asarray(values)).all())

    def _index(self, element: int | Element) -> int:
        if isinstance(element, Element):
            if element.group.dimension != self.dimension:
                raise StructureError(f"an element of {self}", repr(element))
            return self._find(element.matrix)  # groups number their elements differently
        if not 0 <= element < self.order:
            raise StructureError(f"an element of {self} or its index below {self.order}", element)
        return int(element)

    def subgroup(self, elements: Sequence[int | Element], name: str | None = None) -> Group:
        """The subgroup that some elements generate, under its usual name where it has one.

        Args:
            elements: Elements of this group (given by any group that holds them), or indices.
            name: What to call it; the usual name if left out.

        Raises:
            StructureError: An element is not in this group.

        Example:
            >>> D4 = dihedral(4)
            >>> D4.subgroup([3]), D4.subgroup([2, 4]), D4.subgroup([5])
            (C4, D2, D4.subgroup([5]))
        """
        chosen = [self._index(e) for e in elements]
        made = Group(
            name or f"{self.name}.subgroup({chosen})",
            [self.matrices[i] for i in chosen],
            self.dimension,
        )
        if name is None:
            members = made.members
            usual = (g for g in _usual(self.dimension, made.order) if g.members == members)
            return next(usual, made)
        return made

    @cached_property
    def members(self) -> frozenset[bytes]:
        """The elements as a set, whatever their order."""
        whole = np.rint(self.matrices)
        return frozenset(
            (w.astype(np.int64) if (w == m).all() else m).tobytes()
            for w, m in zip(whole, self.matrices, strict=True)
        )

    def smaller(self, subgroup: Group | str) -> Group:
        """A subgroup of this group, given itself or by its short name.

        Raises:
            StructureError: It has an element that this group lacks.
        """
        group = parse(subgroup, self.dimension)
        if not group.members <= self.members:
            raise StructureError(f"a subgroup of {self}", str(group))
        return group

    def positions_of(self, subgroup: Group | str) -> np.ndarray:
        """Where a subgroup's elements stand among this group's."""
        return np.array([self._find(m) for m in self.smaller(subgroup).matrices])

    def trivial(self, copies: int = 1) -> representations.Field:
        """A field of plain channels: unchanged by every element."""
        return representations.trivial(self).field(copies)

    def sign(self, copies: int = 1) -> representations.Field:
        """A field of pseudo-scalars: times the determinant (-1 under a reflection)."""
        return representations.sign(self).field(copies)

    def vector(self, copies: int = 1) -> representations.Field:
        """A field of vectors over the axes of space, such as a gradient: n channels a copy.

        Raises:
            StructureError: Some element mixes the axes, as turns by 45 degrees do.
        """
        return representations.vector(self).field(copies)

    def regular(self, copies: int = 1) -> representations.Field:
        """A field with one channel per element, which the group permutes."""
        return representations.regular(self).field(copies)

    def quotient(self, subgroup: Group | str, copies: int = 1) -> representations.Field:
        """A field with one channel per coset of a subgroup."""
        return representations.quotient(self, self.smaller(subgroup)).field(copies)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Group) and np.array_equal(self.matrices, other.matrices)

    def __hash__(self) -> int:
        return hash(self.matrices.tobytes())

    def __repr__(self) -> str:
        return self.name


def _closure(
    steps: list[np.ndarray], dimension: int, multiple: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Everything the steps generate; the first step's powers come first, so C4 is e, r, r2, r3."""
    found = [multiple(np.eye(dimension))]
    seen = {found[0].tobytes()}
    for count in range(len(steps)):
        frontier = list(found)
        while frontier:
            element = frontier.pop(0)
            for step in steps[: count + 1]:
                after = multiple(element @ step)
                if after.tobytes() not in seen:
                    seen.add(after.tobytes())
                    found.append(after)
                    frontier.append(after)
    return np.stack(found)


def _flip(dimension: int, axis: int) -> np.ndarray:
    matrix = np.eye(dimension, dtype=np.int64)
    matrix[axis, axis] = -1
    return matrix


def _turn(dimension: int, first: int, second: int) -> np.ndarray:
    """The quarter turn that takes axis `first` onto axis `second`."""
    matrix = np.eye(dimension, dtype=np.int64)
    matrix[[first, second]] = matrix[[second, first]]
    matrix[first, second] *= -1
    return matrix


def trivial(n: int) -> Group:
    """The group of the identity alone, in n dimensions."""
    return Group(f"trivial({n})", [], n)


def flip(n: int, axis: int = -1) -> Group:
    """The mirror along one axis of n (the last one by default): order 2."""
    if not -n <= axis < n:
        raise StructureError(f"an axis from {-n} to {n - 1}", axis)
    return Group("mirror" if n == 1 else f"flip({n}, {axis % n})", [_flip(n, axis)], n)


def cyclic(N: int) -> Group:
    """The turns of the plane by multiples of 360 / N degrees.

    Those by quarter turns map a square lattice onto itself: for N in 1, 2, 4 the group acts
    exactly, for any other N by interpolation.

    Raises:
        StructureError: N is not a whole number from 1 to 1,000.

    Example:
        >>> cyclic(8).exact, [g.exact for g in cyclic(8).elements[:3]]
        (False, [True, False, True])
    """
    _check_turns(N)
    return Group(f"C{N}", [] if N == 1 else [planar.turn(1, N)], 2)


def dihedral(N: int) -> Group:
    """The turns of `cyclic(N)` and the mirror of the last axis (left and right): order 2 N."""
    _check_turns(N)
    return Group(f"D{N}", [*([] if N == 1 else [planar.turn(1, N)]), _flip(2, 1)], 2)


def _check_turns(N: int) -> None:
    if isinstance(N, bool) or not isinstance(N, Integral) or not 1 <= N <= planar.LARGEST:
        raise StructureError(f"a whole number N of turns from 1 to {planar.LARGEST}", repr(N))


def octahedral() -> Group:
    """The 24 rotations of the cube: O."""
    return Group("O", [_turn(3, 1, 2), _turn(3, 0, 1)], 3)


def full_octahedral() -> Group:
    """The 48 rotations and reflections of the cube: Oh, which is B3."""
    return Group("Oh", [_turn(3, 1, 2), _turn(3, 0, 1), _flip(3, 2)], 3)


def hyperoctahedral(n: int) -> Group:
    """All n! * 2**n signed permutations of n axes: B_n.

    Raises:
        StructureError: n is not from 1 to 4 (B_5 has 3,840 elements).
    """
    if n not in range(1, 5):
        raise StructureError("n from 1 to 4 axes", n)
    swaps = [np.eye(n, dtype=np.int64)[_swapped(n, axis)] for axis in range(n - 1)]
    return Group(f"B{n}", [_flip(n, n - 1), *swaps], n)


def _swapped(n: int, axis: int) -> list[int]:
    order = list(range(n))
    order[axis], order[axis + 1] = axis + 1, axis
    return order


_NAMED = {"mirror": lambda: flip(1), "p4": lambda: cyclic(4), "p4m": lambda: dihedral(4),
          "O": octahedral, "Oh": full_octahedral}  # fmt: skip


@lru_cache
def _usual(dimension: int, order: int) -> tuple[Group, ...]:
    """The groups of a dimension that have a name and may have this order, to call subgroups by."""
    plane = [cyclic(order), *([] if order % 2 else [dihedral(order // 2)])]
    plane = plane if dimension == 2 else []
    space = [octahedral(), full_octahedral()] if dimension == 3 else []
    flips = [flip(dimension, axis) for axis in range(dimension)]
    return (*plane, *space, trivial(dimension), *flips, hyperoctahedral(dimension))


def parse(name: str | Group, dimension: int | None = None) -> Group:
    """The group that a short name stands for; a group is given back as it is.

    Args:
        name: "C4", "D8" and so on for any number of turns, "p4" (C4), "p4m" (D4), "O", "Oh", "B1"
            and so on, "mirror", "trivial(2)", "flip(2, 0)", or "trivial" (needs `dimension`).
        dimension: Number of space axes the group must have.

    Raises:
        StructureError: The name is unknown, or the group has another dimension.

    Example:
        >>> parse("p4m").order, parse("Oh").dimension
        (8, 3)
    """
    group = name if isinstance(name, Group) else _from_name(name, dimension)
    if dimension not in (None, group.dimension):
        raise StructureError(
            f"a group of {dimension} axes of space", f"{group}, which has {group.dimension}"
        )
    return group


def _from_name(name: str, dimension: int | None) -> Group:
    known = "C1 C2 C3 ... D1 D2 D3 ... p4 p4m O Oh B1 B2 B3 mirror trivial"
    if not isinstance(name, str):
        raise StructureError(f"a group or a group name among {known}", repr(name))
    if name == "trivial":
        if dimension is None:
            raise StructureError("a dimension for the trivial group", "none", 'try "trivial(2)"')
        return trivial(dimension)
    if name in _NAMED:
        return _NAMED[name]()
    if match := re.fullmatch(r"trivial\((\d+)\)", name):
        return trivial(int(match[1]))
    if match := re.fullmatch(r"flip\((\d+), *(-?\d+)\)", name):
        return flip(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"([CDB])(\d+)", name):
        maker = {"C": cyclic, "D": dihedral, "B": hyperoctahedral}[match[1]]
        return maker(int(match[2]))
    raise StructureError(f"a group name among {known}", repr(name))
