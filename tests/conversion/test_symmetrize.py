"""Symmetrised models: equal to their definition, invariant to the bit, whatever the model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode

import symconv as sc
from auditing.networks import VisionTransformer
from ragged.networks import MobileNetV3, UNet, vgg_bn
from symconv.conversion.symmetrizing import canonical, exact, motions

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
GROUPS = ("mirror", "C2", "D1", "D2", "C4", "D4", "O", "Oh")


def cnn(dimension=2, channels=3, size=8, classes=5):
    """Strided, padded with zeros, a dense head: no symmetry at all."""
    conv = CONV[dimension]
    sites = ((size + 1) // 2) ** dimension
    layers = conv(channels, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * sites, classes)
    return nn.Sequential(*layers)


def segmenting(dimension=2, channels=3, classes=2):
    conv = CONV[dimension]
    return nn.Sequential(
        conv(channels, 4, 3, 1, 1), nn.ReLU(), conv(4, classes, 3, 1, 1, padding_mode="circular")
    )


def vit():
    model = VisionTransformer(16, 4, depth=2, heads=2, width=16, classes=5)
    nn.init.normal_(model.class_token)
    return model


CLASSIFIERS = {
    "cnn": lambda: cnn(size=16),
    "vit": vit,
    "vgg": vgg_bn,
    "mobilenet": MobileNetV3,
}


def made(build, dtype=torch.float32):
    torch.manual_seed(0)
    return build().to(dtype).eval()


def error(a, b):
    return float(((a - b).abs().max() / a.abs().max()).detach())


def size_of(name):
    return {"vgg": 64, "mobilenet": 64}.get(name, 16)


# The definition, with numpy's turns


def plain_moves():
    """D4 as numpy has it: the move of a picture and the move back."""
    for turns, mirrored in itertools.product(range(4), (False, True)):

        def move(x, turns=turns, mirrored=mirrored):
            x = np.flip(x, -1) if mirrored else x
            return np.rot90(x, turns, (-2, -1)).copy()

        def back(x, turns=turns, mirrored=mirrored):
            x = np.rot90(x, -turns, (-2, -1))
            return (np.flip(x, -1) if mirrored else x).copy()

        yield move, back


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("output", ["scores", "map"])
def test_an_average_is_its_definition(output, chunk):
    model = made(cnn if output == "scores" else segmenting, torch.float64)
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    total = 0
    for move, back in plain_moves():
        y = model(torch.from_numpy(move(x.numpy()))).detach().numpy()
        total = total + (back(y) if output == "map" else y)
    found = sc.symmetrize(model, "D4", output=output, chunk=chunk)(x)
    np.testing.assert_allclose(found.detach().numpy(), total / 8, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("output", ["scores", "map"])
def test_a_canonical_output_is_that_of_one_pose(output):
    model = made(cnn if output == "scores" else segmenting)
    x = torch.rand(6, 3, 8, 8)
    found = sc.symmetrize(model, "D4", "canonical", output=output)(x)
    poses = set()
    for sample, y in zip(x, found, strict=True):
        each = []
        for move, back in plain_moves():
            pose = model(torch.from_numpy(move(sample[None].numpy()))).detach().numpy()[0]
            each.append(back(pose) if output == "map" else pose)
        near = [np.abs(one - y.detach().numpy()).max() < 1e-6 for one in each]
        assert sum(near) == 1
        poses.add(near.index(True))
    assert len(poses) > 1  # not always the same element


# Invariance


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_do_not_change_with_the_pose(name):
    model, size = made(CLASSIFIERS[name]), size_of(name)
    x = torch.rand(4, 3, size, size)
    average = sc.symmetrize(model, "D4", chunk=4)
    one = sc.symmetrize(model, "D4", "canonical")
    own = 0.0
    with torch.no_grad():
        of_average, of_one, plain = average(x), one(x), model(x)
        for g in sc.groups.parse("D4").elements:
            moved = sc.act(g, x)
            assert error(of_average, average(moved)) <= 1e-6
            assert torch.equal(of_one, one(moved))
            own = max(own, error(plain, model(moved)))
    assert own > 1e-4, "the model was invariant already"


def test_each_sample_may_have_its_own_pose():
    model = made(cnn)
    one = sc.symmetrize(model, "D4", "canonical")
    x = torch.rand(8, 3, 8, 8)
    elements = sc.groups.parse("D4").elements
    moved = torch.stack([sc.act(g, each) for g, each in zip(elements, x, strict=True)])
    assert torch.equal(one(moved), one(x))


@pytest.mark.parametrize("how", ["average", "canonical"])
@pytest.mark.parametrize("build", [segmenting, lambda: UNet(width=4)], ids=["plain", "unet"])
def test_maps_move_with_the_picture(how, build):
    model = made(build)
    wrapped = sc.symmetrize(model, "D4", how, output="map")
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        y, plain, own = wrapped(x), model(x), 0.0
        for g in sc.groups.parse("D4").elements:
            allowed = 1e-6 if how == "average" else 0.0
            assert error(sc.act(g, y), wrapped(sc.act(g, x))) <= allowed
            own = max(own, error(sc.act(g, plain), model(sc.act(g, x))))
    assert own > 1e-3


SIZES = {"D2": (6, 9), "C2": (5, 8), "D1": (4, 7), "mirror": (9,), "O": (4, 4, 4), "Oh": (3, 3, 3)}


@given(
    name=st.sampled_from(GROUPS),
    how=st.sampled_from(["average", "canonical"]),
    fields=st.sampled_from(["plain", "vector"]),
    seed=st.integers(0, 2**31),
)
def test_every_group_and_field(name, how, fields, seed):
    group = sc.groups.parse(name)
    torch.manual_seed(seed)
    size = SIZES.get(name, (5, 5))
    n = group.dimension
    in_field, field = group.trivial(3), group.trivial(n)
    if fields == "vector":
        in_field, field = group.sign(1) + group.regular(1), group.vector(1)
    model = CONV[n](in_field.channels, n, 3, padding=1).double()
    wrapped = sc.symmetrize(model, group, how, output="map", in_field=in_field, field=field)
    x = torch.randn(2, in_field.channels, *size, dtype=torch.float64)
    y = wrapped(x)
    for g in group.elements:
        moved = wrapped(sc.act(g, x, in_field))
        assert error(sc.act(g, y, field), moved) <= (1e-14 if how == "average" else 0.0)


# Ties


def symmetric_pictures(size=8):
    at = torch.arange(size)
    x = torch.rand(3, size, size, generator=torch.Generator().manual_seed(3))
    return {
        "constant": torch.full((3, size, size), 0.7),
        "black": torch.zeros(3, size, size),
        "mirrored": x + x.flip(-1),
        "half turn": x + x.rot90(2, (-2, -1)),
        "quarter turn": sum(x.rot90(k, (-2, -1)) for k in range(4)),
        "stripes": (at % 2).float().expand(3, size, size),
        "checkerboard": ((at[:, None] + at) % 2).float().expand(3, size, size),
        "nearly mirrored": x + x.flip(-1) + 1e-7 * torch.eye(size),
        "one dot": torch.eye(size)[1][:, None] * torch.eye(size)[2] * torch.ones(3, 1, 1),
        "not a number": torch.full((3, size, size), torch.nan),
    }


@pytest.mark.parametrize("picture", symmetric_pictures())
@pytest.mark.parametrize("output", ["scores", "map"])
def test_symmetric_pictures(picture, output):
    x = torch.stack([symmetric_pictures()[picture], torch.rand(3, 8, 8)])
    model = made(cnn if output == "scores" else segmenting)
    for group in ("D4", "translations"):
        wrapped = sc.symmetrize(model, group, "canonical", output=output)
        moves = [lambda t, s=s: sc.translate(t, s) for s in ((1, 0), (3, 5), (4, 6))]
        if group == "D4":
            moves = [lambda t, g=g: sc.act(g, t) for g in sc.groups.parse("D4").elements]
        y = wrapped(x)
        for move in moves:
            expected = move(y) if output == "map" else y
            torch.testing.assert_close(
                wrapped(move(x)), expected, rtol=1e-6, atol=1e-6, equal_nan=True
            )


def test_the_first_of_tied_poses_is_enough_for_scores_only():
    x = symmetric_pictures()["mirrored"][None]
    flip = sc.groups.parse("D4").elements[4]
    for build, output, holds in ((cnn, "scores", True), (segmenting, "map", False)):
        wrapped = sc.symmetrize(made(build), "D4", "canonical", output=output, ties="first")
        expected = sc.act(flip, wrapped(x)) if output == "map" else wrapped(x)
        assert (error(expected, wrapped(sc.act(flip, x))) == 0) == holds


class Counting(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x):
        self.rows.append(len(x))
        return self.model(x)


def test_equal_poses_run_once_and_chunks_bound_the_rest():
    counting = Counting(made(cnn))
    x = torch.stack([symmetric_pictures()["constant"], torch.rand(3, 8, 8)])
    sc.symmetrize(counting, "D4", "canonical")(x)
    assert counting.rows == [2]
    counting = Counting(made(segmenting))
    sc.symmetrize(counting, "D4", "canonical", output="map", chunk=2)(x)
    assert counting.rows == [4, 4, 1]
    counting.rows = []
    sc.symmetrize(counting, "D4", output="map", chunk=3)(x)
    assert counting.rows == [6, 6, 4]


def test_where_the_input_is_not_finite_every_pose_ties():
    model = nn.Sequential(nn.Hardtanh(), made(cnn))
    x = torch.rand(3, 3, 8, 8)
    x[1, 0, 2, 5] = torch.inf
    x[2] = x[2] + x[2].flip(-1)
    y = sc.symmetrize(model, "D4", "canonical")(x)
    torch.testing.assert_close(y[1], sc.symmetrize(model, "D4")(x)[1])
    for g in sc.groups.parse("D4").elements:
        moved = sc.symmetrize(model, "D4", "canonical")(sc.act(g, x))
        torch.testing.assert_close(moved, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("output", ["scores", "map"])
def test_where_every_pose_ties_the_result_is_the_average(output, monkeypatch):
    """Accidental ties: weights that cannot tell poses apart, and poses that differ."""
    monkeypatch.setattr(motions, "weights", lambda shape, *_: torch.ones(shape).double())
    x = torch.stack([torch.rand(3, 8, 8), *list(symmetric_pictures().values())[2:4]])
    model = made(cnn if output == "scores" else segmenting)
    tied = sc.symmetrize(model, "D4", "canonical", output=output)(x)
    torch.testing.assert_close(tied, sc.symmetrize(model, "D4", output=output)(x))


def test_no_more_poses_than_the_limit(monkeypatch):
    monkeypatch.setattr(canonical, "LIMIT", 3)
    counting = Counting(made(segmenting))
    sc.symmetrize(counting, "D4", "canonical", output="map")(torch.zeros(1, 3, 8, 8))
    assert sum(counting.rows) == 3


@given(st.integers(0, 2**31), st.sampled_from(["C4", "D4", "O", "translations"]), st.booleans())
def test_poses_are_those_of_the_input_exactly(seed, name, symmetric):
    """The tied poses of a moved input are the moved poses, as whole numbers have no rounding."""
    torch.manual_seed(seed)
    if name == "translations":
        shifts = motions.Shifts(2, None)
        x = torch.randn(2, 2, 4, 6) * 10 ** torch.empty(2, 1, 1, 1).uniform_(-3, 3)
        x = x.roll(2, -2) + x if symmetric else x
        number = int(torch.randint(24, ()))
        moved = shifts.tied(shifts.move(number, x)).view(2, 4, 6)
        step = number // 6, number % 6
        assert torch.equal(moved.roll(step, (1, 2)), shifts.tied(x).view(2, 4, 6))
        return
    group = sc.groups.parse(name)
    turns = motions.Turns(group, None, None)
    x = torch.randn(2, 2, *(5,) * group.dimension)
    x = x + turns.move(1, x) if symmetric else x
    tied = turns.tied(x)
    for h in range(group.order):  # g h x is best where g is for h x
        columns = torch.from_numpy(group.product[:, h])
        assert torch.equal(turns.tied(turns.move(h, x)), tied[:, columns])


def test_whole_numbers_move_with_the_input():
    turns = motions.Turns(sc.groups.parse("D4"), None, None)
    x = torch.randn(50, 3, 9, 9, generator=torch.Generator().manual_seed(0)) ** 3
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given = x.to(dtype)
        found = exact.whole(given, 20)
        assert torch.equal(found, found.round())
        assert found.abs().flatten(1).amax(1).eq(2**20).all()
        for k in range(8):
            assert torch.equal(exact.whole(turns.move(k, given), 20), turns.move(k, found))


def test_fake_tensors_are_not_kept_and_meet_no_real_ones():
    turns = motions.Turns(sc.groups.parse("D4"), None, None)
    x, mode = torch.rand(2, 3, 8, 8), FakeTensorMode()
    index = torch.tensor([1, 5])
    for _ in range(2):
        with mode:
            fake = mode.from_tensor(x)
            turns.tied(fake)
            turns.move_each(mode.from_tensor(index), fake)
        moved = turns.move_each(index, x)
        assert torch.equal(moved[1], turns.move(5, x)[1])
        assert turns.tied(x).sum() == 2


def test_few_poses_tie_by_accident(monkeypatch):
    """Pictures of a few equal dots, which one score alone mistakes for symmetric ones."""
    turns = motions.Turns(sc.groups.parse("D4"), None, None)
    x = torch.zeros(30000, 64)
    dots = torch.rand(30000, 64, generator=torch.Generator().manual_seed(0)).topk(3).indices
    x = x.scatter(1, dots, 1.0).view(-1, 1, 8, 8)
    equal = sum((turns.move(k, x) == x).flatten(1).all(1).int() for k in range(8))
    assert torch.equal(turns.tied(x).sum(1), equal)
    monkeypatch.setattr(motions, "PROJECTIONS", 1)
    turns = motions.Turns(sc.groups.parse("D4"), None, None)
    assert not torch.equal(turns.tied(x).sum(1), equal)


def test_rounded_sums_would_not_do(monkeypatch):
    """Control: with plain sums a symmetric picture has other ties than it should."""
    group = sc.groups.parse("D4")
    turns = motions.Turns(group, None, None)
    x = torch.rand(8, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.stack([turns.move(k, x) for k in range(8)]).amax(0)  # symmetric to the bit
    assert bool(turns.tied(x).all())
    monkeypatch.setattr(motions, "whole", lambda x, bits: x.double())
    assert not bool(turns.tied(x).all())


# Translations


def strided(padding_mode="circular"):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, padding_mode=padding_mode), nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 1, padding_mode=padding_mode), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


SHIFTS = (1, 0), (0, 3), (5, 6), (-2, 7)


@pytest.mark.parametrize("build", [lambda: cnn(size=16), strided, vit], ids=["cnn", "str", "vit"])
def test_canonical_shifts_are_exact_for_any_model(build):
    model = made(build)
    wrapped = sc.symmetrize(model, "translations", "canonical")
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        y = wrapped(x)
        for shift in SHIFTS:
            assert torch.equal(wrapped(sc.translate(x, shift)), y)
        assert error(model(x), model(sc.translate(x, (1, 0)))) > 1e-4


@pytest.mark.parametrize("name", ["translations", "translations(1)", "translations(3)"])
def test_shifted_maps(name):
    n = int(name[-2]) if name.endswith(")") else 2
    model = made(lambda: CONV[n](2, 3, 3, padding=1))
    wrapped = sc.symmetrize(model, name, "canonical", output="map")
    x = torch.rand(2, 2, *(6, 5, 4)[:n])
    for shift in ((1, 2, 3), (5, 0, 1)):
        moved = sc.translate(x, shift[:n])
        assert torch.equal(wrapped(moved), sc.translate(wrapped(x), shift[:n]))
    assert not torch.equal(model(moved), sc.translate(model(x), shift[:n]))


def test_the_canonical_shift_brings_what_there_is_into_the_middle():
    x = torch.zeros(1, 1, 17, 17)
    x[..., 0:3, 14:17] = torch.rand(3, 3) + 1
    wrapped = sc.symmetrize(nn.Identity(), "translations", "canonical", output="map")
    rows, columns = wrapped.picture(x)[0, 0].nonzero().double().mean(0)
    assert abs(rows - 8) <= 1
    assert abs(columns - 8) <= 1


def test_averages_over_a_period_are_exact_for_strided_models():
    model = made(strided)
    x = torch.rand(2, 3, 16, 16)
    full, part = (sc.symmetrize(model, "translations", period=p, chunk=4) for p in (4, 2))
    for shift in SHIFTS:
        moved = sc.translate(x, shift)
        assert error(full(x), full(moved)) <= 1e-6
    assert error(part(x), part(sc.translate(x, (0, 3)))) > 1e-5, "a period too short sufficed"
    loop = sum(model(sc.translate(x, (a, b))) for a in range(4) for b in range(4)) / 16
    torch.testing.assert_close(full(x), loop)


def test_averages_over_all_shifts_are_exact_for_any_model():
    model = made(lambda: cnn(size=6))
    x = torch.rand(2, 3, 6, 6)
    wrapped = sc.symmetrize(model, "translations", chunk=9)
    for shift in SHIFTS:
        assert error(wrapped(x), wrapped(sc.translate(x, shift))) <= 1e-6


@pytest.mark.parametrize("inner", ["average", "canonical"])
@pytest.mark.parametrize("outer", ["average", "canonical"])
@pytest.mark.parametrize("output", ["scores", "map"])
def test_translations_and_a_group_together(inner, outer, output):
    model = made((lambda: cnn(size=6)) if output == "scores" else segmenting)
    shifted = sc.symmetrize(model, "translations", inner, output=output)
    if (inner, outer) == ("average", "canonical"):
        with pytest.raises(sc.StructureError, match="its pose would depend on the shift"):
            sc.symmetrize(shifted, "D4", outer, output=output)
        return
    wrapped = sc.symmetrize(shifted, "D4", outer, output=output)
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        y = wrapped(x)
        for g in sc.groups.parse("D4").elements:
            found = wrapped(sc.translate(sc.act(g, x), (2, 5)))
            expected = sc.translate(sc.act(g, y), (2, 5)) if output == "map" else y
            assert error(expected, found) <= (0.0 if outer == "canonical" else 1e-6)
