"""Sizes: what is said of smallest inputs, laws and leaks holds when the model is run for real."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from auditing import networks as known
from auditing.random_networks import networks
from symconv.auditing.call import Call
from symconv.auditing.sizes import find_sizes, leak


def found_for(model, *shape):
    return find_sizes(Call.of(model.eval(), torch.zeros(*shape)))


def runs(model, size, channels=1):
    try:
        with torch.no_grad():
            return model(torch.zeros(1, channels, *size))
    except RuntimeError:
        return None


def evaluated(law, size):
    """The output size that a law gives."""
    names = {1: "n", 2: "hw", 3: "dhw"}[len(size)]
    return tuple(eval(part, {}, dict(zip(names, size, strict=True))) for part in law.split(", "))


@settings(max_examples=30, deadline=None)
@given(networks(), st.data())
def test_smallest_and_law_hold(network, data):
    model, n = network
    shape = [20] * n if n < 3 else [13] * n
    assume(runs(model, shape) is not None)
    found = found_for(model, 1, 1, *shape)
    assert found.fixed_by is None
    assert runs(model, found.smallest) is not None
    for axis in range(n):
        less = [m - (a == axis) for a, m in enumerate(found.smallest)]
        assert not all(less) or runs(model, less) is None
    assert found.law is not None
    size = [data.draw(st.integers(m, m + 25)) for m in found.smallest]
    assert tuple(runs(model, size).shape[2:]) == evaluated(found.law, size)


@pytest.mark.parametrize(
    ("model", "smallest", "law"),
    [
        (nn.Conv2d(1, 1, 3), (3, 3), "h - 2, w - 2"),
        (nn.Conv2d(1, 1, 7, 2, 3), (1, 1), "(h + 1) // 2, (w + 1) // 2"),
        (nn.Conv1d(1, 1, 3, dilation=4), (9,), "n - 8"),
        (nn.MaxPool1d(3, 2, ceil_mode=True), (2,), "n // 2"),
        (nn.ConvTranspose3d(1, 1, 3, 2), (1, 1, 1), "2 * d + 1, 2 * h + 1, 2 * w + 1"),
        (nn.Upsample(scale_factor=1.5), (1, 1), "(3 * h) // 2, (3 * w) // 2"),
        (nn.AdaptiveAvgPool2d((3, 1)), (1, 1), "3, 1"),
    ],
)
def test_laws(model, smallest, law):
    found = found_for(model, 1, 1, *[16] * len(smallest))
    assert (found.smallest, found.law) == (smallest, law)
    for size in range(9, 22):
        expected = tuple(model(torch.zeros(1, 1, *[size] * len(smallest))).shape[2:])
        assert evaluated(found.law, [size] * len(smallest)) == expected


def test_networks():
    resnet = found_for(known.resnet18(), 1, 3, 64, 64)
    assert (resnet.smallest, resnet.leak) == ((1, 1), True)
    assert resnet.law == "1000 at any input size"
    assert found_for(known.vgg16().features, 1, 3, 64, 64).law == "h // 32, w // 32"
    vit = found_for(known.vit_b_16(), 1, 3, 224, 224)
    assert vit.fixed_by == "the model's own forward"
    assert vit.notes == ("works for h from 224 to 239, w from 224 to 239",)


def test_the_layer_that_fixes_the_size_is_named():
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(2 * 28 * 28, 3))
    found = found_for(model, 1, 1, 32, 32)
    assert (found.fixed_by, found.smallest, found.law) == ("2", (32, 32), None)


class Around(nn.Module):
    """An encoder and a decoder that meet: sizes must be multiples."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels
        self.down = nn.ModuleList(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(levels))
        self.up = nn.Upsample(scale_factor=2**levels)

    def forward(self, x):
        y = x
        for layer in self.down:
            y = layer(y)
        return x + self.up(y)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_multiples(levels):
    found = found_for(Around(levels), 1, 1, 64, 32)
    step = 2**levels
    assert (found.smallest, found.law) == ((step, step), "h, w")
    assert f"h must be a multiple of {step}" in found.notes
    assert runs(Around(levels), (step, 2 * step)) is not None
    assert runs(Around(levels), (step + 1, step)) is None


# Leaks


@pytest.mark.parametrize(
    ("model", "leaks"),
    [
        (nn.Conv2d(1, 1, 1), False),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2)), False),  # no padding
        (nn.Conv2d(1, 1, 3, padding=1), True),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), True),  # at odd sizes
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), True),
        (nn.BatchNorm2d(1), False),
        (nn.GroupNorm(1, 1), True),
        (nn.ZeroPad2d((2, 0, 2, 0)), False),
    ],
)
def test_leak(model, leaks):
    assert found_for(model, 1, 1, 40, 40).leak is leaks


def test_a_masked_model_does_not_leak():
    """Partial pooling over a known size: the check is not simply always true."""

    class Masked(nn.Module):
        def forward(self, x):
            return torch.where(x.isnan() | (x == 0), 0.0, x).sum((2, 3))

    assert found_for(Masked(), 1, 1, 16, 16).leak is False


def test_a_leak_that_is_not_looked_for_is_not_found(monkeypatch):
    """Negative control: without the mark in the padding nothing is seen."""
    monkeypatch.setattr(leak.torch, "nan", 0.0)
    model = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    assert found_for(model, 1, 1, 16, 16).leak is False


def test_the_amount_is_said():
    (note,) = found_for(nn.Conv2d(1, 1, 3, padding=1), 1, 1, 32, 32).notes
    share = float(re.search(r"reaches ([\d.]+) %", note)[1])
    assert share == pytest.approx(100 * (1 - 31**2 / 32**2), rel=1e-2)


# What cannot be found out


def test_control_by_data():
    class ByData(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else F.relu(x)

    with pytest.raises(ValueError, match="shapes alone"):
        found_for(ByData(), 1, 1, 8, 8)


def test_no_space_axes():
    with pytest.raises(ValueError, match="space axes"):
        found_for(nn.Linear(3, 2), 1, 3)


def test_a_constant_made_in_the_forward():
    class Grid(nn.Module):
        def forward(self, x):
            return x + torch.arange(x.shape[-1], dtype=x.dtype)

    assert found_for(Grid(), 1, 1, 8, 8).law == "h, w"


def test_an_exported_program_has_its_size():
    x = torch.zeros(1, 1, 8, 8)
    program = torch.export.export(nn.Conv2d(1, 1, 3).eval(), (x,))
    found = find_sizes(Call.of(program, x))
    assert found.fixed_by == "the exported program"


def test_nothing_is_left_behind():
    model = known.resnet18().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    state = torch.random.get_rng_state()
    find_sizes(Call.of(model, torch.zeros(1, 3, 64, 64)))
    assert model.training
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
