"""Transforms of features: exact where they can be, and how exact where they cannot."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

import symconv as sc
from symconv.transforms import resampled, resampling

parse = sc.groups.parse


def numbers(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)


def blob(size, row, column, width):
    """A Gaussian about a point, in coordinates from the centre."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-((at[:, None] - row) ** 2 + (at - column) ** 2) / (2 * width**2))


# translate


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_translate_by_its_definition(mode):
    x = numbers(2, 4, 5)
    for shift in itertools.product((-7, -1, 0, 2), (-2, 0, 1, 5)):
        y = sc.translate(x, shift, mode)
        for row, column in np.ndindex(4, 5):
            source = row - shift[0], column - shift[1]
            inside = 0 <= source[0] < 4 and 0 <= source[1] < 5
            expected = x[:, source[0] % 4, source[1] % 5] if inside or mode == "circular" else 0
            assert (y[:, row, column] == expected).all()


# act


@pytest.mark.parametrize("name", ["mirror", "C4", "D2", "D4", "O", "Oh", "flip(2,0)"])
def test_act_by_its_definition_and_composed(name):
    """y[rho(g) c, g p] = sign * x[c, p], and act(g, act(h, x)) = act(g h, x)."""
    group = parse(name)
    n = group.dimension
    field = group.trivial(1) + group.sign(1) + group.vector(1) + group.quotient(group, 1)
    size = (4, 5, 3)[:n]
    x = numbers(2, field.channels, *size) + 1
    for g in group.elements:
        y = sc.act(g, x, field)
        assert y.shape[2:] == tuple(abs(g.matrix) @ np.array(size))
        for place in np.ndindex(*size):
            centred = 2 * np.array(place) - np.array(size) + 1
            there = (g.matrix @ centred + np.array(y.shape[2:]) - 1) // 2
            for channel in range(field.channels):
                image, sign = field.permutation[g.index, channel], field.signs[g.index, channel]
                assert torch.equal(y[:, image][:, *there], sign * x[:, channel][:, *place])
    regular = group.regular(1)
    x = numbers(group.order, *size)
    few = group.elements[:: max(1, group.order // 8)]
    for g, h in itertools.product(few, repeat=2):
        assert torch.equal(sc.act(g, sc.act(h, x, regular), regular), sc.act(g * h, x, regular))
        assert torch.equal(sc.act(~g, sc.act(g, x, regular), regular), x)


def test_act_is_rot90_and_flip():
    x = numbers(2, 3, 4, 6)
    D4 = parse("D4")
    assert torch.equal(sc.act(D4.elements[1], x), torch.rot90(x, 1, (-2, -1)))
    assert torch.equal(sc.act(D4.elements[4], x), x.flip(-1))
    assert torch.equal(sc.act(parse("mirror").elements[1], x), x.flip(-1))
    whole = torch.arange(6).reshape(2, 3)
    assert sc.act(D4.elements[2], whole).dtype == torch.int64


def test_act_without_batch_and_with_two():
    D4 = parse("D4")
    field, x = D4.vector(2), numbers(5, 2, 4, 3, 3)
    whole = sc.act(D4.elements[5], x, field)
    assert torch.equal(sc.act(D4.elements[5], x[1, 0], field), whole[1, 0])


# rotate


def test_quarter_turns_are_exact():
    x = numbers(2, 4, 6)
    for k in range(-5, 6):
        for degrees in (90 * k, float(90 * k)):
            assert torch.equal(sc.rotate(x, degrees), torch.rot90(x, k, (-2, -1)))
    whole = torch.arange(6).reshape(2, 3)
    assert torch.equal(sc.rotate(whole, 180), whole.flip(0, 1))


@pytest.mark.parametrize("degrees", [-10, 30, 45, 100, 222.5])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_smooth_blob_turns_as_its_formula(degrees, mode):
    turn = math.radians(degrees)
    for size, at in ((64, 0), (64, 8), (63, 8)):
        row, column = -math.sin(turn) * at, math.cos(turn) * at
        got = sc.rotate(blob(size, 0, at, size / 20), degrees, mode)
        tolerance = 1e-12 if at == 0 else 1e-8
        assert (got - blob(size, row, column, size / 20)).abs().max() < tolerance
    other = ndimage.rotate(blob(64, 0, 8, 4).numpy(), degrees, reshape=False, order=5)
    assert np.abs(sc.rotate(blob(64, 0, 8, 4), degrees, mode).numpy() - other).max() < 1e-3


def test_circular_rotation_can_be_undone():
    x = torch.randn(2, 9, 11, dtype=torch.float64)
    for degrees in (3.0, 30.0, 44.9):
        there = sc.rotate(x, degrees, "circular")
        assert (there - x).abs().max() > 0.1  # negative control: it did something
        assert (sc.rotate(there, -degrees, "circular") - x).abs().max() < 1e-13


def test_rotate_keeps_shape_type_and_gradient():
    x = torch.randn(2, 3, 8, 10, requires_grad=True)
    assert sc.rotate(x, 30).shape == x.shape
    assert sc.rotate(x, 80).shape == (2, 3, 10, 8)
    assert sc.rotate(x.bfloat16(), 30).dtype == torch.bfloat16
    sc.rotate(x, 30).sum().backward()
    assert x.grad.isfinite().all()


# rescale


def test_rescale_against_scipys_cosine_transform():
    x = torch.randn(3, 10, dtype=torch.float64)
    for new in (7, 15):
        spectrum = fft.dct(x.numpy(), norm="ortho")
        kept = np.zeros((3, new))
        kept[:, : min(10, new)] = spectrum[:, : min(10, new)]
        expected = fft.idct(kept, norm="ortho") * math.sqrt(new / 10)
        assert np.abs(sc.rescale(x, (new / 10,)).numpy() - expected).max() < 1e-13


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("sizes", [(64, 32, 16), (512, 256, 128), (333, 250, 101), (5, 3, 1)])
def test_resampling_composes_to_rounding(sizes, circular):
    """What is removed on the way to a coarser grid is removed by both ways."""
    like = torch.empty((), dtype=torch.float64)
    large, middle, small = sizes
    matrices = {
        (a, b): resampling(a, b, like=like, circular=circular)
        for a, b in ((large, middle), (middle, small), (large, small), (small, large))
    }
    by_two = matrices[middle, small] @ matrices[large, middle]
    assert (by_two - matrices[large, small]).abs().max() < 1e-13
    back = matrices[large, small] @ matrices[small, large]
    if circular and small % 2 == 0:  # the highest frequency of an even grid is left out
        highest = (-1.0) ** torch.arange(small, dtype=torch.float64)
        back = back + torch.outer(highest, highest) / small
    assert (back - torch.eye(small)).abs().max() < 1e-13
    picked = torch.eye(large, dtype=torch.float64)[:: large // small][:small]
    assert (picked - matrices[large, small]).abs().max() > 0.1, "to take every few is no low pass"


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("size", "new"), [(1690, 845), (1691, 1196), (700, 1601), (1537, 2)])
def test_long_axes_by_fourier_transforms_equal_matrices(size, new, circular):
    """From 1,537 positions on, whichever axis it is, with derivatives."""
    x = torch.randn(2, size, 3, dtype=torch.float64, requires_grad=True)
    matrix = resampling(size, new, like=x, circular=circular)
    found, wanted = resampled(x, 1, new, circular=circular), matrix @ x
    assert not torch.equal(found, wanted), "another way, with its own rounding"
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    (to_x,) = torch.autograd.grad(found.square().sum(), x)
    (wanted_to_x,) = torch.autograd.grad(wanted.square().sum(), x)
    torch.testing.assert_close(to_x, wanted_to_x, rtol=1e-9, atol=1e-9)


def test_enlarging_can_be_undone_and_the_mean_stays():
    x = torch.randn(2, 6, 9, 5, dtype=torch.float64)
    big = sc.rescale(x, (2, 1, 1.4))
    assert big.shape == (2, 12, 9, 7)
    assert (sc.rescale(big, (0.5, 1, 5 / 7)) - x).abs().max() < 1e-13
    assert (sc.rescale(x, 0.5).mean((-2, -1)) - x.mean((-2, -1))).abs().max() < 1e-13
    assert torch.equal(sc.rescale(x, 1), x)


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_rescale_commutes_with_the_square(factor):
    x = torch.randn(2, 10, 10, dtype=torch.float64)
    for g in parse("D4").elements:
        there, back = sc.rescale(sc.act(g, x), factor), sc.act(g, sc.rescale(x, factor))
        assert (there - back).abs().max() < 1e-13


def test_rescale_does_not_alias():
    """The finest stripes vanish; taking every second pixel would keep them."""
    stripes = (-1.0) ** torch.arange(64).expand(64, 64)
    assert stripes[::2, ::2].abs().min() == 1  # negative control
    assert sc.rescale(stripes, 0.5)[:, 8:-8].abs().max() < 0.05
    smooth = blob(64, 0, 0, 6)
    half = sc.rescale(smooth, 0.5)
    assert (half - blob(32, 0, 0, 3)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: sc.act(parse("C4").elements[1], torch.zeros(3)), "at least 2 axes"),
        (
            lambda: sc.act(parse("C4").elements[1], torch.zeros(3, 4, 4), parse("C4").regular(1)),
            "4 channels of C4.regular",
        ),
        (
            lambda: sc.act(parse("C4").elements[1], torch.zeros(8, 4, 4), parse("D4").regular(1)),
            "a field over C4",
        ),
        (lambda: sc.rotate(torch.zeros(4), 30), "height, width"),
        (lambda: sc.rotate(torch.zeros(4, 4, dtype=torch.int64), 30), "floating-point"),
        (lambda: sc.rotate(torch.zeros(4, 4), 30, "reflect"), "mode"),
        (lambda: sc.rescale(torch.zeros(4, 4), 0.1), "leaves something"),
        (lambda: sc.rescale(torch.zeros(4, 4), -1.0), "leaves something"),
        (lambda: sc.rescale(torch.zeros(4), 2), "at least 2 axes"),
        (lambda: sc.rescale(torch.zeros(4, 4, dtype=torch.int64), 2), "floating-point"),
        (lambda: sc.translate(torch.zeros(4), (1, 1)), "at least 2 axes"),
        (lambda: sc.translate(torch.zeros(4), 1, "wrap"), "mode"),
        (lambda: sc.translate(torch.zeros(4, 4), (0.5, 1)), "shift"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(sc.StructureError, match=message):
        wrong()


def test_integers_of_numpy_are_shifts_and_numbers_are_no_elements():
    x = torch.arange(5)
    assert torch.equal(sc.translate(x, np.int64(1)), x.roll(1))
    with pytest.raises(sc.StructureError, match="shift"):
        sc.translate(x, 1.5)
    with pytest.raises(sc.StructureError, match="an element of a group, got 1"):
        sc.act(1, x)
