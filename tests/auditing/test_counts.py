"""Counts of whole networks against hand formulas, of convolutions against what torch computes."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import symconv as sc
from auditing import networks
from symconv.auditing.call import Call
from symconv.auditing.counts import count


def counts(model, x):
    return count(Call.of(model, x))


def conv(size, inside, outside, kernel, stride=1, groups=1):
    """Output size and MACs of a convolution with "half" padding, by hand."""
    out = -(-size // stride)
    return out, out * out * outside * inside // groups * kernel * kernel


def resnet(depths, bottleneck):
    size, macs = conv(224, 3, 64, 7, 2)
    size, inside = size // 2, 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        outside = 4 * width if bottleneck else width
        for block in range(depth):
            stride = 2 if stage and not block else 1
            if bottleneck:
                macs += conv(size, inside, width, 1)[1]
                out, more = conv(size, width, width, 3, stride)
                macs += more + conv(out, width, outside, 1)[1]
            else:
                out, more = conv(size, inside, width, 3, stride)
                macs += more + conv(out, width, width, 3)[1]
            if stride == 2 or inside != outside:
                macs += conv(size, inside, outside, 1, stride)[1]
            size, inside = out, outside
    return macs + inside * 1000


def vgg16():
    size, inside, macs = 224, 3, 0
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            macs += conv(size, inside, width, 3)[1]
            inside = width
        size //= 2
    return macs + 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000


def mobilenet_v2():
    size, macs = conv(224, 3, 32, 3, 2)
    inside = 32
    for expand, outside, blocks, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            hidden = expand * inside
            macs += conv(size, inside, hidden, 1)[1] if expand > 1 else 0
            size, more = conv(size, hidden, hidden, 3, first if not block else 1, hidden)
            macs += more + conv(size, hidden, outside, 1)[1]
            inside = outside
    return macs + conv(size, 320, 1280, 1)[1] + 1280 * 1000


def vit_b_16():
    tokens, width = 14 * 14 + 1, 768
    linear = 4 * width * width + 2 * 4 * width * width  # q, k, v, projection; hidden layer
    attention = 2 * tokens * width  # a query: scores, then values
    return 196 * width * 3 * 256 + 12 * tokens * (linear + attention) + width * 1000


def swin_t():
    macs, size, width = 56 * 56 * 96 * 48, 56, 96
    for stage, depth in enumerate((2, 2, 6, 2)):
        if stage:
            size, width = size // 2, 2 * width
            macs += size * size * 2 * width * width  # merging: 4 C/2 channels into C
        macs += depth * size * size * (12 * width * width + 2 * 49 * width)
    return macs + 768 * 1000


def convnext_t():
    macs, size = 56 * 56 * 96 * 48, 56
    for width, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if width > 96:
            size //= 2
            macs += size * size * width * 4 * width // 2
        macs += depth * size * size * (49 * width + 8 * width * width)
    return macs + 768 * 1000


BY_HAND = {  # exact, and in units of a thousand million as published
    "resnet18": (resnet((2, 2, 2, 2), False), 1.8141),
    "resnet50": (resnet((3, 4, 6, 3), True), 4.0892),
    "vgg16": (vgg16(), 15.4703),
    "mobilenet_v2": (mobilenet_v2(), 0.3008),
    "vit_b_16": (vit_b_16(), 17.5638),
    "swin_t": (swin_t(), 4.4906),
    "convnext_t": (convnext_t(), 4.4555),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_networks_as_counted_by_hand(name):
    by_hand, published = BY_HAND[name]
    with torch.device("meta"):
        network = getattr(networks, name)()
    found = counts(network, torch.empty(1, 3, 224, 224, device="meta"))
    assert found.total.macs == by_hand
    assert round(by_hand / 1e9, 4) == published
    assert found.total.parameters == networks.PARAMETERS[name]
    assert sum(row.parameters for row in found.layers) == found.total.parameters
    assert sum(row.macs for row in found.layers) == found.total.macs
    assert not found.total.unknown


def test_torchs_own_counter_agrees_where_it_counts():
    x = torch.empty(2, 3, 96, 96, device="meta")
    for name in ("resnet18", "mobilenet_v2", "convnext_t"):
        with torch.device("meta"):
            network = getattr(networks, name)().eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
        assert counter.get_total_flops() == 2 * counts(network, x).total.macs


def test_most_of_resnet_falls_on_real_pixels():
    with torch.device("meta"):
        network = networks.resnet18()
    total = counts(network, torch.empty(1, 3, 224, 224, device="meta")).total
    assert 1 - total.padding_macs / total.macs == pytest.approx(0.926, abs=5e-4)


@st.composite
def convolutions(draw):
    dimension = draw(st.integers(1, 3))
    transposed = draw(st.booleans())

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dimension))

    groups, stride, dilation = draw(st.integers(1, 2)), numbers(1, 3), numbers(1, 2)
    kernel, padding = numbers(1, 3), numbers(0, 2)
    kind = f"Conv{'Transpose' if transposed else ''}{dimension}d"
    more = {}
    if transposed:
        more["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
    layer = getattr(nn, kind)(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride,
        padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        **more,
    )
    return layer, torch.ones(draw(st.integers(1, 3)), layer.in_channels, *numbers(1, 6))


@given(convolutions())
def test_convolutions_as_torch_computes_them(drawn):
    layer, x = drawn
    try:
        layer(x)
    except RuntimeError:
        assume(False)
    (row,) = counts(layer, x).layers
    with torch.no_grad():
        layer.weight.fill_(1.0)
        if layer.bias is not None:
            layer.bias.zero_()
        real = layer(x)  # ones everywhere: an output is the number of inputs it sees
    assert row.macs - row.padding_macs == int(real.sum())
    assert row.connections == int(real[0].sum())
    assert row.fan_in == int(real[0].max())
    assert row.mean_fan_in == pytest.approx(float(real[0].mean()))
    assert (row.inputs, row.outputs) == (x[0].numel(), real[0].numel())
    assert row.dense_parameters == row.inputs * row.outputs
    assert row.weights == layer.weight.numel()
    assert row.parameters == sum(p.numel() for p in layer.parameters())
    assert row.uses == row.sharing == row.connections / row.weights
    taps = math.prod(layer.kernel_size) * layer.in_channels * layer.out_channels // layer.groups
    positions = (x if "Transpose" in row.kind else real).shape[2:].numel()
    assert row.macs == len(x) * positions * taps


@given(convolutions(), st.sampled_from(["circular", "reflect", "replicate"]))
def test_other_padding_is_the_layers_own(drawn, mode):
    layer, x = drawn
    assume("Transpose" not in type(layer).__name__)
    layer.padding_mode = mode
    try:
        layer = type(layer)(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            padding_mode=mode,
        )
        layer(x)
        structure = sc.Structure.of(layer, x.shape[2:])
    except (RuntimeError, ValueError):
        assume(False)
    (row,) = counts(layer, x).layers
    assert row.inputs == x[0].numel()
    assert (row.connections, row.fan_in) == (structure.connections, structure.fan_in)
    assert (row.macs, row.padding_macs) == (structure.macs * len(x), 0)


@given(convolutions(), st.integers(0, 2), st.integers(0, 2))
def test_zeros_put_around_before_are_padding_too(drawn, before, after):
    layer, x = drawn
    assume("Transpose" not in type(layer).__name__)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(nn.functional.pad(x, (before, after)))

    try:
        Around()(x)
    except RuntimeError:
        assume(False)
    (row,) = counts(Around(), x).layers
    with torch.no_grad():
        layer.weight.fill_(1.0)
        if layer.bias is not None:
            layer.bias.zero_()
        real = Around()(x)
    assert row.macs - row.padding_macs == int(real.sum())
    assert row.inputs == x[0].numel()


def test_padding_with_something_else_is_no_padding():
    layer = nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(1, 1, 3))
    assert counts(layer, torch.ones(1, 1, 4, 4)).total.padding_macs == 0


def test_our_layers_are_what_their_structure_says():
    group, x = sc.groups.cyclic(4), torch.zeros(2, 3, 8, 8)
    layers = {
        "local": sc.nn.LocallyConnected2d(3, 4, 3, (8, 8), padding=1),
        "tiled": sc.nn.TiledConv2d(3, 4, 3, 2, padding=1),
        "group": sc.nn.GroupConv2d(group.trivial(3), group.regular(1), 3, padding=1),
        "transposed": sc.nn.LocallyConnectedTranspose2d(3, 4, 3, (8, 8)),
    }
    for layer in layers.values():
        structure = layer.structure((8, 8))
        found = counts(nn.Sequential(layer, nn.ReLU()), x)
        row = found.layers[0]
        assert (row.name, row.kind) == ("0", type(layer).__name__)
        assert (row.connections, row.fan_in) == (structure.connections, structure.fan_in)
        assert (row.macs, row.padding_macs) == (2 * structure.macs, 2 * structure.padding_macs)
        assert row.weights == structure.parameters
        assert row.sharing == pytest.approx(structure.sharing)
        assert row.parameters == sum(p.numel() for p in layer.parameters())
        assert not found.total.unknown


def test_a_sparse_layer_on_tokens():
    layer = sc.nn.SparseLinear(8, 6, 3)
    (row,) = counts(nn.Sequential(layer), torch.zeros(2, 5, 8)).layers
    assert (row.fan_in, row.connections, row.weights, row.macs) == (3, 5 * 18, 18, 2 * 5 * 18)
    assert (row.uses, row.dense_parameters) == (5, 5 * 8 * 5 * 6)


FIGURES = "macs padding_macs connections fan_in weights uses parameters inputs".split()  # noqa: SIM905


def test_functional_forms_count_as_their_layers():
    layer, x = sc.nn.LocallyConnected2d(3, 4, 3, (8, 8), padding=1), torch.zeros(2, 3, 8, 8)
    sparse, tokens = sc.nn.SparseLinear(8, 6, 3), torch.zeros(2, 5, 8)
    turned, small = sc.nn.LocallyConnectedTranspose2d(3, 4, 3, (4, 4)), torch.zeros(2, 3, 4, 4)

    class Function(nn.Module):
        def __init__(self, layer, call):
            super().__init__()
            self.layer, self.call = layer, call

        def forward(self, x):
            return self.call(self.layer, x)

    cases = [
        (layer, x, lambda m, x: sc.functional.local_conv(x, m.weight, m.bias, padding=1)),
        (turned, small, lambda m, x: sc.functional.local_conv_transpose(x, m.weight, m.bias)),
        (
            sparse,
            tokens,
            lambda m, x: sc.functional.sparse_linear(x, m.weight, m.connections, m.bias),
        ),
    ]
    for layer, x, call in cases:
        (wanted,), (found,) = counts(layer, x).layers, counts(Function(layer, call), x).layers
        for name in FIGURES:
            assert getattr(found, name) == getattr(wanted, name), (layer, name)
        assert found.name == "layer"
