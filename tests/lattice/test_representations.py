"""Representations and fields: homomorphisms, layout in memory, restriction."""

import itertools

import numpy as np
import pytest

from symconv import StructureError
from symconv.lattice import groups
from symconv.lattice.representations import Representation

GROUPS = ["mirror", "C1", "C2", "C4", "D1", "D2", "D4", "O", "Oh"]


def kinds(group):
    """One field of each kind."""
    yield from (group.trivial(1), group.sign(1), group.vector(1), group.regular(1))
    for member in range(0, group.order, 5):
        yield group.quotient(group.subgroup([member]), 1)


def dense(field):
    """A field as matrices (order, channels, channels)."""
    n, order = field.channels, field.group.order
    out = np.zeros((order, n, n), np.int64)
    for g, c in itertools.product(range(order), range(n)):
        out[g, field.permutation[g, c], c] = field.signs[g, c]
    return out


def is_homomorphism(field):
    """rho(g h) = rho(g) rho(h) for generators g and all h, hence for all g."""
    matrices, product = dense(field).astype(np.float32), field.group.product
    steps = field.group.generators
    return all(np.array_equal(matrices[g] @ matrices, matrices[product[g]]) for g in steps)


@pytest.mark.parametrize("name", GROUPS)
def test_fields_are_homomorphisms(name):
    group = groups.parse(name)
    for field in kinds(group):
        assert is_homomorphism(field), field
        assert np.array_equal(field.parts[0][0].matrices(), dense(field))
    assert is_homomorphism(group.trivial(2) + group.vector(2) + group.regular(1))


def test_a_broken_representation_is_no_homomorphism():
    """Negative control."""
    good = groups.dihedral(4).regular(1).parts[0][0]
    permutation = good.permutation.copy()
    permutation[1, [0, 1]] = permutation[1, [1, 0]]
    broken = Representation(good.group, "broken({copies})", permutation, good.signs)
    assert is_homomorphism(good.field(2))
    assert not is_homomorphism(broken.field(2))


@pytest.mark.parametrize("name", GROUPS)
def test_what_each_kind_is(name):
    group = groups.parse(name)
    assert np.array_equal(dense(group.vector(1)), group.matrices)
    assert np.array_equal(dense(group.sign(1)).ravel(), np.rint(np.linalg.det(group.matrices)))
    characters = np.trace(dense(group.regular(1)), axis1=1, axis2=2)
    assert characters.tolist() == [group.order] + [0] * (group.order - 1)
    whole = group.quotient(group, 1)
    assert whole.parts[0][0] == group.trivial(1).parts[0][0]
    assert group.quotient(group.subgroup([]), 1).channels == group.order
    for subgroup in (group.subgroup([member]) for member in range(0, group.order, 3)):
        field = group.quotient(subgroup, 1)
        assert field.channels * subgroup.order == group.order
        fixed = field.permutation[:, 0] == 0  # the first coset is the subgroup itself
        assert {group.matrices[g].tobytes() for g in np.flatnonzero(fixed)} == subgroup.members


def test_signed_and_memory_layout():
    D4, C4 = groups.dihedral(4), groups.cyclic(4)
    assert D4.sign(1).signed
    assert not C4.sign(1).signed  # a turn has determinant 1
    assert C4.vector(2).signed
    assert not (D4.trivial(1) + D4.regular(2)).signed
    assert not (D4.trivial(1) + D4.sign(0)).signed
    field = C4.trivial(2) + C4.regular(2)
    assert (field.channels, field.copies) == (10, 4)
    assert field.permutation[1].tolist() == [0, 1, 3, 4, 5, 2, 7, 8, 9, 6]  # group index fastest


def test_a_field_can_be_pasted_back():
    D4 = groups.dihedral(4)
    names = {"D4": D4, "C2": groups.cyclic(2), "C4": groups.cyclic(4), "D1": groups.dihedral(1)}
    fields = [D4.trivial(4) + D4.regular(2), D4.quotient("C2", 3) + D4.vector(1) + D4.sign(2),
              D4.quotient(D4.subgroup([5]), 2), D4.quotient("C4", 2).restrict("D1")]  # fmt: skip
    for field in fields:
        assert eval(repr(field), names) == field


@pytest.mark.parametrize("name", ["D4", "D2", "C4", "Oh", "mirror"])
def test_restriction_keeps_the_matrices(name):
    group = groups.parse(name)
    subgroups = {group.subgroup([a, b]) for a in range(0, group.order, 5) for b in (0, 1)}
    for subgroup, field in itertools.product(subgroups, kinds(group)):
        field = field + group.trivial(2) + field
        smaller = field.restrict(subgroup)
        assert smaller.group == subgroup
        assert is_homomorphism(smaller)
        places = [group._find(matrix) for matrix in subgroup.matrices]
        assert np.array_equal(dense(smaller), dense(field)[places])


def test_restriction_names_what_it_knows():
    D4, Oh = groups.dihedral(4), groups.full_octahedral()
    field = D4.trivial(1) + D4.sign(2) + D4.vector(1) + D4.regular(3)
    assert repr(field.restrict("C4")) == (
        "C4.trivial(1) + C4.trivial(2) + C4.vector(1) + C4.regular(6)"
    )
    assert repr(field.restrict("D4")) == repr(field)
    assert repr(Oh.sign(1).restrict("O")) == "O.trivial(1)"
    with pytest.raises(StructureError, match="a subgroup of C4"):
        groups.cyclic(4).trivial(1).restrict("D4")


def test_split_into_equal_blocks():
    C4 = groups.cyclic(4)
    assert C4.regular(6).split(3) == C4.regular(2)
    assert (C4.regular(1) + C4.regular(3)).split(2) == C4.regular(2)
    twice = C4.trivial(1) + C4.regular(1) + C4.trivial(1) + C4.regular(1)
    assert twice.split(2) == C4.trivial(1) + C4.regular(1)
    for field, blocks in ((C4.regular(5), 2), (C4.trivial(2) + C4.regular(2), 2)):
        with pytest.raises(StructureError, match="equal blocks"):
            field.split(blocks)


def test_fields_add_up():
    """`sum` starts at 0; nothing else than fields adds to a field."""
    C4 = groups.cyclic(4)
    assert sum([C4.regular(2), C4.vector(1)]) == C4.regular(2) + C4.vector(1)
    for wrong in (lambda: C4.regular(2) + 3, lambda: 3 + C4.regular(2)):
        with pytest.raises(StructureError, match="a field to add to a field, got 3"):
            wrong()


@pytest.mark.parametrize("copies", ["3", None, -1, 1.5, float("nan"), float("inf")])
def test_copies_are_whole(copies):
    C4 = groups.cyclic(4)
    assert C4.regular(np.int64(3)) == C4.regular(3)
    with pytest.raises(StructureError, match="a whole number of copies"):
        C4.regular(copies)


def test_bad_input():
    C4 = groups.cyclic(4)
    with pytest.raises(StructureError, match="number of copies"):
        C4.regular(-1)
    with pytest.raises(StructureError, match="two fields of one group"):
        C4.regular(1) + groups.dihedral(4).regular(1)
