from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import symconv as sc
from symconv.comparison.counting import (
    Budget,
    build,
    cost,
    count,
    fitting_width,
    own_budget,
    settle,
)
from symconv.comparison.layers import Options, bands
from symconv.comparison.structures import ROWS, STRUCTURES
from symconv.errors import StructureError
from symconv.models import Place, widest

SHAPE = (1, 16, 16)


@pytest.mark.parametrize(("kind", "limit"), [("params", 20_000), ("macs", 2_000_000)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_width_meets_the_budget_and_one_more_breaks_it(row, kind, limit):
    budget = Budget(kind, limit)
    width = fitting_width(row, budget, SHAPE, 10, Options())
    within = cost(build(row, SHAPE, width, 10, Options()), kind)
    beyond = cost(build(row, SHAPE, width + 1, 10, Options()), kind)
    assert within <= limit < beyond


@pytest.mark.parametrize("row", [r for r in ROWS if r.work], ids=lambda row: row.name)
def test_rows_of_equal_work_are_as_wide_as_that_allows(row):
    budget = settle(Budget(), SHAPE, 10, Options())
    conv = build(STRUCTURES["conv"], SHAPE, 24, 10, Options())
    own = own_budget(row, budget, SHAPE, 10, Options())
    width = fitting_width(row, own, SHAPE, 10, Options())
    limit = 1.01 * row.work * cost(conv, "macs")
    assert cost(build(row, SHAPE, width, 10, Options()), "macs") <= limit
    assert cost(build(row, SHAPE, width + 1, 10, Options()), "macs") > limit


@pytest.mark.parametrize("name", ["C4", "C8", "D4"])
def test_default_groups_have_convs_work_to_a_percent_and_far_fewer_weights(name):
    budget = settle(Budget(), SHAPE, 10, Options())
    own = own_budget(STRUCTURES[name], budget, SHAPE, 10, Options())
    width = fitting_width(STRUCTURES[name], own, SHAPE, 10, Options())
    network = build(STRUCTURES[name], SHAPE, width, 10, Options())
    conv = build(STRUCTURES["conv"], SHAPE, 24, 10, Options())
    assert cost(network, "macs") / cost(conv, "macs") == pytest.approx(1, abs=0.01)
    assert cost(network, "params") < 0.3 * cost(conv, "params")


def test_turned_rows_differ_from_their_own_only_in_what_they_are_shown():
    for name in ("conv", "C4", "C8", "D4", "D8", "C16"):
        row, turned = STRUCTURES[name], STRUCTURES[f"{name}+turns"]
        assert row.augment is None
        assert turned.augment is not None
        assert (row.build, row.norm, row.work) == (turned.build, turned.norm, turned.work)
        assert turned.chosen_on == "validation_any_angle"
        assert turned.beside == (None if name == "conv" else "conv+turns")


def test_counts_of_a_convolution_by_hand():
    found = count(build(STRUCTURES["conv"], SHAPE, 4, 10, Options()))
    layers = 25 * 4 + 25 * 4 * 8 + 25 * 8 * 16
    assert found.parameters == layers + (4 + 8 + 16) * 3 + 16 * 2 + 16 * 10 + 10
    assert found.macs == 256 * 100 + 64 * 25 * 32 + 16 * 25 * 128 + 160
    on_map = [sum(min(i + 2, n - 1) - max(i - 2, 0) + 1 for i in range(n)) for n in (16, 8, 4)]
    within = [count**2 for count in on_map]
    assert found.connections == within[0] * 4 + within[1] * 32 + within[2] * 128 + 160
    assert (found.fan_in, found.inputs) == (25, 256)


def test_sharing_changes_weights_and_not_operations():
    networks = {n: build(STRUCTURES[n], SHAPE, 4, 10, Options()) for n in ("local", "conv")}
    counts = {name: count(network) for name, network in networks.items()}
    assert counts["local"].macs == counts["conv"].macs
    assert counts["local"].parameters > 10 * counts["conv"].parameters


def test_the_default_budget_is_what_the_convolution_needs_and_leaves_the_local_one_a_width():
    budget = settle(Budget("params"), SHAPE, 10, Options())
    assert fitting_width(STRUCTURES["conv"], budget, SHAPE, 10, Options()) == 24
    assert fitting_width(STRUCTURES["local"], budget, SHAPE, 10, Options()) == 4
    assert settle(Budget("params", 7), SHAPE, 10, Options()).limit == 7


def test_budgets_that_cannot_be():
    with pytest.raises(StructureError, match=r"a budget of at least .* parameters for local"):
        fitting_width(STRUCTURES["local"], Budget("params", 100), SHAPE, 10, Options())
    for text in ("flops", "params=", "params=many", "macs=-3"):
        with pytest.raises(StructureError, match="a budget 'params'"):
            Budget.parse(text)
    assert Budget.parse("params=50_000") == Budget("params", 50_000)


@pytest.mark.parametrize("budget", [1, 2, 3, 99, 100, 101, 12345])
def test_the_search_agrees_with_trying_every_width(budget):
    def price(width):
        return 1 + width * (width - 1) // 2 + 3 * (width - 1)

    best = max(w for w in range(1, 300) if price(w) <= budget)
    assert widest(lambda width: width, price, budget).width == best


def test_the_search_builds_few_networks():
    built = []
    widest(lambda width: built.append(width) or width, lambda w: w * w + 40 * w, 10**6)
    assert len(built) < 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 48, 48), (1, 96, 96)])
def test_every_row_builds_on_every_canvas(row, shape):
    network = build(row, shape, 2, 5, Options()).eval()
    assert network(torch.zeros(2, *shape)).shape == (2, 5)
    maps = network.features(torch.zeros(2, *shape))
    assert maps.ndim == 2 or maps.shape[-1] * network.map_stride == shape[-1]


@pytest.mark.parametrize(
    ("canvas", "usual", "fine"), [(20, 4, 2), (28, 8, 2), (30, 8, 2), (52, 16, 4), (100, 16, 8)]
)
def test_the_stride_of_the_last_map_is_a_product_of_strides(canvas, usual, fine):
    """Whatever poolings leave over at the border."""
    for name in ("dense", "local", "conv", "conv-blur", "C4", "conv-max", "scale"):
        network = build(STRUCTURES[name], (1, canvas, canvas), 1, 2, Options())
        assert network.map_stride == (fine if name in ("conv-max", "scale") else usual), name


def test_regions_are_thirds_of_a_centred_picture():
    layer = STRUCTURES["region"].build(Place((1, 48, 48), 2, 6, 2, first=True), Options())
    labels = layer.get_buffer("regions")
    assert labels.shape == (24, 24)
    assert (labels == labels[:, :1]).all()
    assert labels[:, 0].bincount().tolist() == [10, 4, 10]
    assert labels[6:18, 0].bincount().tolist() == [4, 4, 4], "the middle half holds the picture"
    assert (labels[:, 0].diff() >= 0).all()


@pytest.mark.parametrize("height", range(1, 20))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_bands_leave_no_gap_on_any_map(height, count):
    labels = bands((height, 2), count).unique().tolist()
    assert labels == list(range(len(labels)))
    assert len(labels) <= count


@pytest.mark.parametrize("side", [16, 20, 48])
@pytest.mark.parametrize("kernels", [(5, 5, 5), (5, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("name", ["scale", "conv-max"])
def test_multiplications_of_scale_layers_are_torchs_own_count(name, side, kernels):
    """The filters' expansion aside, which is done once for all pictures."""
    network = build(STRUCTURES[name], (2, side, side), 3, 7, Options(kernels)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 2, side, side))
    expansion = 0
    for layer in network.layers:
        if isinstance(layer, sc.nn.ScaleConv2d):
            expansion += layer.weight.numel() * prod(layer.kernel_size)
    assert 2 * (count(network).macs + expansion) == counter.get_total_flops()


def test_connections_of_a_scale_network_by_hand():
    """Three taps a side on grids of 16, 11 and 8 sites, then of 8, 6 and 4; the border cuts two."""
    network = build(STRUCTURES["scale"], SHAPE, 4, 10, Options())
    assert [layer.kernel_size for layer in network.layers] == [(3, 3)] * 3
    assert network.shapes == [(1, 16, 16), (12, 8, 8), (24, 8, 8)]
    first, later = (sum((3 * n - 2) ** 2 for n in grids) for grids in ((16, 11, 8), (8, 6, 4)))
    found = count(network)
    assert found.connections == first * 4 + later * (4 * 8 + 8 * 16) + 16 * 10
    assert (found.fan_in, found.inputs) == (9, 256)
