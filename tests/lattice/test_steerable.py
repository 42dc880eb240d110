"""Filters that turn by any angle, against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symconv.errors import StructureError
from symconv.lattice import groups, steerable
from symconv.lattice.filters import Filter, pair_tie
from symconv.lattice.steerable import Steered

OFF_LATTICE = ["C3", "C5", "C6", "C8", "C12", "C16", "D3", "D6", "D8"]
names, kernels = st.sampled_from(OFF_LATTICE), st.integers(2, 9)


def fields_of(group):
    """One copy of each representation that a steered filter may join."""
    found = [group.trivial(1), group.regular(1), group.sign(1)]
    found += [group.quotient(group.subgroup([g]), 1) for g in range(1, min(group.order, 4))]
    return [field.parts[0][0] for field in found]


def filters_of(tie, out, into, kernel):
    """Every free filter (count, out, in, kernel, kernel), spread by the definition of `Steered`."""
    found = np.zeros((tie.rows, tie.functions, out.size, tie.index.shape[1], tie.basis.shape[2]))
    for o in range(out.size):
        for part, row in enumerate(tie.index[o]):
            found[row, :, o, part] += tie.basis[o]
    return found.reshape(tie.count, out.size, into.size, kernel, kernel)


@settings(max_examples=60, deadline=None)
@given(names, kernels, st.data())
def test_filters_commute_with_the_turns_that_the_lattice_has(name, kernel, data):
    group = groups.parse(name)
    into, out = (data.draw(st.sampled_from(fields_of(group))) for _ in range(2))
    tie = steerable.steered(into, out, kernel)
    every = filters_of(tie, out, into, kernel)
    for element in group.elements:
        if not element.exact:
            continue
        moved = np.zeros_like(every)
        quarters, mirrored = quarter_of(element.matrix)
        turned = np.rot90(every[..., ::-1] if mirrored else every, quarters, (-2, -1))
        for o in range(out.size):
            for i in range(into.size):
                sign = out.signs[element.index, o] * into.signs[element.index, i]
                o2 = out.permutation[element.index, o]
                i2 = into.permutation[element.index, i]
                moved[:, o2, i2] = sign * turned[:, o, i]
        assert np.abs(moved - every).max(initial=0) < 1e-12


def quarter_of(matrix):
    """(quarter turns, mirrored before) of a signed permutation, by trying all eight."""
    for mirrored in (False, True):
        for quarters in range(4):
            made = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarters)
            if np.array_equal(made @ np.diag([1, -1 if mirrored else 1]), matrix):
                return quarters, mirrored
    raise AssertionError(matrix)


@settings(max_examples=60, deadline=None)
@given(names, kernels, st.data())
def test_weights_number_as_the_characters_say(name, kernel, data):
    """The dimension of the invariants: the mean over the group of the product of the traces."""
    group = groups.parse(name)
    into, out = (data.draw(st.sampled_from(fields_of(group))) for _ in range(2))
    total = 0.0
    for g, matrix in enumerate(group.matrices):
        traces = [np.trace(r.matrices()[g]) for r in (into, out)]
        turned = [2 * np.cos(m * angle(matrix)) - (m == 0) for m in frequencies(kernel)]
        # of a mirror, each pair (cos, sin) has trace 0
        functions = sum(turned) if np.linalg.det(matrix) > 0 else frequencies(kernel).count(0)
        total += traces[0] * traces[1] * functions
    assert steerable.steered(into, out, kernel).count == pytest.approx(total / group.order)


def frequencies(kernel):
    return [m for ring in steerable.rings(kernel) for m in range(ring.cutoff + 1)]


def angle(matrix):
    return np.arctan2(matrix[1, 0], matrix[0, 0])


@pytest.mark.parametrize("kernel", range(1, 14))
def test_functions_are_independent_and_turn_as_their_frequency_says(kernel):
    plain = steerable.sampled(kernel)
    assert plain.shape == (steerable.size(kernel), kernel**2)
    assert np.linalg.cond(plain) < 20
    assert np.allclose(np.linalg.norm(plain, axis=1), 1)
    for matrix in groups.dihedral(4).matrices:
        moved, start = steerable.sampled(kernel, matrix), 0
        for _, m in steerable.harmonics(kernel):
            rows = slice(start, start := start + (1 if m == 0 else 2))
            assert np.allclose(moved[rows], steerable.turning(m, matrix) @ plain[rows], atol=1e-12)


@pytest.mark.parametrize("kernel", [2, 3, 5, 8])
def test_quarter_turns_permute_the_taps_to_the_last_bit(kernel):
    for g in groups.dihedral(8).matrices:
        turned = steerable.sampled(kernel, g).reshape(-1, kernel, kernel)
        quarter = np.array([[0, -1], [1, 0]]) @ g
        again = steerable.sampled(kernel, quarter).reshape(-1, kernel, kernel)
        assert np.array_equal(again, np.rot90(turned, 1, (1, 2)))


def test_a_wrong_turn_is_seen():
    """A control: filters turned the wrong way do not commute."""
    group = groups.cyclic(8)
    right = steerable.steered(group.regular(1).parts[0][0], group.regular(1).parts[0][0], 5)
    wrong = Steered(right.index, right.basis[[0, 7, 6, 5, 4, 3, 2, 1]], right.rows)
    every = filters_of(wrong, *(group.regular(1).parts[0][0],) * 2, 5)
    place = group.regular(1).permutation[2]
    turned = np.empty_like(every)
    turned[:, place[:, None], place[None]] = np.rot90(every, 1, (-2, -1))
    assert np.abs(turned - every).max() > 0.1


def test_pointwise_filters_need_no_steering():
    C8 = groups.cyclic(8)
    regular = C8.regular(1).parts[0][0]
    assert not isinstance(pair_tie(regular, regular, (1, 1)), Steered)
    assert Filter.of(C8.regular(2), C8.regular(3), (1, 1)).count == 2 * 3 * 8


@pytest.mark.parametrize(
    ("out", "kernel", "lowest", "held"),
    [("sign", 3, 8, 2), ("sign", 5, 8, 2), ("sign", 13, 8, 3)],
)
def test_filters_that_a_kernel_cannot_hold_are_refused(out, kernel, lowest, held):
    D8 = groups.dihedral(8)
    with pytest.raises(StructureError, match=f"frequency {lowest}.*up to {held}: higher"):
        Filter.of(D8.trivial(1), getattr(D8, out)(1), (kernel, kernel))


def test_other_kernels_and_fields_are_refused():
    C8 = groups.cyclic(8)
    with pytest.raises(StructureError, match="square kernel"):
        Filter.of(C8.trivial(1), C8.regular(1), (3, 5))
    with pytest.raises(StructureError, match="C8"):
        Filter.of(groups.cyclic(4).trivial(1), C8.regular(1), (3, 3))


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D6"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_the_mean_square_of_a_filter_is_that_of_its_entries(name, kernel):
    torch = pytest.importorskip("torch")
    nn = pytest.importorskip("symconv.nn")
    group = groups.parse(name)
    torch.manual_seed(0)
    into, out = group.regular(6) + group.trivial(8), group.trivial(12) + group.regular(6)
    layer = nn.GroupConv2d(into, out, kernel, bias=False)
    squares = []
    for _ in range(20):
        torch.nn.init.normal_(layer.weight)
        squares.append(float(layer.filter().detach().square().mean()))
    assert np.mean(squares) == pytest.approx(layer.filter_mean_square, rel=0.05)
