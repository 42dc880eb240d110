"""Equivariance errors: planted faults are found and named, sound networks are not accused."""

import copy
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import symconv as sc
from auditing.networks import resnet18
from auditing.planted import Between, Tokens, conv, faults, group_net, picture, sound, twin
from symconv.auditing.call import Call
from symconv.auditing.equivariance import measure
from symconv.auditing.receptive import receptive_fields
from symconv.errors import StructureError

FAULTS, SOUND = faults(), sound()
WORDS = {"shift": "a shift of {} px", "turn": "a turn by {} degrees", "mirror": "a mirror"}


def measured(net, x, group=None, fields=False):
    call = Call.of(net, x)
    return measure(call, group, receptive_fields(call) if fields else None)


def rows_of(found, transform, layer=None):
    rows = [row for row in found.rows if row.transform == transform]
    return rows if layer is None else [row for row in rows if row.layer == layer]


def one(found, transform, layer=""):
    (row,) = rows_of(found, transform, layer)
    return row


def accused(found, transform):
    """The layers named for a transform, in the order of the sentences."""
    kind, _, amount = transform.partition(" ")
    words = WORDS[kind].format(amount)
    said = [
        sentence.split(f" under {words}")[0] for sentence in found.culprits if words in sentence
    ]
    return [text.split(": error")[0].split(", stride")[0].split(" (")[0] for text in said]


# The suites


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_its_layer_named(name):
    net, x, group, transform, layer = FAULTS[name]
    found = measured(net, x, group)
    assert one(found, transform).verdict != "exact"
    assert accused(found, transform) == [layer]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_network_is_not_accused(name):
    net, x, group, transforms = SOUND[name]
    found = measured(net, x, group)
    for transform in transforms:
        assert rows_of(found, transform)
        assert {row.verdict for row in rows_of(found, transform)} == {"exact"}, transform
        for row in rows_of(found, transform):
            assert row.error is None or row.error < 1e-12
    exact = {t.split()[0] for t in transforms} - {"shift"}
    assert not any(word in sentence for word in exact for sentence in found.culprits)


def test_there_are_twenty_of_each():
    assert len(FAULTS) >= 20
    assert len(SOUND) >= 20


def test_a_network_that_does_not_say_its_fields_is_judged_as_a_whole():
    net, x = twin().double(), picture(2, 1, 9, 9)
    found = measured(net, x, "C4")
    assert one(found, "turn 90").verdict == "exact"
    assert one(found, "turn 90", "0").verdict == "broken"  # its channels turn, which none knows
    assert "stay where they are" in one(found, "turn 90").note
    assert not any("turn" in sentence for sentence in found.culprits)


# Against what was written from the definition


def whole_error(net, x, before, after):
    with torch.no_grad():
        plain, moved = after(net(x)), net(before(x))
    return float((moved - plain).norm() / plain.norm())


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_errors_are_those_of_the_definition(padding_mode):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 5, 2, 2, padding_mode=padding_mode), nn.ReLU(), nn.Conv2d(4, 3, 3)
    ).double()
    x = picture(2, 2, 16, 12)
    found = measured(net, x)
    first = lambda y: net[0](y)  # noqa: E731

    def roll(t):
        return lambda y: y.roll((t, t), (-2, -1))

    for layer, f in (("", net), ("0", first)):
        expected = whole_error(f, x, roll(2), roll(1))
        assert one(found, "shift 2", layer).error == pytest.approx(expected, rel=1e-9, abs=1e-14)
        expected = whole_error(f, x, lambda y: y.flip(-1), lambda y: y.flip(-1))
        assert one(found, "mirror", layer).error == pytest.approx(expected, rel=1e-9)
        expected = whole_error(f, x, *(lambda y: y.rot90(1, (-2, -1)),) * 2)
        assert one(found, "turn 90", layer).error == pytest.approx(expected, rel=1e-9)
    with torch.no_grad():
        h = net[1](net[0](x))
    expected = whole_error(net[2], h, roll(1), roll(1))
    assert one(found, "shift 2", "2").local_error == pytest.approx(expected, rel=1e-9)


def fourier_shift(x, step):
    """By the definition: the trigonometric polynomial through the samples, evaluated elsewhere."""
    for axis in (-2, -1):
        size = x.shape[axis]
        frequency = np.fft.fftfreq(size, 1 / size)
        at = np.arange(size) - step
        matrix = np.exp(2j * np.pi * np.outer(at, frequency) / size)
        spectrum = np.fft.fft(np.moveaxis(x, axis, -1))
        x = np.moveaxis((spectrum @ matrix.T / size).real, -1, axis)
    return x


def test_fractional_shifts_are_those_of_numpy():
    found = measured(nn.ReLU(), picture(1, 2, 15, 9))
    row = one(found, "shift 0.5")
    from symconv.auditing.equivariance.moves import shift, smooth

    x = smooth(picture(1, 2, 15, 9), 2)
    got = shift([Fraction(1, 2)] * 2).space(x, (2, 3), [Fraction(1)] * 2)
    assert np.allclose(got, fourier_shift(x.numpy(), 0.5), atol=1e-12)
    assert 0.01 < row.local_error < 0.5
    assert row.error == row.local_error


def band_limited(cutoff=0.24):
    """Noise without frequencies above a cutoff, in cycles per pixel."""
    spectrum = np.fft.fft2(np.random.default_rng(0).normal(size=(1, 8, 64, 64)))
    frequency = np.abs(np.fft.fftfreq(64))
    keep = (frequency[:, None] < cutoff) & (frequency < cutoff)
    return torch.from_numpy(np.fft.ifft2(spectrum * keep).real.copy())


class BlurPool(nn.Module):
    """Max pooling of stride 1, then a binomial filter of stride 2 (Zhang 2019), circular."""

    def forward(self, x):
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="circular"), 2, 1)
        line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
        weight = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, None, 2, groups=x.shape[1])


def test_known_layers_err_as_known():
    """On band-limited noise: max pooling most, blurred pooling less, average pooling not at all."""
    x = band_limited()
    layers = {"max": nn.MaxPool2d(2), "blur": BlurPool(), "average": nn.AvgPool2d(2)}
    one_pixel = {name: one(measured(f, x), "shift 1").error for name, f in layers.items()}
    assert 0.3 < one_pixel["max"] < 0.4
    assert one_pixel["blur"] < 0.3 * one_pixel["max"]
    assert one_pixel["average"] < 1e-14
    layers = {"conv": conv(8, 8).double(), "gelu": nn.GELU(), "relu": nn.ReLU()}
    half = {name: one(measured(f, x), "shift 0.5").error for name, f in layers.items()}
    assert half["conv"] < 1e-14
    assert 0.01 < half["gelu"] < 0.06
    assert 0.08 < half["relu"] < 0.2


def test_resnet_is_exact_for_shifts_by_its_stride_alone():
    torch.manual_seed(0)
    net = resnet18(classes=10, padding_mode="circular", width=8).double()
    net.maxpool = nn.Sequential(nn.CircularPad2d(1), nn.MaxPool2d(3, 2))
    found = measured(net, picture(1, 3, 64, 64))
    assert found.period == (32, 32)
    assert all(row.error < 1e-12 for row in rows_of(found, "shift 32"))
    assert one(found, "shift 1").verdict != "exact"
    assert "conv1, stride 2" in found.culprits[0]
    assert "exact for multiples of 32" in found.culprits[0]
    net.maxpool = nn.MaxPool2d(3, 2, 1)  # pads with minus infinity
    found = measured(net, picture(1, 3, 64, 64))
    assert found.period is None
    assert accused(found, "shift 32") == ["maxpool"]


# Laws over random networks


@settings(max_examples=8)
@given(st.data())
def test_circular_networks_are_exact_at_their_stride(data):
    n = data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    layers, channels, total = [], 2, 1
    for _ in range(data.draw(st.integers(1, 3))):
        stride = data.draw(st.sampled_from([1, 1, 2, 3] if n < 3 else [1, 2]))
        kernel = 2 * data.draw(st.integers(0, 1)) + stride
        pad = (kernel - stride) // 2
        layers += [conv(channels, 3, kernel, n, stride=stride, padding=pad), nn.GELU()]
        channels, total = 3, total * stride
    size = [total * data.draw(st.integers(2, 3)) for _ in range(n)]
    net = nn.Sequential(*layers).double()
    x = picture(1, 2, *size)
    if min(size) < 2:
        return
    found = measured(net, x)
    assert {row.verdict for row in rows_of(found, f"shift {total}")} == {"exact"}
    assert found.period == (total,) * n
    broken = copy.deepcopy(net)
    broken[0].padding_mode = "zeros"
    if max(broken[0].padding) > 0:
        worse = measured(broken, x)
        assert accused(worse, f"shift {total}")[:1] == ["0"]
        assert worse.period is None


@settings(max_examples=8)
@given(st.data())
def test_group_networks_are_exact_under_their_group_alone(data):
    name = data.draw(st.sampled_from(["C2", "C4", "D2", "D4"]))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    group = sc.groups.parse(name)
    net = group_net(group, stride=data.draw(st.sampled_from([1, 2]))).double()
    x = picture(1, 1, *(data.draw(st.sampled_from([7, 9])),) * 2)
    found = measured(net, x, group)
    mine = [row for row in found.rows if row.transform.startswith(("turn", "mirror"))]
    assert len({row.transform for row in mine}) == group.order - 1
    assert {row.verdict for row in mine} == {"exact"}
    with torch.no_grad():
        net[0].weight.add_(0)
    other = nn.Sequential(conv(1, 4), nn.ReLU()).double()
    assert {r.verdict for r in measured(other, x, group).rows if r.transform == "turn 180"} != {
        "exact"
    }


# Interior


def test_the_interior_of_a_padded_network_is_exact():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    found = measured(net.double(), picture(1, 1, 12, 12), fields=True)
    row = one(found, "shift 1")
    assert row.error > 0.01
    assert row.interior_error < 1e-14
    assert row.verdict != "exact"


@pytest.mark.parametrize("stride", [1, 2])
def test_without_an_interior_the_smallest_size_that_has_one_is_said(stride):
    layers = nn.Conv2d(1, 2, 5, stride, padding=2), nn.Conv2d(2, 1, 5, padding=2)
    net = nn.Sequential(*layers).double()
    row = one(measured(net, picture(1, 1, 8, 8), fields=True), f"shift {stride}")
    assert row.interior_error is None
    size = row.smallest_interior
    assert size is not None
    enough = one(measured(net, picture(1, 1, *size), fields=True), f"shift {stride}")
    assert enough.interior_error is not None
    assert enough.interior_error < 1e-13
    less = tuple(s - 1 for s in size)
    short = one(measured(net, picture(1, 1, *less), fields=True), f"shift {stride}")
    assert short.interior_error is None


def test_whole_fields_have_no_interior():
    net = nn.Sequential(conv(1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    row = one(measured(net.double(), picture(2, 1, 8, 8), fields=True), "shift 1")
    assert row.interior_error is None
    assert row.smallest_interior is None
    assert "whole input" in row.note


# Outputs, names and notes


def test_vectors_say_how_often_the_class_stays():
    net = nn.Sequential(conv(1, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()).double()
    assert "the same class for 4 of 4" in one(measured(net, picture(4, 1, 8, 8)), "shift 1").note
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 50)).double()
    row = one(measured(dense, picture(4, 1, 8, 8)), "shift 1")
    assert "of 4" in row.note
    assert "4 of 4" not in row.note


def test_functions_in_a_forward_are_rows():
    found = measured(Between(lambda y: F.max_pool2d(y, 3, 1, 1)).double(), picture(1, 3, 8, 8))
    names = [row.layer for row in rows_of(found, "shift 1")]
    assert names == ["", "first", ":gelu", ":max_pool2d", "last"]


def test_positions_behind_class_tokens_are_followed():
    net = Tokens(True, token=True).double()
    found = measured(net, picture(1, 3, 16, 16))
    assert accused(found, "shift 4") == [":add"]
    assert one(found, "shift 4", "attention").local_error < 1e-13


def test_names_of_transforms():
    found = measured(conv(1, 1).double(), picture(1, 1, 8, 8))
    names = list(dict.fromkeys(row.transform for row in found.rows))
    assert names == ["shift 1", "shift 0.5", "mirror", "turn 90", "rotate 45", "rescale 0.5"]
    found = measured(nn.AvgPool2d(2).double(), picture(1, 1, 8, 8), "D4")
    names = list(dict.fromkeys(row.transform for row in found.rows))
    turns = ["turn 90", "turn 180", "turn 270", "mirror", "mirror 90", "mirror 180", "mirror 270"]
    assert names == ["shift 1", "shift 2", "shift 0.5", *turns]


def test_isotropic_filters_commute_with_rotations_off_the_lattice():
    net = nn.Conv2d(1, 1, 7, padding=3, bias=False).double()
    at = torch.arange(7.0) - 3
    blob = torch.exp(-(at[:, None] ** 2 + at**2) / 2)
    with torch.no_grad():
        net.weight.copy_(blob)
    x = picture(1, 1, 48, 48)
    row = one(measured(net, x, fields=True), "rotate 45")
    assert row.interior_error < 0.02
    with torch.no_grad():
        net.weight.copy_(blob * (1 + at))  # lopsided
    assert one(measured(net, x, fields=True), "rotate 45").interior_error > 0.2


def test_upsampling_commutes_with_rescaling_and_strides_do_not():
    blur = conv(1, 1, 5).double()
    row = one(measured(nn.Identity(), picture(1, 1, 16, 16)), "rescale 0.5")
    assert row.verdict == "exact"
    assert one(measured(blur, picture(1, 1, 16, 16)), "rescale 0.5").verdict != "exact"


# Input and model


def test_features_written_into_another_tensor_accuse_nobody_wrongly():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)

        def forward(self, x):
            y = x.new_zeros(*x.shape[:2], *(s + 2 for s in x.shape[2:]))
            y[:, :, 1:-1, 1:-1] = x
            y[:, :, [0, -1]], y[:, :, :, [0, -1]] = y[:, :, [-2, 1]], y[:, :, :, [-2, 1]]
            y[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] = x[:, :, [-1, -1, 0, 0], [-1, 0, -1, 0]]
            return self.pool(self.conv(y))

    found = measured(Padded().double(), picture(1, 1, 8, 8))
    assert found.period == (2, 2)
    assert accused(found, "shift 1") == ["pool"]


def test_several_arguments_move_together():
    class Difference(nn.Module):
        def forward(self, left, right, scale):
            return {"apart": (left - right) * scale, "left": (left.mean((2, 3)),)}

    x = {"left": picture(1, 2, 6, 6), "right": picture(1, 2, 6, 6), "scale": torch.ones(1, 1, 1, 1)}
    found = measured(Difference(), x)
    assert one(found, "shift 1").verdict == "exact"


def test_a_constant_input_is_replaced_by_noise():
    found = measured(nn.Conv2d(1, 2, 3, padding=1), torch.zeros(1, 1, 8, 8))
    row = one(found, "shift 1")
    assert row.error > 0.01
    assert "noise" in row.note


def test_no_space_axes():
    with pytest.raises(StructureError, match="space axes"):
        measured(nn.Linear(3, 2), torch.zeros(1, 3))
    sequence = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(StructureError, match="takes as features"):
        measured(sequence, torch.randn(1, 6, 8))
    report = sc.audit(nn.Linear(3, 2), torch.zeros(1, 3))
    assert report.equivariance is None
    assert "space axes" in report.reasons["equivariance"]


def test_a_model_of_one_size_keeps_its_other_transforms():
    net = nn.Sequential(conv(1, 2), nn.Flatten(), nn.Linear(128, 3)).double()
    found = measured(net, picture(1, 1, 8, 8))
    row = one(found, "rescale 0.5")
    assert row.error is None
    assert "fails on the transformed input" in row.note
    assert one(found, "shift 1").error > 0.01
    assert accused(found, "shift 1") == ["2"]


def test_a_batch_that_is_fixed_is_no_hindrance():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(1, 2, 8, 8).relu()

    assert one(measured(Fixed(), picture(1, 2, 8, 8)), "shift 1").verdict == "exact"


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_scripted_and_compiled_models():
    net = nn.Sequential(conv(1, 2), nn.MaxPool2d(2)).double().eval()
    x = picture(1, 1, 8, 8)
    plain = one(measured(net, x), "shift 1").error
    traced = measured(torch.jit.trace(net, x), x)  # what is in it cannot be seen
    assert one(traced, "shift 1").error == pytest.approx(plain)
    assert accused(traced, "shift 1") == ["no single layer could be named for the error"]
    compiled = measured(torch.compile(net, backend="eager"), x)
    assert one(compiled, "shift 1").error == pytest.approx(plain)
    assert [name.split(".")[-1] for name in accused(compiled, "shift 1")] == ["1"]


def test_a_map_too_small_for_a_transform_keeps_the_others():
    found = measured(nn.Conv2d(1, 1, 1), torch.randn(1, 1, 1, 2))
    assert "too small" in one(found, "rescale 0.5").note
    assert one(found, "shift 1").verdict == "exact"


def test_an_exported_program_is_measured():
    net = nn.Sequential(conv(1, 2), nn.MaxPool2d(2), conv(2, 1, padding_mode="zeros")).double()
    x = picture(1, 1, 8, 8)
    program = torch.export.export(net.eval(), (x,))
    found, plain = measured(program, x), measured(net, x)
    for transform in ("shift 1", "shift 2"):
        assert one(found, transform).error == pytest.approx(one(plain, transform).error)
    assert any("max_pool2d, stride 2" in sentence for sentence in found.culprits)


def test_an_output_that_ignores_the_input_is_said_to():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.mul_(1e-9)
    found = measured(net, torch.randn(1, 1, 8, 8))
    assert "hardly depends on the input" in found.culprits[0]
    net[0].reset_parameters()
    assert not any("hardly" in s for s in measured(net, torch.randn(1, 1, 8, 8)).culprits)


def test_nothing_is_changed():
    torch.manual_seed(0)
    net = nn.Sequential(conv(1, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout(0.5))
    net.train()
    x = torch.randn(2, 1, 8, 8)
    given, state = x.clone(), copy.deepcopy(net.state_dict())
    generator = torch.get_rng_state()
    measured(net, x)
    assert net.training
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not [name for name in vars(x) if "mark" in name]


def test_half_precision():
    net = nn.Sequential(conv(1, 4), nn.ReLU(), nn.MaxPool2d(2)).to(torch.bfloat16)
    found = measured(net, torch.randn(1, 1, 8, 8).to(torch.bfloat16))
    assert one(found, "shift 2").verdict == "exact"
    assert one(found, "shift 1").verdict != "exact"
    assert one(found, "shift 0.5").error is not None


def test_values_that_are_not_finite_are_said_to_be():
    class Divided(nn.Module):
        def forward(self, x):
            return x / (x - x)

    row = one(measured(Divided(), picture(1, 1, 6, 6)), "shift 1")
    assert row.error is None
    assert "not finite" in row.note


def test_the_report_holds_the_rows():
    net = nn.Sequential(conv(1, 2), nn.MaxPool2d(2)).double()
    report = sc.audit(net, picture(1, 1, 8, 8), sizes=False)
    assert report.period == (2, 2)
    document = json.loads(report.to_json())
    assert {row["transform"] for row in document["equivariance"]} >= {"shift 1", "shift 2"}
    report.require("error[shift 2]=1e-10")
    with pytest.raises(AssertionError, match="shift 1"):
        report.require("error[shift 1]=1e-10")
