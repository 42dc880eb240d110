"""Receptive fields: two independent methods agree, and with plain gradients; published numbers."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from torch import nn

import symconv as sc
from auditing import networks as known
from auditing.random_networks import networks
from symconv.auditing import receptive
from symconv.auditing.call import Call
from symconv.auditing.receptive import reach, receptive_fields, rules, windows
from symconv.auditing.receptive.reach import elements
from symconv.auditing.receptive.shadow import masks

LARGE = {1: 192, 2: 96, 3: 26}


def fields(model, *shape, **options):
    return receptive_fields(Call.of(model.eval(), torch.zeros(*shape)), **options)


def predicted(found, k, unit):
    """Positions along an axis that a unit sees, by the recursion."""
    return list(elements(found.axes[""][k].reach.at(unit)))


def compare(model, n):
    """Both methods on the units in the middle; False where the field reaches the border."""
    call = Call.of(model, torch.zeros(1, 1, *[LARGE[n]] * n))
    found = receptive_fields(call)
    assert found.output is not None, found.unknown
    seen = masks(call, [LARGE[n]] * n, units=3)
    if any(mask.touches for mask in seen) or not all(mask.seen[0].any() for mask in seen):
        return None
    return all(
        mask.positions(k) == predicted(found, k, mask.unit[k]) for mask in seen for k in range(n)
    )


@settings(max_examples=200, deadline=None)
@given(networks())
def test_the_two_methods_agree(network):
    verdict = compare(*network)
    assume(verdict is not None)
    assert verdict


@settings(max_examples=40, deadline=None)
@given(networks(dimensions=(1, 2), depth=3))
def test_plain_gradients_agree(network):
    """A third way: positive random weights, and where the plain gradient is not zero."""
    model, n = network
    assume(not any(isinstance(m, (nn.MaxPool1d, nn.MaxPool2d)) for m in model.modules()))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    size = 48 if n == 2 else 96
    found = fields(model.float(), 1, 1, *[size] * n)
    assume(found.axes)
    x = torch.rand(1, 1, *[size] * n, dtype=torch.double, requires_grad=True)
    y = model.double()(x)
    unit = tuple(m // 2 for m in y.shape[2:])
    (gradient,) = torch.autograd.grad(y[(0, slice(None), *unit)].sum(), x)
    mask = gradient[0, 0] != 0
    for k in range(n):
        side = mask.any(tuple(a for a in range(n) if a != k)) if n > 1 else mask
        positions = side.nonzero()[:, 0].tolist()
        assume(positions and positions[0] > 0 and positions[-1] < size - 1)
        assert positions == predicted(found, k, unit[k])


def wrong_window(kernel, stride=1, padding=0, dilation=1):
    return reach.Reach.of(1, stride, lambda _: (t - padding for t in range(kernel)))


def test_a_wrong_rule_is_caught(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3)).eval()
    assert compare(model, 2)
    monkeypatch.setattr(windows.reach, "window", wrong_window)
    assert compare(model, 2) is False


def grown_without_a_shift(s):
    return s.x.moved(2, reach.SAME, s.shape[2]).moved(3, reach.SAME, s.shape[3])


def test_a_rule_that_forgets_the_padding_is_caught(monkeypatch):
    model = nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(1, 1, 3)).eval()
    assert compare(model, 2)
    for name in ("constant_pad_nd", "pad"):
        monkeypatch.setitem(rules.RULES, name, grown_without_a_shift)
    assert compare(model, 2) is False


# Published numbers


@pytest.mark.parametrize(
    ("name", "layer", "size", "stride", "padding"),
    [
        ("vgg16", "features", 212, 32, 90),
        ("resnet18", "layer4", 435, 32, 217),
        ("resnet50", "layer4", 427, 32, 213),
        ("mobilenet_v2", "features", 491, 32, 245),
    ],
)
def test_published(name, layer, size, stride, padding):
    """Araujo, Norris, Sim (2019); ResNet-50 as torchvision has it, MobileNetV2 from their table."""
    found = fields(getattr(known, name)(), 1, 3, 224, 224)
    field = found.by_layer[layer]
    assert (field.size, field.stride, field.padding) == ((size,) * 2, (stride,) * 2, (padding,) * 2)
    assert not field.holes
    assert not field.everything
    assert found.output is not None
    assert found.output.everything
    assert not found.unknown


def test_the_shadow_run_gives_the_published_number_too():
    call = Call.of(known.resnet18().eval(), torch.zeros(1, 3, 224, 224))
    (mask,) = masks(call, (480, 480), "layer4")
    assert [len(mask.positions(k)) for k in (0, 1)] == [435, 435]


def test_transformers():
    vit = fields(known.vit_b_16(), 1, 3, 224, 224)
    assert vit.by_layer["conv_proj"].size == (16, 16)
    assert vit.output.everything
    swin = fields(known.swin_t(), 1, 3, 224, 224)
    assert swin.output.everything
    first = swin.by_layer["features.1"]  # patches of 4, then windows of 7, then shifted ones
    assert (first.stride, first.everything) == ((4, 4), False)


def test_convnext_permutes():
    field = fields(known.convnext_t(), 1, 3, 64, 64).by_layer["features"]
    depthwise = [(7, 4)] * 3 + [(2, 4)] + [(7, 8)] * 3 + [(2, 8)] + [(7, 16)] * 9
    depthwise += [(2, 16)] + [(7, 32)] * 3
    assert field.size[0] == 4 + sum((k - 1) * jump for k, jump in depthwise)


# Constructions


class Apply(nn.Module):
    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.modules_ = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.modules_)


def attend_to_all(x, attention):
    tokens = x.flatten(2).mT
    return attention(tokens, tokens, tokens)[0]


C4 = sc.groups.cyclic(4)
ALL, HALF = None, Fraction(1, 2)
CASES = {  # (model, size, stride, padding) for an input (1, 4, 12, 12)
    "circular": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), 3, 1, 1),
    "reflect": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), 3, 1, 1),
    "same": (nn.Conv2d(4, 4, 4, padding="same"), 4, 1, 1),
    "unfold": (nn.Unfold(3, padding=1), 3, 1, 1),
    "fold": (nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((12, 12), 2, stride=2)), 2, 1, 0),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), 2, HALF, 1),
    "three halves": (nn.Upsample(scale_factor=1.5), 1, Fraction(2, 3), 0),
    "adaptive": (nn.AdaptiveAvgPool2d(5), 4, Fraction(12, 5), 0),
    "adaptive max": (nn.AdaptiveMaxPool2d(6), 2, 2, 0),
    "global": (nn.AdaptiveAvgPool2d(1), ALL, 0, 0),
    "mean": (Apply(lambda x: x.mean((2, 3))), ALL, 0, 0),
    "gate": (Apply(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), ALL, 0, 0),
    "flat": (nn.Sequential(nn.Flatten(), nn.Linear(576, 3)), ALL, 0, 0),
    "group norm": (nn.GroupNorm(2, 4), ALL, 0, 0),
    "instance norm": (nn.InstanceNorm2d(4), ALL, 0, 0),
    "batch norm": (nn.BatchNorm2d(4), 1, 1, 0),
    "batch norm of the batch": (nn.BatchNorm2d(4, track_running_stats=False), ALL, 0, 0),
    "fft": (Apply(lambda x: torch.fft.irfft2(torch.fft.rfft2(x))), ALL, 0, 0),
    "einsum": (Apply(lambda x: torch.einsum("nchw,co->nohw", x, torch.ones(4, 5))), 1, 1, 0),
    "slices": (Apply(lambda x: x[..., 1::2, 1::2]), 1, 2, -1),
    "focus": (Apply(lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)), 2, 2, 0),
    "in place": (Apply(lambda x, c: F.relu_(c(x)).add_(1), nn.Conv2d(4, 4, 3)), 3, 1, 0),
    "attention": (Apply(attend_to_all, nn.MultiheadAttention(4, 2, batch_first=True)), ALL, 0, 0),
    "by its data": (Apply(lambda x, c: c(x) if x.sum() > -1 else x, nn.Conv2d(4, 4, 3)), 3, 1, 0),
    "tiled": (sc.nn.TiledConv2d(4, 4, 3, 2, padding=1), 3, 1, 1),
    "local": (sc.nn.LocallyConnected2d(4, 4, 3, (12, 12), padding=1), 3, 1, 1),
    "group": (sc.nn.GroupConv2d(C4.trivial(4), C4.regular(2), 3), 3, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_constructions(name):
    model, size, stride, padding = CASES[name]
    field = fields(model, 1, 4, 12, 12).output
    assert (field.size, field.stride, field.padding) == ((size,) * 2, (stride,) * 2, (padding,) * 2)
    assert field.everything == (size is None)


def test_dilation_has_holes():
    assert fields(nn.Conv1d(1, 1, 3, dilation=2), 1, 1, 9).output.holes
    filled = nn.Sequential(nn.Conv1d(1, 1, 3, dilation=2), nn.Conv1d(1, 1, 2))
    assert not fields(filled, 1, 1, 9).output.holes


def test_circular_padding_by_hand():
    field = fields(Apply(lambda x: torch.cat([x[..., -1:], x, x[..., :1]], -1)), 1, 1, 5, 5).output
    assert (field.size, field.padding) == ((1, 1), (0, 1))


def test_window_attention_is_local():
    """Attention within windows of 4: each position sees its window, and nothing beyond."""

    def attend(x):
        n, c, h, w = x.shape
        parts = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        parts = F.scaled_dot_product_attention(parts, parts, parts)
        return parts.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    found = fields(Apply(attend), 1, 2, 12, 8)
    assert found.output.size == (4, 4)
    assert [found.axes[""][0].reach.hull(j) for j in (3, 4)] == [(0, 3), (4, 7)]


# What is not known is said


@torch.library.custom_op("symconv_tests::mirrored", mutates_args=())
def mirrored(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1).clone()


@mirrored.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (mirrored, "the operation mirrored"),
        (lambda x: x[:, :, 3], "one fixed position is picked"),
        (lambda x: x + x.mT, "several axes see one of the input"),
        (lambda x: x[:, :, torch.randperm(9)], "positions are picked by a table"),
        (lambda x: torch.cat([x[..., 4:], x[..., :3]], -1), "different parts are joined"),
    ],
)
def test_the_unknown_is_reported(function, said):
    found = fields(Apply(function), 1, 1, 9, 9)
    assert found.output is None
    assert any(said in sentence for sentence in found.unknown)


def test_an_unknown_operation_leaves_the_layers_before_it():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), Apply(mirrored), nn.Conv2d(1, 1, 3))
    found = fields(model, 1, 1, 9, 9)
    assert found.by_layer["0"].size == (3, 3)
    assert "2" not in found.by_layer
    assert len(found.unknown) == 1


def test_reading_numbers_into_python_is_said():
    assert "read into Python" in fields(Apply(lambda x: x * float(x.sum())), 1, 1, 9).unknown[0]


def test_no_space_axes():
    with pytest.raises(ValueError, match="space axes"):
        fields(nn.Linear(3, 2), 1, 3)


def test_what_has_gradients_is_measured_instead():
    """No rule for a sampling grid, and yet its gradient says what it sees."""

    def shifted(x, conv):
        grid = F.affine_grid(torch.eye(2, 3)[None], list(x.shape), align_corners=False)
        return conv(F.grid_sample(x, grid, align_corners=False))

    found = fields(Apply(shifted, nn.Conv2d(1, 1, 3)), 1, 1, 32, 32)
    assert found.output is not None
    assert found.output.size[0] in (3, 4)  # rounding may make a neighbour's weight not quite zero
    assert any("measured" in sentence for sentence in found.unknown)


# Programs, names, other shapes


def test_an_exported_program_names_its_layers():
    block = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), block).eval()
    x = torch.zeros(1, 4, 12, 12)
    program = torch.export.export(model, (x,))
    assert receptive_fields(Call.of(program, x)).by_layer == fields(model, 1, 4, 12, 12).by_layer


def test_tokens():
    model = nn.Sequential(nn.Embedding(7, 4), nn.LSTM(4, 3, batch_first=True))
    found = receptive_fields(Call.of(model.eval(), torch.zeros(2, 9, dtype=torch.long)))
    assert found.by_layer["0"].size == (1,)
    assert found.output.everything


# Units that avoid the border


@settings(max_examples=60, deadline=None)
@given(networks(dimensions=(1,)))
def test_interior_units_do_not_see_the_border(network):
    """Change what lies beyond: an interior unit is the same with any padding around the input."""
    model, _ = network
    found = fields(model, 1, 1, 64)
    assume(found.axes)
    axis = found.axes[""][0]
    assume(all(bits for _, bits in axis.reach.sets))  # no unit that sees nothing at all
    size = found.smallest_interior("")
    assert size is not None
    outputs = math.ceil(4 * size[0] / axis.reach.stride) + 8
    (inside,) = found.interior("", size, (outputs,))
    assert inside.stop > inside.start
    (none,) = found.interior("", (size[0] - 1,), (outputs,))
    assert none.stop == none.start
    for j in range(outputs):
        positions = predicted(found, 0, j)
        avoids = all(0 <= i < size[0] for i in positions)
        assert avoids <= (inside.start <= j < inside.stop)


def test_interior_of_a_known_layer():
    found = fields(nn.Conv2d(1, 1, 5, stride=2, padding=2), 1, 1, 16, 16)
    assert found.interior("", (16, 16), (8, 8)) == (slice(1, 7), slice(1, 7))
    assert found.smallest_interior("") == (5, 5)
    assert found.interior("nowhere", (16, 16), (8, 8)) is None


def test_nothing_is_left_behind():
    model = known.resnet18().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fields_before = [len(m._forward_hooks) for m in model.modules()]
    receptive_fields(Call.of(model, torch.zeros(1, 3, 64, 64)))
    assert model.training
    assert [len(m._forward_hooks) for m in model.modules()] == fields_before
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert receptive.__all__
