"""Law 3 for whole networks: convolutions, norms, pools and upsampling together, to the last bit.

Weights are 1 or -1 and norms scale by powers of two, so every sum is exact in float64 and any
difference is a broken symmetry.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import symconv as sc
from symconv.nn import OffCentreWarning

NAMES = ["B1", "B2", "B3", "C2", "C4", "D1", "D2", "D4", "O", "Oh", "flip(2, 0)", "flip(3, 1)"]
GROUPS = {name: sc.groups.parse(name) for name in NAMES}


def layer(kind, group, *arguments, **options):
    """A layer of the group's dimension, "MaxPool" for FieldMaxPool2d and so on."""
    return getattr(sc.nn, f"{kind}{group.dimension}d")(*arguments, **options)


def conv(*arguments, **options):
    return layer("GroupConv", arguments[0].group, *arguments, **options)


def exact(model, seed=2):
    """The model in float64 and evaluation, with parameters that keep sums exact."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low, high, like):
        return torch.randint(low, high + 1, like.shape, generator=generator).double()

    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * whole(0, 1, parameter) - 1)
        for norm in model.modules():
            if isinstance(norm, (sc.nn.FieldBatchNorm, nn.modules.batchnorm._BatchNorm)):
                norm.eps = 1.0
                norm.running_var.copy_(4.0 ** whole(0, 1, norm.running_var) - 1)
                norm.weight.copy_(1 + whole(0, 1, norm.weight))
                if norm.running_mean is not None:
                    norm.running_mean.copy_(whole(-3, 3, norm.running_mean))
                if norm.bias is not None:
                    norm.bias.copy_(whole(-2, 2, norm.bias))
    return model


@torch.no_grad()
def worst(model, in_field, out_field, size, seed=0):
    """Largest difference over all elements, and the largest output (no zero network may pass)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (1, in_field.channels, *size), generator=generator).double()
    y, found = model(x), 0.0
    spread = float(y.std()) if y.numel() > 1 else 1.0
    for g in in_field.group.elements:
        moved = model(sc.act(g, x, in_field))
        wanted = sc.act(g, y, out_field) if y.ndim > 2 else y
        assert moved.shape == wanted.shape
        found = max(found, float((moved - wanted).abs().max()))
    return found, spread


def classifier(group, align=False, norm=sc.nn.FieldBatchNorm, pool="FieldMaxPool"):
    whole = group.subgroup([])  # cosets of the identity alone: regular by another road
    first, second = group.regular(1) + group.trivial(1), group.quotient(whole, 1)
    return nn.Sequential(
        conv(group.trivial(2), first, 3, padding=1, bias=False),
        norm(first),
        nn.ReLU(),
        layer(pool, group, first, 2, align=align),
        conv(first, second, 3, padding=1),
        norm(second),
        nn.ReLU(),
        sc.nn.FieldDropout(second, 0.3),
        sc.nn.GroupPool(second),
    )


class UNet(nn.Module):
    """Down by an even window, up by two, features side by side: a sum of fields."""

    def __init__(self, group, out_field, mode="nearest", swapped=False, down="pool"):
        super().__init__()
        fine, coarse = group.regular(1), group.trivial(1) + group.regular(1)
        self.enter = nn.Sequential(
            conv(group.trivial(1), fine, 3, padding=1), sc.nn.FieldBatchNorm(fine), nn.ReLU()
        )
        self.down = (
            layer("FieldAvgPool", group, fine, 2)
            if down == "pool"
            else conv(fine, fine, 4, stride=2, padding=1)
        )
        self.deep = nn.Sequential(
            conv(fine, coarse, 3, padding=1, padding_mode="circular"),
            sc.nn.FieldBatchNorm(coarse),
            nn.ReLU(),
        )
        self.up = (
            layer("GroupConvTranspose", group, coarse, coarse, 2, stride=2)
            if mode == "transpose"
            else sc.nn.FieldUpsample(coarse, 2, mode)
        )
        self.leave = conv(coarse + fine if swapped else fine + coarse, out_field, 3, padding=1)

    def forward(self, x):
        fine = self.enter(x)
        return self.leave(torch.cat([fine, self.up(self.deep(self.down(fine)))], 1))


SIZES = {1: [(8,), (12,)], 2: [(8, 8), (8, 12)], 3: [(4, 4, 4), (4, 6, 4)]}
ODD = {1: [(9,), (7,)], 2: [(9, 9), (7, 10)], 3: [(5, 5, 5), (5, 4, 3)]}


@pytest.mark.parametrize("name", NAMES)
def test_classifiers_commute_exactly(name):
    group = GROUPS[name]
    out_field = group.trivial(1)
    for size in SIZES[group.dimension]:
        error, spread = worst(exact(classifier(group)), group.trivial(2), out_field, size)
        assert error == 0 < spread
    for size in ODD[group.dimension]:
        model = exact(classifier(group, align=True))
        error, spread = worst(model, group.trivial(2), out_field, size)
        assert error == 0 < spread


@pytest.mark.parametrize("name", ["B1", "B2", "O"])
def test_features_after_a_mean_over_space_are_invariant(name):
    group = GROUPS[name]
    axes = tuple(range(2, 2 + group.dimension))

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = classifier(group, pool="FieldAvgPool")

        def forward(self, x):
            return self.body(x).mean(axes)

    size = SIZES[group.dimension][0]
    assert worst(exact(Head()), group.trivial(2), group.trivial(1), size)[0] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "transpose"])
def test_u_nets_commute_exactly(name, mode):
    group = GROUPS[name]
    out_field = group.trivial(1) + group.vector(1) + group.sign(1)
    down = "conv" if mode == "nearest" else "pool"
    model = exact(UNet(group, out_field, mode, down=down))
    for size in SIZES[group.dimension]:
        error, spread = worst(model, group.trivial(1), out_field, size)
        assert error == 0 < spread


@pytest.mark.parametrize("name", ["B1", "B2", "B3"])
def test_networks_of_signed_fields_commute(name):
    group = GROUPS[name]
    middle = group.vector(2) + group.regular(1) + group.sign(1)
    gated = sc.nn.FieldGated(middle)
    model = nn.Sequential(
        conv(group.trivial(1), middle, 3, padding=1),
        sc.nn.FieldBatchNorm(middle),
        sc.nn.FieldNormReLU(middle),
        layer("FieldAvgPool", group, middle, 2, align=True),
        conv(middle, gated.in_field, 3, padding=1),
        gated,
        sc.nn.FieldLayerNorm(middle),
    ).double()
    torch.manual_seed(0)
    for mode in (True, False):
        for size in (SIZES | ODD)[group.dimension]:
            error, spread = worst(model.train(mode), group.trivial(1), middle, size)
            assert error < 1e-12 < spread
    invariant = nn.Sequential(model, sc.nn.GroupPool(middle))
    error, _ = worst(invariant, group.trivial(1), group.trivial(4), SIZES[group.dimension][1])
    assert error < 1e-12


def test_training_keeps_the_symmetry():
    group = GROUPS["B2"]
    model = classifier(group).double()
    step = torch.optim.SGD(model.parameters(), 0.05)
    torch.manual_seed(0)
    for _ in range(5):
        step.zero_grad()
        x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
        (model(x).mean((2, 3)) - 1).square().sum().backward()
        step.step()
    for mode in (True, False):  # dropout apart, which draws anew at each call
        model.train(mode)[7].eval()
        error, spread = worst(model, group.trivial(2), group.trivial(1), (8, 8))
        assert error < 1e-12 < spread


# Random networks


@st.composite
def networks(draw):
    group = GROUPS[draw(st.sampled_from([name for name in NAMES if name not in ("B3", "Oh", "O")]))]
    size = tuple(draw(st.integers(4, 9)) for _ in range(group.dimension))
    start = field = draw_field(draw, group)
    layers, span = [], max(size)
    for _ in range(draw(st.integers(2, 4))):
        new = draw_field(draw, group)
        kernel = draw(st.sampled_from([1, 2, 3]))
        mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
        layers.append(conv(field, new, kernel, padding=kernel // 2, padding_mode=mode))
        layers.append(sc.nn.FieldBatchNorm(new))
        field = new
        if not field.signed:
            layers.append(nn.ReLU())
        for change in draw(st.lists(st.sampled_from(["max", "mean", "up"]), max_size=1)):
            if change == "up" and span < 12:
                layers.append(
                    sc.nn.FieldUpsample(field, 2, draw(st.sampled_from(["nearest", "linear"])))
                )
                span *= 2
            elif change == "max" and not field.signed:
                layers.append(
                    layer("FieldMaxPool", group, field, draw(st.integers(2, 3)), 2, align=True)
                )
            elif change == "mean":
                layers.append(layer("FieldAvgPool", group, field, 2, 1))
    if draw(st.booleans()) and not field.signed:
        layers.append(sc.nn.GroupPool(field))
        field = layers[-1].out_field
    return nn.Sequential(*layers), start, field, size


def draw_field(draw, group):
    parts = [group.trivial(1), group.regular(1), group.vector(1), group.sign(2)]
    parts.append(group.quotient(group.subgroup([group.order - 1]), 1))
    chosen = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=2))
    return chosen[0] if len(chosen) == 1 else chosen[0] + chosen[1]


@given(networks(), st.integers(0, 999))
def test_random_networks_commute_exactly(network, seed):
    model, in_field, out_field, size = network
    assert worst(exact(model, seed), in_field, out_field, size, seed)[0] == 0


# Controls: what must fail does


def broken(model, size=(8, 8), out_field=None):
    group = GROUPS["B2"]
    inputs = group.trivial(next(m for m in model.modules() if hasattr(m, "in_field")).in_channels)
    return worst(exact(model), inputs, out_field or group.trivial(1), size)[0]


def test_a_norm_per_channel_fails():
    group = GROUPS["B2"]
    assert broken(classifier(group)) == 0
    assert broken(classifier(group, norm=lambda f: nn.BatchNorm2d(f.channels))) > 0.1


def test_an_off_centre_pool_fails_and_warns():
    group = GROUPS["B2"]
    with pytest.warns(OffCentreWarning, match=r"\(10, 10\) or \(8, 8\)"):
        assert broken(classifier(group), (9, 9)) > 0.1
    assert broken(classifier(group, align=True), (9, 9)) == 0


def test_an_off_centre_stride_fails_and_warns():
    group = GROUPS["B2"]
    model = nn.Sequential(conv(group.trivial(1), group.trivial(1), 3, stride=2, padding=1))
    with pytest.warns(OffCentreWarning):
        assert broken(model) > 0.1
    assert broken(model, (9, 9)) == 0


def test_relu_on_a_vector_field_fails():
    group = GROUPS["B2"]
    lift = conv(group.trivial(1), group.vector(1), 3)
    assert broken(nn.Sequential(lift), out_field=group.vector(1)) == 0
    assert broken(nn.Sequential(lift, nn.ReLU()), out_field=group.vector(1)) > 0.1
    with pytest.raises(sc.StructureError):
        sc.nn.check_pointwise(nn.ReLU(), group.vector(1))


def test_features_concatenated_in_another_order_fail():
    group = GROUPS["B2"]
    out_field = group.trivial(1)
    assert broken(UNet(group, out_field)) == 0
    assert broken(UNet(group, out_field, swapped=True)) > 0.1


def test_a_pool_of_neighbouring_channels_fails():
    group = GROUPS["B2"]
    field = group.regular(1)
    halves = nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.AdaptiveMaxPool3d((1, 8, 8)), nn.Flatten(1, 2)
    )
    lift = conv(group.trivial(1), field, 3, padding=1)
    assert broken(nn.Sequential(lift, sc.nn.GroupPool(field))) == 0
    assert broken(nn.Sequential(lift, halves), out_field=group.trivial(2)) > 0.1
