"""What the benchmark of mixed sizes times gives the right answers, or is refused."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import symconv as sc

FOLDER = Path(__file__).parents[2] / "benchmarks"


def loaded():
    """The benchmark, which has the name of this folder."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmark_of_ragged", FOLDER / "ragged.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = loaded()


def pictures(*sizes):
    return [torch.randn(3, *size) for size in sizes]


def test_ours_is_right_and_naive_padding_is_wrong():
    images = pictures((40, 33), (64, 50), (32, 32))
    assert bench.check(bench.network(8), images, "three") > 1e-3


def test_a_wrong_answer_is_not_timed(monkeypatch):
    monkeypatch.setitem(bench.WAYS, "ours", bench.WAYS["naive"])
    with pytest.raises(SystemExit, match="output differs"):
        bench.check(bench.network(8), pictures((40, 33), (64, 50)), "two")


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    def half(model, images):
        y = model(sc.Ragged(images))
        return y.detach() + (y - y.detach()) / 2

    monkeypatch.setitem(bench.WAYS, "ours", half)
    with pytest.raises(SystemExit, match="gradient differs"):
        bench.check(bench.network(8), pictures((40, 33), (64, 50)), "two")


@pytest.mark.parametrize("mix", bench.MIXES)
def test_the_mixes_are_what_their_names_say(mix):
    sizes = bench.sizes(mix, 64)
    assert len(sizes) == 64
    cells = [height * width for height, width in sizes]
    spread = max(cells) / min(cells)
    assert {"mixed": spread > 4, "similar": spread < 1.3, "extreme": spread > 16,
            "small": max(cells) <= 1024, "equal": spread == 1}[mix]  # fmt: skip


def test_a_race_has_everybody(monkeypatch, capsys):
    monkeypatch.setattr(bench, "sizes", lambda mix, count: [(32, 32)] * 2)
    options = argparse.Namespace(width=8, rounds=1, seconds=0.0, threads=1)
    rows = list(bench.raced("equal", 2, options))
    assert [row["kind"] for row in rows] == ["inference", "training"]
    for row in rows:
        assert row["ours ms"] > 0
        assert row["naive ms"] > 0
        assert row["tensor ms"] > 0
    assert "nested left out of inference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mix", "count", "kind", "changed", "missed"),
    [
        ("small", 8, "inference", {}, ""),
        ("small", 8, "inference", {"naive": 8.0}, "to the better"),
        ("small", 8, "inference", {"one by one": 14.0}, "one by one"),
        ("mixed", 8, "inference", {"one by one": 14.0}, ""),
        ("mixed", 64, "inference", {"one by one": 14.0}, "one by one"),
        ("mixed", 8, "training", {"naive": 7.9}, "training to naive"),
        ("equal", 8, "inference", {"tensor": 9.0}, "to a tensor"),
    ],
)
def test_bars_are_met_or_missed_by_the_numbers(mix, count, kind, changed, missed):
    times = {"ours": 10.0, "one by one": 16.0, "naive": 9.0} | changed
    assert bench.ratios(mix, count, kind, times)["missed"] == missed
