"""Groups against their definition: axioms, and members listed without the closure."""

import copy
import itertools
import pickle

import numpy as np
import pytest

from symconv import StructureError
from symconv.lattice import Group, groups

NAMED = ("trivial(1) trivial(2) trivial(3) mirror C1 C2 C4 D1 D2 D4 p4 p4m O Oh B1 B2 B3 "
         "flip(2, 0) flip(3, 1)").replace(", ", ",").split()  # fmt: skip


def signed_permutations(n):
    """All of them, listed from their definition."""
    for order in itertools.permutations(range(n)):
        for signs in itertools.product((1, -1), repeat=n):
            matrix = np.zeros((n, n), np.int64)
            matrix[np.arange(n), order] = signs
            yield matrix


def as_set(matrices):
    return {np.asarray(m).tobytes() for m in matrices}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_hyperoctahedral_is_every_signed_permutation(n):
    group = groups.hyperoctahedral(n)
    assert as_set(group.matrices) == as_set(signed_permutations(n))
    assert group.order == len(as_set(group.matrices)) == 2**n * (1, 2, 6)[n - 1]


def test_rotations_are_those_of_determinant_one():
    for rotations, everything in ((groups.octahedral(), groups.full_octahedral()),
                                  (groups.cyclic(4), groups.dihedral(4))):  # fmt: skip
        n = everything.dimension
        assert as_set(everything.matrices) == as_set(signed_permutations(n))
        proper = [m for m in signed_permutations(n) if round(np.linalg.det(m)) == 1]
        assert as_set(rotations.matrices) == as_set(proper)


def test_the_quarter_turn_is_that_of_rot90():
    picture = np.arange(12).reshape(3, 4)
    turned = np.rot90(picture)
    for row, column in np.ndindex(3, 4):  # doubled, centred coordinates
        place = groups.cyclic(4).matrices[1] @ (2 * row - 2, 2 * column - 3)
        at = (place + np.array(turned.shape) - 1) // 2
        assert turned[tuple(at)] == picture[row, column]


@pytest.mark.parametrize("name", NAMED)
def test_axioms(name):
    group = groups.parse(name)
    assert group.exact
    assert np.array_equal(group.matrices[0], np.eye(group.dimension))
    product, count = group.product, range(group.order)
    for a in count:
        assert sorted(product[a]) == sorted(product[:, a]) == list(count)  # a Latin square
        assert product[a, group.inverse[a]] == product[group.inverse[a], a] == 0
    for a, b in itertools.product(group.elements[:12], group.elements):
        assert np.array_equal((a * b).matrix, a.matrix @ b.matrix)
        assert ~(a * b) == ~b * ~a
    assert as_set(groups.parse(name).subgroup(group.generators).matrices) == group.members


@pytest.mark.parametrize("name", NAMED)
def test_a_name_parses_back(name):
    group = groups.parse(name)
    again = groups.parse(repr(group))
    assert again == group
    assert hash(again) == hash(group)
    assert groups.parse(group) is group
    assert groups.parse(name, group.dimension) == group
    for copied in (copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        assert copied == group


def test_published_orders():
    orders = {name: groups.parse(name).order for name in ("mirror", "C4", "D4", "O", "Oh", "B3")}
    assert orders == {"mirror": 2, "C4": 4, "D4": 8, "O": 24, "Oh": 48, "B3": 48}


def test_subgroups_get_their_usual_names():
    D4, Oh = groups.dihedral(4), groups.full_octahedral()
    found = {repr(D4.subgroup([a, b])) for a in range(8) for b in range(8)}
    assert {"C1", "C2", "C4", "D1", "D2", "D4", "flip(2, 0)"} <= found
    assert D4.subgroup([3]) == groups.cyclic(4)  # another generator, the same order of elements
    assert len({D4.subgroup([a, b]).members for a in range(8) for b in range(8)}) == 10
    assert repr(Oh.subgroup([2, 5, 7, 40])) in ("Oh", "O") or Oh.subgroup([2, 5, 7, 40]).order < 48
    assert D4.subgroup([5], name="diagonal").name == "diagonal"
    diagonal = D4.subgroup([5])
    assert diagonal == eval(repr(diagonal), {"D4": D4})


def test_axes_that_a_group_reverses_or_exchanges():
    assert groups.cyclic(4).reversed_axes == (True, True)
    assert groups.dihedral(1).reversed_axes == (False, True)
    assert groups.flip(3, 1).reversed_axes == (False, True, False)
    swap = Group("swap", [np.array([[0, 1], [1, 0]])], 2)
    assert swap.reversed_axes == (False, False)
    assert not swap.keeps((3, 5))
    assert groups.dihedral(2).keeps((3, 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: groups.parse("C0"), "whole number N of turns"),
        (lambda: groups.cyclic(True), "whole number N of turns"),
        (lambda: groups.cyclic(-4), "whole number N of turns"),
        (lambda: groups.dihedral(2.5), "whole number N of turns"),
        (lambda: groups.cyclic(1001), "from 1 to 1000"),
        (lambda: groups.parse("D8", 1), "1 axes of space"),
        (lambda: groups.parse("D8", 3), "3 axes of space"),
        (lambda: groups.cyclic(8).vector(1), "permutes the axes"),
        (lambda: groups.cyclic(8).quotient("C3"), "a subgroup of C8"),
        (lambda: groups.parse("E7"), "known|group name among"),
        (lambda: groups.parse("trivial"), "a dimension"),
        (lambda: groups.parse("C4", 3), "3 axes of space"),
        (lambda: groups.flip(2, 2), "an axis from -2 to 1"),
        (lambda: Group("bad", [np.array([[1, 1], [0, 1]])], 2), "turns and mirrors of the plane"),
        (lambda: Group("bad", [planar_turn(1.0)], 2), "order is at most 1000"),
        (lambda: Group("bad", [np.full((3, 3), 0.5)], 3), "signed permutation"),
        (lambda: groups.cyclic(4).smaller("D4"), "a subgroup of C4"),
        (lambda: groups.cyclic(4).smaller("O"), "2 axes of space"),
        (lambda: groups.cyclic(4).elements[0] * groups.dihedral(4).elements[0], "element of C4"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(StructureError, match=message):
        wrong()


def test_a_broken_product_table_is_noticed():
    """Negative control of the axioms."""
    group = groups.cyclic(4)
    group.product[1, 2] = 0
    with pytest.raises(AssertionError):
        assert sorted(group.product[1]) == list(range(4))


def test_elements_of_another_group_are_found_by_what_they_do():
    D4, C2, half = groups.dihedral(4), groups.cyclic(2), groups.cyclic(2).elements[1]
    assert D4.subgroup([half]) == C2
    assert D4.subgroup([half.index]) != C2, "the same index names another element here"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: groups.cyclic(2).subgroup([groups.cyclic(4).elements[1]]), "an element of C2"),
        (lambda: groups.cyclic(2).subgroup([2]), "index below 2"),
        (lambda: groups.cyclic(2).subgroup([groups.octahedral().elements[1]]), "an element of C2"),
        (lambda: groups.parse(4), "group name"),
        (lambda: groups.parse("B0"), "n from 1 to 4"),
        (lambda: groups.parse("B9"), "n from 1 to 4"),
    ],
)
def test_what_is_no_group_is_named(make, message):
    with pytest.raises(StructureError, match=message):
        make()


def planar_turn(radians):
    c, s = np.cos(radians), np.sin(radians)
    return np.array([[c, -s], [s, c]])


@pytest.mark.parametrize("make", [groups.cyclic, groups.dihedral])
@pytest.mark.parametrize("N", [3, 5, 6, 7, 8, 12, 16, 36, 97])
def test_turns_off_the_lattice_form_a_group(make, N):
    group = make(N)
    assert group.order == N * (1 if make is groups.cyclic else 2)
    assert not group.exact
    rng = np.random.default_rng(N)
    for a, b in rng.integers(group.order, size=(20, 2)):
        a, b = group.elements[a], group.elements[b]
        assert np.allclose((a * b).matrix, a.matrix @ b.matrix, atol=1e-12)
        assert np.allclose((~a).matrix, np.linalg.inv(a.matrix), atol=1e-12)
    assert group.elements[1].matrix == pytest.approx(planar_turn(2 * np.pi / N))
    quarter = [e for e in group.elements if e.exact]
    assert len(quarter) == np.gcd(N, 4) * (1 if make is groups.cyclic else 2)


def test_subgroups_off_the_lattice_have_their_usual_names():
    D8, C12 = groups.dihedral(8), groups.cyclic(12)
    assert str(D8.subgroup([2])) == "C4"
    assert str(D8.subgroup([1])) == "C8"
    assert str(C12.subgroup([4])) == "C3"
    assert D8.subgroup([2]) == groups.cyclic(4)
    assert D8.subgroup([2]).exact
    assert D8.quotient("C4", 2).channels == 8
    assert str(groups.cyclic(16).regular(2).restrict("C8")) != "C8.regular(4)"  # interleaved
    assert str(D8.trivial(3).restrict("C8")) == "C8.trivial(3)"


def test_equal_elements_have_equal_bits_whatever_product_they_come_from():
    group = groups.cyclic(360)
    element = group.elements[7]
    for _ in range(3):
        element = element * element * element
    assert element.index == 7 * 27 % 360
    assert groups.cyclic(24).smaller("C8").members <= group.members
