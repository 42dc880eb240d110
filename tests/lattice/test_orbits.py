"""Orbits against brute force over all elements, and against Burnside's count."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from symconv import StructureError
from symconv.lattice import filter_orbits, groups, orbits
from symconv.lattice.filters import Filter
from symconv.lattice.orbits import ABSENT


def moved_entries(in_field, out_field, kernel):
    """Image and sign of every filter entry under every element, by loops over the definition."""
    group, taps = in_field.group, list(itertools.product(*map(range, kernel)))
    entries = list(itertools.product(range(out_field.channels), range(in_field.channels), taps))
    place = {entry: number for number, entry in enumerate(entries)}
    far = np.array(kernel) - 1
    images, signs = [], []
    for g in range(group.order):
        image, sign = [], []
        for out, into, tap in entries:
            at = group.matrices[g] @ (2 * np.array(tap) - far)
            there = tuple(((at + far) // 2).tolist())
            key = (out_field.permutation[g, out], in_field.permutation[g, into], there)
            image.append(place[key])
            sign.append(out_field.signs[g, out] * in_field.signs[g, into])
        images.append(image)
        signs.append(sign)
    return np.array(images), np.array(signs)


def burnside(in_field, out_field, kernel):
    """Dimension of the invariant filters: the mean trace, by characters alone."""
    total = 0
    for g, matrix in enumerate(in_field.group.matrices):
        traces = [
            int((f.signs[g] * (f.permutation[g] == np.arange(f.channels))).sum())
            for f in (in_field, out_field)
        ]
        taps = itertools.product(*map(range, kernel))
        centred = (2 * np.array(t) - np.array(kernel) + 1 for t in taps)
        total += traces[0] * traces[1] * sum(np.array_equal(matrix @ c, c) for c in centred)
    count, rest = divmod(total, in_field.group.order)
    assert rest == 0
    return count


def check_against_brute_force(found, images, signs):
    """Same weight exactly where some element maps one onto the other; zero where onto -itself."""
    for entry in range(images.shape[1]):
        reached = set(zip(images[:, entry].tolist(), signs[:, entry].tolist(), strict=True))
        if (entry, -1) in reached:
            assert (found.weight[entry], found.sign[entry]) == (ABSENT, 0)
            continue
        same = found.weight == found.weight[entry]
        assert set(np.flatnonzero(same)) == {image for image, _ in reached}
        assert all(found.sign[image] == sign * found.sign[entry] for image, sign in reached)


def kinds(group):
    return {"trivial": group.trivial(1), "sign": group.sign(1), "vector": group.vector(1),
            "regular": group.regular(1)}  # fmt: skip


PAIRS = list(itertools.product(["trivial", "sign", "vector", "regular"], repeat=2))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("into", "out"), PAIRS)
def test_every_pair_of_fields_has_burnsides_count(n, into, out):
    fields = kinds(groups.hyperoctahedral(n))
    for size in (1, 2, 3) if n < 3 else (2, 3):
        found = filter_orbits(fields[into], fields[out], (size,) * n)
        assert found.count == burnside(fields[into], fields[out], (size,) * n)
        assert found.count == len(set(found.weight[found.sign != 0].tolist()))


@pytest.mark.parametrize(("name", "kernel"), [
    ("mirror", (4,)), ("C4", (3, 3)), ("D4", (2, 2)), ("D2", (3, 2)), ("flip(2,0)", (2, 3)),
    ("D1", (1, 3)), ("C2", (2, 3)), ("flip(3,1)", (1, 3, 2)),
])  # fmt: skip
def test_filters_against_brute_force(name, kernel):
    group = groups.parse(name)
    for into, out in itertools.product(kinds(group).values(), repeat=2):
        found = filter_orbits(into, out, kernel)
        check_against_brute_force(found, *moved_entries(into, out, kernel))
        assert found.count == burnside(into, out, kernel)


def test_filters_of_b3_against_brute_force():
    group = groups.hyperoctahedral(3)
    for into, out in ((group.vector(1), group.vector(1)), (group.sign(1), group.trivial(1))):
        found = filter_orbits(into, out, (2, 2, 2))
        check_against_brute_force(found, *moved_entries(into, out, (2, 2, 2)))


@st.composite
def sums(draw, group):
    """A random sum of fields over a group."""
    parts = [group.trivial, group.sign, group.vector, group.regular]
    chosen = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=3))
    field = chosen[0](draw(st.integers(1, 2)))
    for part in chosen[1:]:
        field += part(draw(st.integers(1, 2)))
    return field


@given(st.data())
def test_the_layout_over_copies_is_the_orbits_of_all_channels(data):
    group = groups.parse(data.draw(st.sampled_from(["mirror", "C2", "C4", "D1", "D4"])))
    into, out = data.draw(sums(group)), data.draw(sums(group))
    kernel = (data.draw(st.integers(1, 3)),) * group.dimension
    laid, whole = Filter.of(into, out, kernel), filter_orbits(into, out, kernel)
    assert laid.count == whole.count
    assert laid.shape == (out.channels, into.channels, *kernel)
    assert np.array_equal(laid.orbits.sign == 0, whole.sign == 0)
    live = whole.sign != 0
    pairs = set(zip(laid.orbits.weight[live].tolist(), whole.weight[live].tolist(), strict=True))
    assert len(pairs) == whole.count  # one to one, and the signs agree along every orbit:
    first = np.unique(whole.weight[live], return_index=True)[1]
    relative = laid.orbits.sign[live] * whole.sign[live]
    assert np.array_equal(relative, relative[first][whole.weight[live]])


def test_blocks_of_copies_see_only_each_other():
    D4 = groups.dihedral(4)
    blocks = Filter.of(D4.regular(4), D4.vector(2), (3, 3), blocks=2)
    one = Filter.of(D4.regular(2), D4.vector(1), (3, 3))
    assert blocks.shape == (4, 16, 3, 3)
    assert blocks.count == 2 * one.count
    half = blocks.orbits.weight.reshape(2, -1)
    assert set(half[0]).isdisjoint(half[1])
    assert np.array_equal(half[0], one.orbits.weight)


# Translations: the 6x6 torus with a 3x3 window, from raw (output, input) pairs


def torus_weights(size, window, steps):
    """Free weights when translations by `steps` act on (output, input) pairs of a torus."""
    positions = list(itertools.product(range(size), repeat=2))
    offsets = [o - window // 2 for o in range(window)]
    pairs = [
        (at, ((at[0] + dy) % size, (at[1] + dx) % size))
        for at in positions
        for dy, dx in itertools.product(offsets, repeat=2)
    ]
    place = {pair: number for number, pair in enumerate(pairs)}

    def shifted(pair, dy, dx):
        return tuple(((y + dy) % size, (x + dx) % size) for y, x in pair)

    images = [np.array([place[shifted(pair, *step)] for pair in pairs]) for step in steps]
    return orbits(len(pairs), images).count


def test_the_torus_of_the_design():
    assert torus_weights(6, 3, []) == 324  # locally connected
    assert torus_weights(6, 3, [(2, 0), (0, 2)]) == 36  # tile 2
    assert torus_weights(6, 3, [(3, 0), (0, 3)]) == 81  # tile 3
    assert torus_weights(6, 3, [(1, 0), (0, 1)]) == 9  # convolution
    assert torus_weights(6, 3, [(1, 0)]) == 54  # negative control: one axis is not both


# The function itself


@st.composite
def actions(draw):
    """Random signed permutations of a few items."""
    count = draw(st.integers(1, 7))
    images = draw(st.lists(st.permutations(range(count)), max_size=3))
    row = st.lists(st.sampled_from([1, -1]), min_size=count, max_size=count)
    return count, [np.array(i) for i in images], [np.array(draw(row)) for _ in images]


@given(actions())
def test_weights_are_the_invariant_vectors(action):
    """The weights parametrise exactly the kernel of (P - 1) for all generators P."""
    count, images, signs = action
    found = orbits(count, images, signs)
    basis = np.zeros((count, found.count))
    live = found.sign != 0
    basis[live, found.weight[live]] = found.sign[live]
    rows = [np.zeros((1, count))]
    for image, sign in zip(images, signs, strict=True):
        matrix = np.zeros((count, count))
        matrix[image, np.arange(count)] = sign
        assert np.array_equal(matrix @ basis, basis)
        rows.append(matrix - np.eye(count))
    assert found.count == count - np.linalg.matrix_rank(np.concatenate(rows))


def test_partial_symmetries_and_numbering():
    found = orbits(4, [np.array([1, ABSENT, 3, ABSENT])])
    assert found.weight.tolist() == [0, 0, 1, 1]
    backwards = orbits(3, [np.array([2, 1, 0])], [np.array([-1, 1, -1])])
    assert backwards.weight.tolist() == [0, 1, 0]
    assert backwards.sign.tolist() == [1, 1, -1]  # the first of an orbit is positive
    assert orbits(0, []).count == 0
    assert orbits(3, []).count == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: orbits(3, [np.array([0, 1])]), "3 connections"),
        (lambda: orbits(2, [np.array([0, 2])]), "images from 0 to 1"),
        (lambda: orbits(2, [np.array([0, -2])]), "images from 0 to 1"),
        (lambda: orbits(2, [np.array([1, 0])], [np.array([1])]), "1 signs"),
        (
            lambda: filter_orbits(
                groups.cyclic(4).trivial(1), groups.dihedral(4).trivial(1), (3, 3)
            ),
            "one group",
        ),
        (
            lambda: filter_orbits(groups.cyclic(4).trivial(1), groups.cyclic(4).trivial(1), (3,)),
            "2 axes",
        ),
        (
            lambda: filter_orbits(groups.cyclic(4).trivial(1), groups.cyclic(4).trivial(1), (3, 5)),
            "equal lengths",
        ),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(StructureError, match=message):
        wrong()


def test_brute_force_notices_a_wrong_sign_and_a_split_orbit():
    """Negative controls of the comparison above."""
    C4 = groups.cyclic(4)
    moved = moved_entries(C4.vector(1), C4.trivial(1), (3, 3))
    good = filter_orbits(C4.vector(1), C4.trivial(1), (3, 3))
    check_against_brute_force(good, *moved)
    for name in ("sign", "weight"):
        bad = orbits(18, [])
        bad = type(bad)(good.weight.copy(), good.sign.copy(), good.count)
        entry = np.flatnonzero(good.sign)[-1]
        getattr(bad, name)[entry] = -good.sign[entry] if name == "sign" else good.count
        with pytest.raises(AssertionError):
            check_against_brute_force(bad, *moved)
