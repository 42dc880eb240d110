import warnings

import numpy as np
import pytest
import torch

from symconv.comparison.counting import build
from symconv.comparison.layers import Options
from symconv.comparison.packing import pack, unpack
from symconv.comparison.runs import Run
from symconv.comparison.structures import ROWS, STRUCTURES, TESTS, TRANSFORMS
from symconv.data import Source
from symconv.models import Place

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    from symconv.comparison import worker

SOURCE = Source("digits", limit=300)


def run(structure, **changes):
    basic = Run(SOURCE, "mark", structure, 3, 100, 0, 3, 3e-3)
    return worker.execute(basic.with_(**{"final": True, "inspect": True} | changes))


def without_times(result):
    return {key: value for key, value in result.items() if "seconds" not in key}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_run_gives_everything_that_the_page_shows(row):
    found = run(row.name)
    correct = unpack(found["correct"]["moved"])
    assert correct.mean() == pytest.approx(found["accuracy"]["moved"])
    assert found["filters"][0]["values"]
    flat = ("dense", "dense+shifts", "sparse")
    assert set(found["errors"]) == set(found["errors_before"]) == set(TRANSFORMS)
    assert found["errors"] != found["errors_before"]
    assert (found["maps"] is None) == (row.name in flat)
    assert found["other_sizes"] == (row.name not in (*flat, "local", "region"))
    assert bool(found["other_sizes_reason"]) != found["other_sizes"]


def test_a_run_is_a_function_of_its_description_and_leaves_the_caller_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    first = run("sparse")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert without_times(run("sparse")) == without_times(first)
    assert without_times(run("sparse", seed=1)) != without_times(first)


def test_rates_are_chosen_on_pictures_changed_as_the_training_pictures_are():
    chosen = {row.name: row.chosen_on for row in ROWS}
    for row in ROWS:
        kind = row.name.partition("+")[2]
        expected = {"": "", "shifts": "_moved", "turns": "_any_angle", "scales": "_rescaled"}[kind]
        assert chosen[row.name] == f"validation{expected}"
    data = worker.load(SOURCE)
    seen = []
    genuine = worker.validate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "validate", lambda n, split: seen.append(split) or genuine(n, split))
        for name in ("conv", "dense+shifts", "C4+turns"):
            run(name, final=False, inspect=False)
    splits = data.validation, data.validation_moved, data.validation_any_angle
    assert all(a is b for a, b in zip(seen, splits, strict=True))


def test_turned_training_pictures_reach_the_network():
    plain, turned = run("conv", steps=1), run("conv+turns", steps=1)
    assert plain["loss"] != turned["loss"]
    assert plain["errors_before"] == turned["errors_before"], "the same network, drawn by its seed"


def test_tuning_never_sees_the_test_pictures():
    found = run("dense", final=False)
    assert "accuracy" not in found
    assert "validation" in found


class Sealed:
    """A picture set whose held-out pictures may not be looked at."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        if name in TESTS.values():
            raise AssertionError(f"looked at {name}")
        return getattr(self.data, name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_tuning_cannot_touch_the_held_out_pictures(row, monkeypatch):
    sealed = Sealed(worker.load(SOURCE))
    monkeypatch.setattr(worker, "load", lambda source: sealed)
    assert "validation" in run(row.name, final=False, inspect=False)
    with pytest.raises(AssertionError, match="looked at test"):
        run(row.name)


def untrained(row):
    torch.manual_seed(0)
    return build(row, (1, 16, 16), 2 if row.beside else 8, 10, Options()).eval()


@pytest.mark.parametrize(
    ("test", "blind"),
    [("turned", ("C4", "C8", "C16", "D4", "D8")), ("mirrored", ("D4", "D8")), ("any_angle", ())],
)
def test_scores_are_blind_to_what_a_group_holds_and_to_nothing_else(test, blind):
    data = worker.load(SOURCE)
    with torch.no_grad():
        for row in ROWS:
            network = untrained(row)
            here, there = network(data.test.pictures), network(getattr(data, test).pictures)
            group = row.name.partition("+")[0].partition("-")[0]
            assert torch.allclose(here, there, atol=1e-4) == (group in blind), row.name


def test_the_region_network_shows_one_group_of_filters_a_band():
    labels = [group["label"] for group in run("region")["filters"]]
    assert labels == ["top band", "middle band", "bottom band"]


PLACE = Place((1, 16, 16), 4, 5, 1, first=True)


def test_filters_are_what_the_layers_hold():
    torch.manual_seed(0)
    layer = STRUCTURES["conv"].build(PLACE, Options())
    ((_, shown),) = STRUCTURES["conv"].filters(layer, (1, 16, 16))
    assert np.array_equal(shown, layer.get_parameter("weight").detach()[:, 0])
    tiled = STRUCTURES["tiled"].build(PLACE, Options())
    found = STRUCTURES["tiled"].filters(tiled, (1, 16, 16))
    weight = tiled.get_parameter("weight").detach()
    assert [label for label, _ in found] == ["tile 0, 0", "tile 0, 1", "tile 1, 0", "tile 1, 1"]
    assert np.array_equal(found[1][1][3], weight[0, 1, :, :, 0, 3])
    sparse = STRUCTURES["sparse"].build(PLACE, Options())
    ((_, drawn),) = STRUCTURES["sparse"].filters(sparse, (1, 16, 16))
    assert (drawn != 0).sum(axis=(1, 2)).tolist() == [26] * 4


def test_the_first_map_of_a_convolution_moves_with_the_picture():
    for name in ("conv", "C8"):
        assert run(name)["maps"]["error"] < 1e-5
    for name in ("tiled", "local", "region"):
        assert run(name)["maps"]["error"] > 0.05


def test_packing_keeps_every_bit():
    values = np.random.default_rng(0).random(77) < 0.5
    assert np.array_equal(unpack(pack(values)), values)
