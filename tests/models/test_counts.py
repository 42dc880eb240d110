"""Published sizes, networks written apart from ours, and what twins have in common."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import symconv as sc
from auditing import networks as written_apart
from models.networks import CLASSIFIERS, UNETS, classifier, parameters, unet
from symconv.models import all_cnn, convnext, resnet, twin, wide_resnet
from symconv.models import unet as make_unet


def on_meta(build, *arguments, **options):
    with torch.device("meta"):
        return build(*arguments, **options)


# Published


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameters_of_resnets(depth, count):
    """torchvision's table of models; the GMACs are He et al.'s orders, torchvision's figures."""
    network = on_meta(resnet, depth, windows="odd")
    assert parameters(network) == count
    if depth in (18, 50):
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 224, 224, device="meta"))
        macs = counter.get_total_flops() / 2e9
        assert round(macs, 4) == {18: 1.8141, 50: 4.0892}[depth]


def test_parameters_of_small_resnets():
    """He et al. (2016), table 6: 0.27, 0.46, 0.66, 0.85, 1.7 M (theirs without projections)."""
    sizes = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    for depth, millions in sizes.items():
        network = on_meta(resnet, depth, classes=10, windows="odd")
        projections = sum(
            parameters(part.shortcut) for part in network.modules() if hasattr(part, "shortcut")
        )
        assert projections == 16 * 32 + 32 * 64 + 2 * (32 + 64)
        assert round((parameters(network) - projections) / 1e6, 1 + (depth < 110)) == millions


@pytest.mark.parametrize(
    ("depth", "widen", "millions"), [(40, 1, 0.6), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)]
)
def test_parameters_of_wide_resnets(depth, widen, millions):
    """Zagoruyko and Komodakis (2016), table 4."""
    network = on_meta(wide_resnet, depth, widen, windows="odd")
    assert round(parameters(network) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("depths", "width", "count", "gmacs"),
    [
        ((3, 3, 9, 3), 96, 28_589_128, 4.5),
        ((3, 3, 27, 3), 96, 50_223_688, 8.7),
        ((3, 3, 27, 3), 128, 88_591_464, 15.4),
        ((3, 3, 27, 3), 192, 197_767_336, 34.4),
    ],
)
def test_parameters_of_convnexts(depths, width, count, gmacs):
    """Liu et al. (2022), tables 1 and 12; exact counts: torchvision's table of models."""
    network = on_meta(convnext, depths, width=width)
    assert parameters(network) == count
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 1) == gmacs


def test_parameters_of_u_nets():
    """31.0 M, and by hand: two 3 x 3 a level, 2 x 2 upwards, 1 x 1 at the end."""
    widths = [64, 128, 256, 512, 1024]
    weights = sum(9 * (a * b + b * b) for a, b in zip([1, *widths], widths, strict=False))
    weights += sum(4 * 2 * w * w + 9 * (2 * w * w + w * w) for w in widths[:-1])
    biases = 2 * sum(widths) + 3 * sum(widths[:-1])
    network = on_meta(make_unet, 1, in_channels=1, norm=False)
    assert parameters(network) == weights + biases + 64 + 1
    assert round(parameters(network) / 1e6, 1) == 31.0
    flat, solid = (on_meta(make_unet, 1, dimension=n, width=8, levels=1) for n in (2, 3))
    assert solid.bottom[0].weight.numel() == 3 * flat.bottom[0].weight.numel()


@pytest.mark.parametrize(
    ("group", "width", "count"),
    [(None, 96, 1_368_480), ("C4", 48, 1_369_104), ("D4", 32, 1_218_400)],
)
def test_weights_of_all_cnn_c(group, width, count):
    """Cohen and Welling (2016): 1.37 M, 1.37 M and 1.22 M weights."""
    network = all_cnn(group, width=width, match=None, windows="odd")
    weights = [m.weight.numel() for m in network.modules() if hasattr(m, "weight")]
    assert len(weights) == 9
    assert sum(weights) == count


# The same numbers as networks written apart from these


def carried_over(source, target):
    """Parameters and statistics in their order, whatever their names."""
    values, held = list(source.state_dict().values()), target.state_dict()
    for (name, old), new in zip(held.items(), values, strict=True):
        held[name] = new.reshape(old.shape)
    target.load_state_dict(held)


@pytest.mark.parametrize("depth", [18, 50])
def test_equal_to_a_resnet_written_apart(depth):
    torch.manual_seed(0)
    theirs = getattr(written_apart, f"resnet{depth}")(width=8, classes=5).eval()
    ours = resnet(depth, width=8, classes=5, windows="odd").eval()
    carried_over(theirs, ours)
    x = torch.randn(2, 3, 70, 97)
    assert torch.equal(ours(x), theirs(x))
    even = resnet(depth, width=8, classes=5).eval()
    assert even(x).shape == theirs(x).shape


def test_equal_to_a_convnext_written_apart():
    torch.manual_seed(0)
    theirs = written_apart.ConvNeXt(widths=(8, 16), depths=(2, 1), classes=5).double()
    ours = convnext((2, 1), width=8, classes=5).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    blocks = [(f"features.{i}.", f"stages.{s}.{j}.body.")
              for i, s, j in [(2, 0, 0), (3, 0, 1), (6, 1, 2)]]  # fmt: skip
    inner = {"dwconv": "0", "norm": "1", "pwconv1": "2", "pwconv2": "4"}
    names = {"features.0.": "stem.0.", "features.1.": "stem.1.", "features.4.": "stages.1.0.",
             "features.5.": "stages.1.1.", "norm.": "norm.", "head.": "head.linear."}  # fmt: skip
    for old, new in blocks:
        names |= {f"{old}{a}.": f"{new}{b}." for a, b in inner.items()}
        names[f"{old}gamma"] = f"{new}5.weight"
    held, given = ours.state_dict(), theirs.state_dict()
    for name, value in given.items():
        (old,) = [o for o in names if name.startswith(o)]
        new = name.replace(old, names[old])
        held[new] = value.reshape(held[new].shape)
    assert len(held) == len(given)
    ours.load_state_dict(held)
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


# Twins


@pytest.mark.parametrize("name", [*CLASSIFIERS, *UNETS])
def test_the_plain_twin_has_the_same_structure(name):
    options = dict(match=None)
    if name in CLASSIFIERS:
        pair = [classifier(name, group, **options)[0] for group in ("D4", None)]
    else:
        pair = [unet(name, group, 3, **options)[0] for group in ("D4", None)]
    turned, plain = pair
    names = [list(dict(network.named_modules())) for network in pair]
    assert names[0] == names[1]
    shared = dict(plain.named_parameters())
    assert set(dict(turned.named_parameters())) == set(shared)
    own = [type(m) for m in plain.modules() if "symconv.nn" in type(m).__module__]
    assert own == []
    assert any("symconv.nn" in type(m).__module__ for m in turned.modules())
    for ours, theirs in zip(turned.modules(), plain.modules(), strict=True):
        for attribute in ("kernel_size", "stride", "padding"):
            if isinstance(theirs, nn.Conv2d | nn.ConvTranspose2d):
                assert getattr(ours, attribute) == getattr(theirs, attribute)


BUILDERS = {
    "resnet": lambda g, **o: resnet(20, g, width=16, **o),
    "wide resnet": lambda g, **o: wide_resnet(10, 2, g, width=16, **o),
    "convnext": lambda g, **o: convnext((1, 1), g, width=32, **o),
    "unet": lambda g, **o: make_unet(3, g, width=16, levels=2, **o),
    "all-cnn": lambda g, **o: all_cnn(g, width=32, **o),
}


def macs(network):
    size = {1: 64, 2: 32, 3: 16}[network.kit.dimension]
    shape = (1, network.in_channels, *(size,) * network.kit.dimension)
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("family", sorted(BUILDERS))
@pytest.mark.parametrize("group", ["C4", "D4"])
def test_matches_are_met(family, group):
    plain = BUILDERS[family](None)
    for match, cost in [("params", parameters), ("macs", macs)]:
        turned = BUILDERS[family](group, match=match)
        assert turned.kit.group == sc.groups.parse(group)
        assert abs(cost(turned) / cost(plain) - 1) < 0.05, (match, cost(turned), cost(plain))
        back = twin(turned, match=match)
        assert back.kit.group is None
        assert abs(cost(back) / cost(turned) - 1) < 0.02
    order = turned.kit.group.order
    turned = BUILDERS[family](group, match="width")
    assert turned.kit.scale == 1 / order
    widths = [
        [m.out_channels for m in network.modules() if hasattr(m, "out_channels")]
        for network in (turned, plain)
    ]
    assert widths[0][:-1] == widths[1][:-1]


@given(
    st.sampled_from(["C2", "C4", "D4"]), st.integers(24, 80), st.sampled_from(["params", "width"])
)
def test_any_width_is_matched_as_nearly_as_copies_allow(group, width, match):
    """No other factor comes nearer by more than what counts as met."""
    turned = on_meta(resnet, 8, group, width=width, match=match, classes=10)
    plain = on_meta(resnet, 8, width=width, classes=10)

    def cost(network):
        if match == "params":
            return parameters(network)
        return sum(m.in_channels for m in network.modules() if hasattr(m, "kernel_size")
                   and hasattr(m, "weight"))  # fmt: skip

    off = abs(math.log(cost(turned) / cost(plain)))
    for factor in (0.95, 0.98, 1.02, 1.05):
        scale = turned.kit.scale * factor
        kit = sc.models.kit.Kit(2, turned.kit.group, scale)
        other = on_meta(turned.recipe, kit)
        assert off <= abs(math.log(cost(other) / cost(plain))) + 5e-3


def test_a_twin_keeps_what_was_asked_for():
    group = sc.groups.parse("D4")
    field = group.trivial(1) + group.vector(1)
    turned = make_unet(group.vector(2), group, width=8, levels=1, match=None, in_channels=field,
                       up="linear")  # fmt: skip
    plain = twin(turned)
    assert (plain.in_channels, plain.last.out_channels) == (3, 4)
    assert isinstance(plain.lift[0][1], nn.Upsample)
    assert twin(plain, group).last.out_field == group.vector(2)
    small = twin(turned, match="width")
    assert parameters(small) > parameters(plain)


def test_building_a_match_draws_nothing():
    """The candidates have no weights: a seed gives the same network whatever was tried."""
    torch.manual_seed(3)
    matched = resnet(8, "C4", width=32, match="params", classes=4)
    torch.manual_seed(3)
    direct = resnet(8, "C4", width=16, match=None, classes=4)
    for a, b in zip(matched.parameters(), direct.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_plain_network_ignores_the_match():
    for match in ("params", "macs", "width", None):
        assert resnet(8, width=16, match=match, classes=4).stem[0].out_channels == 16
