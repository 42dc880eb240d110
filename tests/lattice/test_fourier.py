"""Fourier transforms on groups against numpy's, against characters, and against the definition."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from symconv.lattice import groups
from symconv.lattice.fourier import fourier


def cyclic_table(n):
    return (np.arange(n)[:, None] + np.arange(n)) % n


def dihedral_table(n):
    """Multiplication of r^k (numbered k) and r^k m (n + k), from m r = r^-1 m."""
    table = np.empty((2 * n, 2 * n), np.int64)
    for a in range(2 * n):
        for b in range(2 * n):
            mirrored = a >= n
            turn = (a % n + (-1) ** mirrored * (b % n)) % n
            table[a, b] = turn + n * (mirrored != (b >= n))
    return table


def shuffled(table, seed):
    """The same group with its elements but the identity in another order."""
    places = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(len(table) - 1)])
    return np.argsort(places)[table[np.ix_(places, places)]]


def filter_of(table, weight):
    """The map that commutes with the group: f[a, b] = weight[a^-1 b], entry by entry."""
    inverse = [int(np.flatnonzero(row == 0)[0]) for row in table]
    order = len(table)
    return np.array([[weight[table[inverse[a], b]] for b in range(order)] for a in range(order)])


def whole(transform, blocks):
    """The block-diagonal matrix of a column of blocks."""
    ones, twos, columns = transform.ones, transform.twos, transform.columns
    matrix = np.zeros((transform.order, transform.order))
    matrix[range(ones), range(ones)] = blocks[:ones]
    for two in range(twos):
        at = ones + 2 * columns * two
        block = blocks[ones + 4 * two : ones + 4 * two + 4].reshape(2, 2)
        matrix[at : at + 2 * columns, at : at + 2 * columns] = np.kron(block, np.eye(columns))
    return matrix


def carried_out(program, values):
    slots = list(values)
    for terms in program.steps:
        slots.append(sum(coefficient * slots[slot] for slot, coefficient in terms))
    return np.array([slots[slot] for slot in program.outputs])


tables = st.one_of(
    st.integers(1, 24).map(cyclic_table),
    st.integers(1, 12).map(dihedral_table),
    st.tuples(st.integers(1, 10).map(dihedral_table), st.integers(0, 99)).map(
        lambda pair: shuffled(*pair)
    ),
    st.sampled_from(["mirror", "C2", "C4", "D1", "D2", "D4", "B2"]).map(
        lambda name: groups.parse(name).product
    ),
)


@given(tables, st.integers(0, 2**32 - 1))
def test_maps_that_commute_with_the_group_are_block_diagonal(table, seed):
    transform = fourier(table)
    matrix, order = transform.matrix, len(table)
    norms = np.repeat([order, order / 2], [transform.ones, order - transform.ones])
    np.testing.assert_allclose(matrix @ matrix.T, np.diag(norms), atol=1e-12 * order)
    random = np.random.default_rng(seed)
    weight, values = random.integers(-9, 9, order), random.integers(-9, 9, order)
    wanted = filter_of(table, weight)
    blocks = transform.blocks(filter_of(table, np.arange(order)))
    got = matrix.T @ whole(transform, blocks @ weight) @ matrix
    np.testing.assert_allclose(got, wanted, atol=1e-12 * order)
    np.testing.assert_allclose(carried_out(transform.forward, values), matrix @ values, atol=1e-11)
    np.testing.assert_allclose(
        carried_out(transform.backward, values), matrix.T @ values, atol=1e-11
    )


@given(tables)
def test_what_does_not_commute_is_not_block_diagonal(table):
    order = len(table)
    transform = fourier(table)
    broken = filter_of(table, np.arange(order))
    broken[0] = np.roll(broken[0], 1)
    blocks = transform.blocks(broken) @ np.arange(1.0, order + 1)
    got = transform.matrix.T @ whole(transform, blocks) @ transform.matrix
    assert order == 1 or not np.allclose(got, np.arange(1.0, order + 1)[broken])


@pytest.mark.parametrize("n", [*range(1, 18), 24, 32])
def test_cyclic_rows_are_those_of_numpy(n):
    waves = np.fft.fft(np.eye(n))
    single = [0, n // 2] if n % 2 == 0 else [0]
    rows = [waves[f].real for f in single]
    for f in range(1, (n + 1) // 2):
        rows += [waves[f].real, -waves[f].imag]
    transform = fourier(cyclic_table(n))
    np.testing.assert_allclose(transform.matrix, rows, atol=1e-12)
    assert (transform.ones, transform.twos) == (len(single), (n - len(single)) // 2)


@pytest.mark.parametrize("n", range(1, 13))
def test_dihedral_groups_have_the_irreducible_representations_of_the_books(n):
    transform = fourier(dihedral_table(n))
    assert transform.ones == (2 if n % 2 else 4)
    assert transform.twos == (n - 1) // 2
    assert transform.ones + 4 * transform.twos == 2 * n  # squares of dimensions sum to the order


@pytest.mark.parametrize("name", ["mirror", "C2", "C4", "D1", "D2", "D4"])
def test_transforms_of_the_lattice_are_of_integers(name):
    group = groups.parse(name)
    transform = fourier(group.product)
    assert set(np.unique(transform.matrix)) <= {-1.0, 0.0, 1.0}
    for program in (transform.forward, transform.backward):
        assert all(abs(factor) == 1 for terms in program.steps for _, factor in terms)
    blocks = transform.blocks(filter_of(group.product, np.arange(group.order)))
    assert np.array_equal(blocks * group.order, np.rint(blocks * group.order))


def test_products():
    counts = {cyclic_table: {1: 1, 2: 2, 3: 5, 4: 6, 8: 14, 16: 30},
              dihedral_table: {1: 2, 2: 4, 3: 10, 4: 12, 8: 28}}  # fmt: skip
    for table, expected in counts.items():
        assert {n: fourier(table(n)).products for n in expected} == expected
    assert fourier(dihedral_table(4)).forward.additions == 20
    assert fourier(cyclic_table(8)).forward.additions == 20


@pytest.mark.parametrize("name", ["O", "Oh", "B3"])
def test_other_groups_have_none(name):
    assert fourier(groups.parse(name).product) is None


def test_an_abelian_group_that_is_not_cyclic_has_none():
    boost = np.diag([-1, 1, 1])
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    product = groups.Group("C4 x C2", [turn, boost], 3).product
    assert len(product) == 8
    assert fourier(product) is None
