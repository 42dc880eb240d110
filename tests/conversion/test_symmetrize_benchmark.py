"""The benchmark of symmetrised models checks what it times."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
bench = importlib.import_module("symmetrize")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", bench.NETWORKS)
def test_every_contender_is_checked_and_timed(name):
    rows = bench.run(name, batch=2, size=32, rounds=1, repeats=1)
    found = {row["model"]: row for row in rows}
    assert set(found) == set(bench.contenders(nn.Identity()))
    assert found["plain"]["change"] > 1e-3
    assert all(row["change"] <= 1e-6 for key, row in found.items() if key != "plain")
    assert all(row["ms"] > 0 for row in rows)


def test_a_model_that_changes_is_not_timed(monkeypatch):
    right = bench.contenders
    monkeypatch.setattr(
        bench, "contenders", lambda model: right(model) | {"D4 canonical": right(model)["plain"]}
    )
    with pytest.raises(SystemExit, match="D4 canonical of vit changes"):
        bench.run("vit", batch=2, size=32, rounds=1, repeats=1)
