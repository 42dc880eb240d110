"""Scores do not change with the input's turns and mirrors; maps turn with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import symconv as sc
from models.networks import CLASSIFIERS, GROUPS, UNETS, classifier, shaken, still, unet
from symconv.nn import OffCentreWarning

SLOW = {("resnet-50, odd", "Oh"), ("all-cnn", "Oh")}  # seconds each; O has the same layers
CASES = [
    (name, group)
    for name, (_, sizes) in CLASSIFIERS.items()
    for dimension in sizes
    for group in GROUPS[dimension]
    if (name, group) not in SLOW
]
MAPS = [(name, group) for name in UNETS for groups in GROUPS.values() for group in groups]


def generators(group):
    """They suffice: what commutes with them commutes with their products."""
    return [group.elements[i] for i in group.generators]


@pytest.mark.parametrize(("name", "group"), CASES)
def test_scores_are_invariant(name, group):
    network, size = classifier(name, group)
    group = network.kit.group
    for mode in (nn.Module.eval, still):
        network = mode(shaken(network))
        sc.testing.assert_equivariant(
            network, group.trivial(2), None, size, elements=generators(group)
        )


@pytest.mark.parametrize(("name", "group"), MAPS)
def test_maps_turn_with_the_input(name, group):
    group = sc.groups.parse(group)
    out = group.trivial(2) + group.vector(1)
    network, size = unet(name, group, out, in_channels=group.trivial(1) + group.vector(1))
    field = group.trivial(1) + group.vector(1)
    for mode in (nn.Module.eval, still):
        network = mode(shaken(network))
        sc.testing.assert_equivariant(network, field, out, size, elements=generators(group))


@pytest.mark.parametrize(("name", "group"), [(n, g) for n, g in CASES if g in ("mirror", "D4")])
def test_features_turn_with_the_input(name, group):
    network, size = classifier(name, group)
    group = network.kit.group

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = shaken(network)

        def forward(self, x):
            return self.network.features(x)

    head = network.invariant if hasattr(network, "invariant") else network.head.invariant
    sc.testing.assert_equivariant(Features(), group.trivial(2), head.in_field, size)


@pytest.mark.parametrize("group", ["C8", "D8"])
@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "resnet-50, odd"])
def test_off_the_lattice_quarter_turns_remain(name, group):
    network, size = classifier(name, group)
    group = network.kit.group
    exact = [g for g in group.elements if g.exact]
    assert len(exact) == group.order // 2
    sc.testing.assert_equivariant(shaken(network), group.trivial(2), None, size, elements=exact)


@pytest.mark.parametrize("name", list(UNETS))
def test_maps_off_the_lattice(name):
    group = sc.groups.parse("C8")
    out = group.trivial(1) + group.regular(1)
    network, size = unet(name, group, out)
    exact = [g for g in group.elements if g.exact]
    sc.testing.assert_equivariant(shaken(network), group.trivial(2), out, size, elements=exact)


@given(
    st.sampled_from(sorted(set(CLASSIFIERS) - {"resnet-18"})),
    st.sampled_from(["C2", "C4", "D1", "D4", "flip(2, 0)"]),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 99),
)
def test_any_centred_size(name, group, more, seed):
    network, size = classifier(name, group)
    space = tuple(size + network.stride * steps for steps in more)
    assert all(s % network.stride == network.remainder for s in space)
    group = network.kit.group
    sc.testing.assert_equivariant(
        shaken(network, seed), group.trivial(2), None, space, elements=generators(group)
    )


@given(st.sampled_from(sorted(UNETS)), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_any_size_of_maps(name, steps):
    group = sc.groups.parse("D4")
    network, _ = unet(name, group, group.vector(1))
    size = tuple(4 * step for step in steps)
    sc.testing.assert_equivariant(shaken(network), group.trivial(2), group.vector(1), size)


def test_the_usual_sizes_of_pictures_are_centred():
    """No layer warns, and warnings are errors."""
    for network, size in [
        (sc.models.resnet(18, "C4", width=4, classes=2), 224),
        (sc.models.resnet(18, "C4", width=4, classes=2, stem="small"), 32),
        (sc.models.resnet(18, "C4", width=4, classes=2, windows="odd"), 225),
        (sc.models.resnet(18, "C4", width=4, classes=2, stem="half"), 64),
        (sc.models.resnet(18, "C4", width=4, classes=2, stem="half", windows="odd"), 65),
        (sc.models.resnet(20, "C4", width=4, classes=2), 32),
        (sc.models.convnext((1, 1, 1, 1), "C4", width=4, classes=2), 224),
        (sc.models.wide_resnet(10, 1, "C4", width=4), 32),
        (sc.models.all_cnn("C4", width=4), 32),
        (sc.models.all_cnn("C4", width=4, windows="odd"), 33),
    ]:
        assert size % network.stride == network.remainder
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            scores, turned = (network.eval()(v) for v in (x, sc.rotate(x, 90)))
        assert torch.allclose(scores, turned, rtol=1e-3, atol=1e-5)
        assert scores.std() > 0


# Controls: what must fail does


def fails(network, size):
    group = network.kit.group
    with pytest.raises(AssertionError, match="not equivariant"):
        sc.testing.assert_equivariant(shaken(network), group.trivial(2), None, size)


@pytest.mark.filterwarnings("ignore::symconv.nn.OffCentreWarning")
@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "convnext"])
def test_an_off_centre_size_fails(name):
    network, size = classifier(name, "C4")
    fails(network, size + 1)


def test_an_off_centre_size_warns():
    network, size = classifier("all-cnn", "C4")
    with pytest.warns(OffCentreWarning, match="size"):
        network(torch.zeros(1, 2, size + 1, size + 1))


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_a_plain_network_fails(name):
    network, size = classifier(name, None)
    with pytest.raises(AssertionError, match="not equivariant"):
        sc.testing.assert_equivariant(shaken(network), sc.groups.parse("C4").trivial(2), None, size)


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_a_head_without_group_pooling_fails(name):
    network, size = classifier(name, "C4")
    head = network if hasattr(network, "invariant") else network.head
    channels = head.invariant.in_field.channels
    head.invariant = nn.Identity()
    if hasattr(head, "linear"):
        head.linear = nn.Linear(channels, 3)
    fails(network, size)


def test_a_torch_norm_in_a_block_fails():
    network, size = classifier("resnet-8", "C4")
    field = network.stages[1][0].body[1].field
    network.stages[1][0].body[1] = nn.BatchNorm2d(field.channels)
    fails(network, size)


def test_a_map_of_another_field_fails():
    group = sc.groups.parse("D4")
    network, size = unet("unet, linear", group, group.vector(1))
    with pytest.raises(AssertionError, match="not equivariant"):
        sc.testing.assert_equivariant(shaken(network), group.trivial(2), group.trivial(2), size)
