import pytest
import torch

from symconv.comparison.counting import (
    Budget,
    build,
    cost,
    count,
    fitting_width,
    settle,
    twin_budget,
)
from symconv.comparison.structures import ROWS, STRUCTURES, Options, bands
from symconv.errors import StructureError
from symconv.models import Place, widest

SHAPE = (1, 16, 16)


@pytest.mark.parametrize(("kind", "limit"), [("params", 20_000), ("macs", 400_000)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_width_meets_the_budget_and_one_more_breaks_it(row, kind, limit):
    budget = Budget(kind, limit)
    width = fitting_width(row, budget, SHAPE, 10, Options())
    within = cost(build(row, SHAPE, width, 10, Options()), kind)
    beyond = cost(build(row, SHAPE, width + 1, 10, Options()), kind)
    assert within <= limit < beyond


def test_the_twin_of_equal_macs_is_as_wide_as_they_allow():
    budget, row = Budget("params", 20_000), STRUCTURES["conv-wide"]
    own = twin_budget(STRUCTURES["C4"], budget, SHAPE, 10, Options())
    turned = build(STRUCTURES["C4"], SHAPE, 1, 10, Options())
    assert own.kind == "macs"
    assert own.limit > cost(turned, "macs")
    width = fitting_width(row, own, SHAPE, 10, Options())
    assert width > fitting_width(row, budget, SHAPE, 10, Options())
    assert cost(build(row, SHAPE, width, 10, Options()), "macs") <= own.limit
    assert cost(build(row, SHAPE, width + 1, 10, Options()), "macs") > own.limit


def test_counts_of_a_convolution_by_hand():
    found = count(build(STRUCTURES["conv"], SHAPE, 4, 10, Options()))
    layers = 25 * 4 + 9 * 4 * 8 + 9 * 8 * 16
    assert found.parameters == layers + (4 + 8 + 16) * 3 + 16 * 10 + 10
    assert found.macs == 256 * 100 + 64 * 9 * 32 + 16 * 9 * 128 + 160
    assert found.connections == found.macs, "circular windows on these sizes repeat no pair"
    assert (found.fan_in, found.inputs) == (25, 256)


def test_sharing_changes_weights_and_not_operations():
    networks = {n: build(STRUCTURES[n], SHAPE, 4, 10, Options()) for n in ("local", "conv")}
    counts = {name: count(network) for name, network in networks.items()}
    assert counts["local"].macs == counts["conv"].macs
    assert counts["local"].parameters > 10 * counts["conv"].parameters


def test_the_default_budget_is_what_the_local_network_needs():
    budget = settle(Budget("params"), STRUCTURES["local"], SHAPE, 10, Options())
    assert fitting_width(STRUCTURES["local"], budget, SHAPE, 10, Options()) == 4
    assert settle(Budget("params", 7), STRUCTURES["local"], SHAPE, 10, Options()).limit == 7


def test_budgets_that_cannot_be():
    with pytest.raises(StructureError, match="a budget of at least"):
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


def test_the_twin_has_the_other_rows_multiply_accumulates():
    budget = Budget("params", 40_000)
    own = twin_budget(STRUCTURES["C4"], budget, SHAPE, 10, Options())
    width = fitting_width(STRUCTURES["conv-wide"], own, SHAPE, 10, Options())
    group = build(
        STRUCTURES["C4"],
        SHAPE,
        fitting_width(STRUCTURES["C4"], budget, SHAPE, 10, Options()),
        10,
        Options(),
    )
    twin = build(STRUCTURES["conv-wide"], SHAPE, width, 10, Options())
    assert 0.9 < cost(twin, "macs") / cost(group, "macs") <= 1
    assert cost(twin, "params") > 1.5 * cost(group, "params")
