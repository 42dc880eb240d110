"""Learned poses: they train, and the result is invariant to the bit at every stage."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import symconv as sc
from symconv.conversion import Canonicaliser, prior_loss

D4 = sc.groups.parse("D4")


@pytest.mark.parametrize("name", ["mirror", "C4", "D4", "D2", "O"])
def test_scores_follow_the_pose(name):
    """scores(h x)[g] = scores(x)[g h]."""
    group = sc.groups.parse(name)
    torch.manual_seed(0)
    for field in (group.trivial(2), group.regular(1)):
        pose = Canonicaliser(field, width=2, kernel_size=3).double()
        x = torch.randn(3, field.channels, *(5,) * group.dimension, dtype=torch.float64)
        scores = pose(x)
        for h in group.elements:
            columns = torch.from_numpy(group.product[:, h.index])
            torch.testing.assert_close(pose(sc.act(h, x, field)), scores[:, columns])
        assert scores.std(1).min() > 1e-6


def test_blocks_are_averaged_first():
    torch.manual_seed(0)
    pose = Canonicaliser(D4.trivial(1), shrink=3)
    fine = Canonicaliser(D4.trivial(1))
    fine.load_state_dict(pose.state_dict())
    x = torch.rand(2, 1, 12, 12)
    small = x.view(2, 1, 4, 3, 4, 3).mean((3, 5))
    torch.testing.assert_close(pose(x), fine(small))


def test_repr_gives_the_canonicaliser_back():
    for made in (
        Canonicaliser(D4.trivial(3)),
        Canonicaliser(D4.trivial(3), width=2, kernel_size=3, shrink=2),
    ):
        again = eval(repr(made), {"Canonicaliser": Canonicaliser, "D4": D4})
        assert repr(again) == repr(made)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in made.state_dict().items()
        }


def scenes(count, seed):
    """Bright above, a little brighter at the left, and noise: one pose is upright."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(1, 0, 8)
    clean = ramp[:, None] + 0.4 * ramp
    return clean + 0.3 * torch.randn(count, 1, 8, 8, generator=generator)


def turned(x, seed):
    """Each by its own element."""
    drawn = torch.randint(8, (len(x),), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([sc.act(D4.elements[k], each) for k, each in zip(drawn, x, strict=True)])


class Upright(nn.Module):
    """How bright it is above less below, and left less right: a frozen model of upright scenes."""

    def forward(self, x):
        ramp = torch.linspace(1, -1, 8)
        return (x * (ramp[:, None] + 0.4 * ramp)).mean((1, 2, 3))[:, None]


def exact(model, x):
    with torch.no_grad():
        y = model(x)
        return all(torch.equal(model(sc.act(g, x)), y) for g in D4.elements)


def test_it_learns_from_the_task_and_is_exact_at_every_stage():
    torch.manual_seed(0)
    pose = Canonicaliser(D4.trivial(1), width=2, kernel_size=3)
    model = sc.symmetrize(Upright(), "D4", "canonical", canonicaliser=pose)
    x, new = turned(scenes(64, 0), 1), turned(scenes(64, 2), 3)
    with torch.no_grad():
        best = Upright()(scenes(64, 2)).mean()
        before = model(new).mean()
    optimiser = torch.optim.Adam(pose.parameters(), 0.02)
    for step in range(60):
        assert step % 15 or exact(model, new[:8])
        optimiser.zero_grad()
        (-model(x).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        after = model(new).mean()
    assert exact(model, new)
    assert before < 0.7 * best
    assert after > 0.95 * best


def test_a_prior_keeps_upright_pictures_upright():
    torch.manual_seed(0)
    pose = Canonicaliser(D4.trivial(1), width=2, kernel_size=3)
    model = sc.symmetrize(nn.Identity(), "D4", "canonical", output=lambda _, y: y,
                          canonicaliser=pose)  # fmt: skip
    upright = scenes(64, 5)

    def right():
        with torch.no_grad():
            return sum(torch.equal(a, b) for a, b in zip(model(turned(upright, 6)), upright,
                                                         strict=True)) / 64  # fmt: skip

    before = right()
    optimiser = torch.optim.Adam(pose.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        prior_loss(pose(scenes(32, int(torch.randint(1000, ())) + 10))).backward()
        optimiser.step()
    assert before < 0.5
    assert right() > 0.95


def test_a_prior_on_another_element():
    prior = torch.zeros(4)
    prior[3] = 1.0
    scores = torch.randn(5, 4)
    assert prior_loss(scores, prior) == pytest.approx(-scores.log_softmax(1)[:, 3].mean().item())
    assert prior_loss(torch.zeros(5, 4), torch.full((4,), 0.25)) == pytest.approx(math.log(4))
    assert prior_loss(scores) == pytest.approx(prior_loss(scores, torch.eye(4)[0]).item())


@pytest.mark.parametrize("output", ["scores", "map"])
def test_the_value_is_one_pose_and_the_gradient_reaches_the_scores(output):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh())
    if output == "scores":
        model = nn.Sequential(model, nn.AdaptiveAvgPool2d(3), nn.Flatten())
    pose = Canonicaliser(D4.trivial(1), width=2, kernel_size=3)
    made = sc.symmetrize(model, "D4", "canonical", output=output, canonicaliser=pose)
    x = turned(scenes(6, 0), 1)
    with torch.no_grad():
        expected = made(x)
    y = made(x)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in pose.parameters())
    for g in D4.elements:
        moved = sc.act(g, y) if output == "map" else y
        assert torch.equal(made(sc.act(g, x)), moved)


class Careless(nn.Module):
    """No equivariant network at all."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))

    def forward(self, x):
        return self.body(x)


def test_exactness_does_not_depend_on_the_canonicaliser():
    torch.manual_seed(0)
    x = turned(scenes(12, 0), 1)
    x[0] = x[0] + x[0].flip(-1)
    x[1] = 0.5
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    made = sc.symmetrize(model, "D4", "canonical", output="map", canonicaliser=Careless())
    y = made(x)
    for g in D4.elements:
        torch.testing.assert_close(made(sc.act(g, x)), sc.act(g, y), rtol=1e-6, atol=1e-6)
        assert torch.equal(made(sc.act(g, x))[2:], sc.act(g, y)[2:])


def test_with_shifts():
    torch.manual_seed(0)
    shifted = sc.symmetrize(Careless(), "translations", "canonical")
    pose = Canonicaliser(D4.trivial(1), width=2, kernel_size=3)
    made = sc.symmetrize(shifted, "D4", "canonical", canonicaliser=pose)
    x = scenes(6, 0)
    for g in D4.elements:
        assert torch.equal(made(sc.translate(sc.act(g, x), (3, 6))), made(x))
