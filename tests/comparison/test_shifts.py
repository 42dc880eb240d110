"""Shifted and rescaled pictures: what is measured, and rows that answer to it."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from symconv.comparison.counting import build
from symconv.comparison.layers import Options
from symconv.comparison.structures import STRUCTURES
from symconv.data import Source, random_scales
from symconv.data.augmentation import rescaled_bilinearly
from symconv.data.pictures import apart, rescaled_by_splines
from symconv.models import Place

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    from symconv.comparison.shifts import MEASURES, shifted_around, shifts_and_scales

DATA = Source("digits", limit=300).load()


def untrained(name, shape=(1, 16, 16)):
    torch.manual_seed(0)
    network = build(STRUCTURES[name], shape, 8, 10, Options()).double().train()
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(32, *shape, dtype=torch.float64).relu())  # running means
    return network.eval()


def change(name, shape=(1, 16, 16)):
    """The largest change of class scores under a circular shift, relative to their spread."""
    network = untrained(name, shape)
    pictures = torch.randn(20, *shape, dtype=torch.float64).relu()
    with torch.no_grad():
        here, there = network(pictures), network(shifted_around(pictures))
    return float((here - there).abs().max() / here.std(0).mean())


@pytest.mark.parametrize("canvas", [16, 32, 64])
def test_scores_of_polyphase_networks_do_not_change_on_a_torus(canvas):
    """With a first layer of stride 1, 2 and 4."""
    assert change("conv-polyphase", (1, canvas, canvas)) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
def test_blurred_pools_change_less_than_plain_ones(stride):
    """What is left of a shift by one in the mean over positions; all would see no shift at all."""
    torch.manual_seed(0)
    x = torch.randn(50, 1, 64, 64, dtype=torch.float64)
    place = Place((1, 64, 64), 1, 5, stride, first=True)
    plain, blurred = nn.MaxPool2d(2 * stride), STRUCTURES["conv-blur"].pool(place).double()

    def left(pool):
        maps = pool(x), pool(x.roll((1, 1), (-2, -1)))
        inner = [m[..., 2:-2, 2:-2].mean((1, 2, 3)) for m in maps]
        return float((inner[0] - inner[1]).norm())

    assert blurred(x).shape == plain(x).shape
    assert 0 < left(blurred) < 0.7 * left(plain)


def test_digits_that_move_on_their_canvas_move_on_the_torus():
    """So the polyphase network gives both copies the same scores, and plain ones do not."""
    for name, exact in (("conv-polyphase", True), ("conv", False), ("conv-blur", False)):
        network = untrained(name)
        with torch.no_grad():
            pair = [network(s.pictures.double()) for s in (DATA.shifted, DATA.shifted_back)]
        assert (float((pair[0] - pair[1]).abs().max()) < 1e-9) == exact, name


def test_copies_are_apart_by_what_is_said():
    one, other = apart(500, 8, np.random.default_rng(0))
    distance = abs(one - other)
    assert distance.min() == 1
    assert distance.max() == 8
    assert abs(one).max() <= 4
    assert abs(other).max() <= 4
    assert {-1, 1} == set(np.sign(one - other).flatten().tolist())
    assert apart(9, 0, np.random.default_rng(0))[0].shape == (9, 2)  # no room: one pixel


def test_nothing_of_a_shifted_digit_is_cut_off():
    assert DATA.farthest == 4
    total = DATA.test.pictures.sum((1, 2, 3))
    for split in (DATA.shifted, DATA.shifted_back):
        assert torch.allclose(split.pictures.sum((1, 2, 3)), total, rtol=1e-4)
        assert torch.equal(split.labels, DATA.test.labels)
    apart_by = (DATA.shifted.pictures - DATA.shifted_back.pictures).flatten(1).norm(dim=1)
    assert float(apart_by.min()) > 0


def test_shares_are_those_of_the_definition():
    class Left(nn.Module):
        """Class one where the left half holds more."""

        def __init__(self):
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            sums = x.sum((1, 2))
            left = sums[:, :8].sum(1) > sums[:, 8:].sum(1)
            return torch.stack([~left, left], 1) + self.zero

    network, data = Left(), DATA
    found = shifts_and_scales(network, data)
    assert list(found) == list(MEASURES)
    one, other, plain, around, rescaled = (
        network(x).argmax(1)
        for x in (
            data.shifted.pictures, data.shifted_back.pictures, data.test.pictures,
            shifted_around(data.test.pictures), data.rescaled.pictures,
        )
    )  # fmt: skip
    same = np.mean([int(a) == int(b) for a, b in zip(one, other, strict=True)])
    assert found["consistency"] == pytest.approx(same)
    assert 0 < same < 1
    right = [
        int(a == t) + int(b == t) for a, b, t in zip(one, other, data.test.labels, strict=True)
    ]
    assert found["shifted"] == pytest.approx(np.mean(right) / 2)
    kept = np.mean([int(a) == int(b) for a, b in zip(plain, around, strict=True)])
    assert found["circular consistency"] == pytest.approx(kept)
    own = np.mean([int(a) == int(t) for a, t in zip(rescaled, data.test.labels, strict=True)])
    assert found["rescaled"] == pytest.approx(own)


# Rescaled pictures


def blob(size, width):
    axis = np.arange(size) - (size - 1) / 2
    return np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * width**2))[None, None]


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_both_resamplings_make_a_blob_wider_by_the_factor(factor):
    splines = rescaled_by_splines(blob(48, 4.0), 32, np.array([factor]), full_frame=False)
    blur = 0.5 * max(0.0, 1 / factor - 1)
    expected = blob(32, factor * np.hypot(4.0, blur)) / (1 + blur**2 / 16)
    assert np.abs(splines - expected).max() < 2e-3
    picture = torch.from_numpy(blob(32, 4.0))
    linear = rescaled_bilinearly(picture, torch.tensor([factor]), full_frame=False)
    assert np.abs(linear.numpy() - blob(32, 4.0 * factor)).max() < 2e-2
    if factor != 1:
        assert np.abs(linear.numpy() - splines).max() > 1e-4, "two different resamplings"


def test_digits_are_rescaled_within_the_room_of_their_canvas():
    assert DATA.largest == pytest.approx(16 / 12)
    mass = DATA.rescaled.pictures.sum((1, 2, 3)) / DATA.test.pictures.sum((1, 2, 3))
    factors = mass.sqrt()
    assert 0.45 < float(factors.min()) < 0.6
    assert 1.2 < float(factors.max()) < 1.5
    assert not torch.equal(factors, torch.ones_like(factors))


def test_training_draws_factors_anew_between_a_half_and_the_largest():
    x = torch.from_numpy(blob(32, 3.0)).float().expand(400, 1, 32, 32)
    generator = torch.Generator().manual_seed(0)
    factors = (random_scales(x, 1.5, False, generator).sum((1, 2, 3)) / x[0].sum()).sqrt()
    assert 0.49 < float(factors.min()) < 0.55
    assert 1.4 < float(factors.max()) < 1.51
    below = float((factors < (0.5 * 1.5) ** 0.5).float().mean())
    assert 0.4 < below < 0.6, "log-uniform"
    again = random_scales(x, 1.5, False, generator)
    assert not torch.equal(again, random_scales(x, 1.5, False, generator))


def test_full_frame_pictures_go_on_by_their_reflection():
    ones = np.ones((1, 1, 24, 24))
    assert np.allclose(rescaled_by_splines(ones, 16, np.array([0.5]), full_frame=True), 1)
    assert rescaled_by_splines(ones, 16, np.array([0.5]), full_frame=False)[0, 0, 0, 0] == 0
