"""How a group acts on the channels at one position: monomial representations and fields.

A *monomial* representation permutes basis vectors and may flip their signs:
``rho(g) e_j = sign[g, j] * e_{permutation[g, j]}``. Pure permutations (trivial, regular, quotient)
commute with every pointwise nonlinearity; those with signs (sign, vector) do not commute with ReLU.

A *field* is a sum of representations, each with a number of copies. In memory a copy's components
lie side by side: a regular field of c copies has c * |G| channels, the group index fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, repeat
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from symconv.errors import StructureError

if TYPE_CHECKING:
    from symconv.lattice.groups import Group


@dataclass(frozen=True, eq=False)
class Representation:
    """One monomial representation: integer arrays (order, size) of images and signs."""

    group: Group
    name: str
    permutation: np.ndarray
    signs: np.ndarray

    @property
    def size(self) -> int:
        """Channels of one copy."""
        return self.permutation.shape[1]

    @property
    def signed(self) -> bool:
        """Whether some element flips a sign, so that a pointwise ReLU breaks equivariance."""
        return bool((self.signs < 0).any())

    def field(self, copies: int) -> Field:
        """A field of `copies` copies."""
        if not isinstance(copies, Real) or copies < 0 or copies % 1 != 0:
            raise StructureError("a whole number of copies, at least 0", repr(copies))
        return Field(self.group, ((self, int(copies)),))

    def restrict(self, subgroup: Group | str) -> Field:
        """One copy seen by a subgroup: a field of as many channels."""
        places = self.group.positions_of(subgroup)
        smaller = self.group.smaller(subgroup)
        permutation, signs = self.permutation[places], self.signs[places]
        vectors = (vector(smaller),) if smaller.exact else ()
        for known in (trivial(smaller), sign(smaller), *vectors, regular(smaller)):
            copies, rest = divmod(self.size, known.size)
            if rest:
                continue
            offsets = np.repeat(np.arange(copies) * known.size, known.size)
            same_image = np.array_equal(np.tile(known.permutation, copies) + offsets, permutation)
            if same_image and np.array_equal(np.tile(known.signs, copies), signs):
                return known.field(copies)
        name = f"{self.name}.restrict({smaller})"
        return Representation(smaller, name, permutation, signs).field(1)

    def matrices(self) -> np.ndarray:
        """The representation as matrices (order, size, size)."""
        order = len(self.permutation)
        out = np.zeros((order, self.size, self.size), np.int64)
        out[np.arange(order)[:, None], self.permutation, np.arange(self.size)] = self.signs
        return out

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Representation)
            and self.group == other.group
            and np.array_equal(self.permutation, other.permutation)
            and np.array_equal(self.signs, other.signs)
        )

    def __hash__(self) -> int:
        return hash((self.group, self.permutation.tobytes(), self.signs.tobytes()))


@dataclass(frozen=True)
class Field:
    """A sum of representations with copies: what the channels of a feature map mean.

    Example:
        >>> from symconv.lattice.groups import dihedral
        >>> D4 = dihedral(4)
        >>> field = D4.trivial(4) + D4.regular(2)
        >>> field, field.channels, field.copies
        (D4.trivial(4) + D4.regular(2), 20, 6)
    """

    group: Group
    parts: tuple[tuple[Representation, int], ...]

    @property
    def channels(self) -> int:
        """Channels in all."""
        return sum(copies * representation.size for representation, copies in self.parts)

    @property
    def copies(self) -> int:
        """Copies in all, whatever their sizes."""
        return sum(copies for _, copies in self.parts)

    @property
    def signed(self) -> bool:
        """Whether some element flips a channel's sign."""
        return any(copies and representation.signed for representation, copies in self.parts)

    @cached_property
    def permutation(self) -> np.ndarray:
        """Image of each channel under each element, (order, channels)."""
        return self._spread("permutation")

    @cached_property
    def signs(self) -> np.ndarray:
        """Sign that each channel takes under each element, (order, channels)."""
        return self._spread("signs")

    def _spread(self, name: str) -> np.ndarray:
        columns, start = [np.empty((self.group.order, 0), np.int64)], 0
        for representation, copies in self.parts:
            for _ in range(copies):
                offset = start if name == "permutation" else 0
                columns.append(getattr(representation, name) + offset)
                start += representation.size
        return np.concatenate(columns, axis=1)

    def restrict(self, subgroup: Group | str) -> Field:
        """The same channels seen by a subgroup, whose elements act as they did.

        Where the smaller group's own trivial, sign, vector or regular representations lie side by
        side, they are called by name: a regular field of D4 is two regular copies of C4.

        Raises:
            StructureError: `subgroup` is not one of the field's group.

        Example:
            >>> from symconv.lattice.groups import dihedral
            >>> D4 = dihedral(4)
            >>> (D4.regular(3) + D4.sign(2)).restrict("C4")
            C4.regular(6) + C4.trivial(2)
        """
        parts = [(r.restrict(subgroup), copies) for r, copies in self.parts]
        smaller = parts[0][0].group
        return Field(smaller, tuple((r.parts[0][0], r.parts[0][1] * c) for r, c in parts))

    def split(self, blocks: int) -> Field:
        """The field of one of `blocks` equal blocks of neighbouring copies.

        Raises:
            StructureError: The copies do not form that many equal blocks.

        Example:
            >>> from symconv.lattice.groups import cyclic
            >>> C4 = cyclic(4)
            >>> C4.regular(6).split(3)
            C4.regular(2)
        """
        runs = [(r, len(list(same))) for r, same in groupby(self._each())]
        if len(runs) == 1 and runs[0][1] % blocks == 0:
            return Field(self.group, ((runs[0][0], runs[0][1] // blocks),))
        copies = [r for r, count in runs for _ in range(count)]
        length = len(copies) // blocks
        if len(copies) % blocks or copies[:length] * blocks != copies:
            raise StructureError(
                f"a field of {blocks} equal blocks of copies",
                str(self),
                "choose another number of groups, or write the field as a sum of equal blocks",
            )
        block = groupby(copies[:length])
        return Field(self.group, tuple((r, len(list(same))) for r, same in block))

    def _each(self) -> Iterator[Representation]:
        """Every copy's representation in memory order."""
        return chain.from_iterable(repeat(r, copies) for r, copies in self.parts)

    def __add__(self, other: Field) -> Field:
        if not isinstance(other, Field):
            raise StructureError("a field to add to a field", repr(other), "C4.trivial(3) is one")
        if self.group != other.group:
            raise StructureError(f"two fields of one group, {self.group}", f"{other.group}")
        return Field(self.group, self.parts + other.parts)

    def __radd__(self, other: int) -> Field:
        if other == 0:  # where `sum` starts
            return self
        raise StructureError("a field to add to a field", repr(other), "C4.trivial(3) is one")

    def __repr__(self) -> str:
        return " + ".join(r.name.format(copies=c) for r, c in self.parts)


def trivial(group: Group) -> Representation:
    """One channel that no element changes."""
    order = group.order
    one = np.ones((order, 1), np.int64)
    return Representation(group, f"{group}.trivial({{copies}})", one - 1, one)


def sign(group: Group) -> Representation:
    """One channel times the determinant: -1 under reflections."""
    signs = np.rint(np.linalg.det(group.matrices)).astype(np.int64)[:, None]
    return Representation(group, f"{group}.sign({{copies}})", np.zeros_like(signs), signs)


def vector(group: Group) -> Representation:
    """The group's own matrices: n channels, a vector over the axes of space.

    Raises:
        StructureError: Some element mixes the axes.
    """
    if not group.exact:
        raise StructureError(
            "a group that permutes the axes, for a vector field",
            f"{group}, whose turns mix them",
            "use a regular field, or a subgroup such as C4",
        )
    image = np.abs(group.matrices).argmax(axis=1)
    return Representation(group, f"{group}.vector({{copies}})", image, group.matrices.sum(axis=1))


def regular(group: Group) -> Representation:
    """One channel per element, ``rho(g) e_h = e_{gh}``."""
    return Representation(
        group, f"{group}.regular({{copies}})", group.product, np.ones_like(group.product)
    )


def quotient(group: Group, subgroup: Group) -> Representation:
    """One channel per coset a H, ``rho(g) e_{aH} = e_{gaH}``: functions blind to H.

    Raises:
        StructureError: `subgroup` is not one of `group`.
    """
    members = group.positions_of(subgroup)
    lowest = group.product[:, members].min(axis=1)  # the coset's name: its lowest element
    names, coset = np.unique(lowest, return_inverse=True)
    image = coset[group.product[:, names]]
    name = f"{group}.quotient({subgroup}, {{copies}})"
    return Representation(group, name, image, np.ones_like(image))
