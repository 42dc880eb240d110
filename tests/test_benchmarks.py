"""What the benchmarks of local and sparse layers time gives the right answers, or is refused."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
contest, local, sparse, ways = map(importlib.import_module, ("contest", "local", "sparse", "ways"))


@pytest.mark.parametrize("case", local.QUICK, ids=str)
def test_every_way_to_compute_a_local_layer_agrees(case):
    found = local.contenders(case, local.problem_of(case), compiled=False)
    assert {"ours", *ways.WAYS} <= found.keys()


@pytest.mark.parametrize("case", sparse.QUICK, ids=str)
def test_every_way_to_compute_a_sparse_layer_agrees(case):
    found = sparse.contenders(case, sparse.problem_of(case))
    assert {"ours", "torch CSR", "torch CSR by hand", "scipy CSR", "gather", "dense"} == set(found)


@pytest.mark.parametrize("name", ways.WAYS)
def test_a_wrong_way_is_not_timed(name, monkeypatch):
    right = ways.WAYS[name]
    wrong = right._replace(call=lambda *given: right.call(*given) * 1.0001)
    monkeypatch.setitem(ways.WAYS, name, wrong)
    case = local.QUICK[0]
    with pytest.raises(SystemExit, match="output differs"):
        local.contenders(case, local.problem_of(case), compiled=False)


def test_a_wrong_gradient_is_not_timed():
    class Rolled(contest.InTorch):
        def answers(self):
            y, to_x, to_weight, to_bias = super().answers()
            return y, to_x, to_weight.roll(1, 0), to_bias

    case = local.QUICK[0]
    problem = local.problem_of(case)
    with pytest.raises(SystemExit, match="to weight differs"):
        contest.check("rolled", Rolled(lambda: problem.layer, problem), problem.answers)


def test_no_number_is_no_answer():
    problem = local.problem_of(local.QUICK[0])
    nothing = [torch.full_like(answer, torch.nan) for answer in problem.answers]

    class Nan:
        def forward(self):
            return nothing[0]

    with pytest.raises(SystemExit, match="output differs"):
        contest.check("nan", Nan(), problem.answers)


def test_bars_are_met_or_missed_by_the_numbers():
    results = {
        kind: {"a": {"ratio": {"other": 4.0}}, "b": {"ratio": {"other": least}}}
        for kind, least in (("forward", 1.0), ("training", 0.9))
    }
    forward, training = contest.verdicts(results, [contest.Bar("other", 2.0, 1.0)])
    assert (forward["mean"], forward["met"]) == (pytest.approx(2.0), "met")
    assert (training["least"], training["in"], training["met"]) == (0.9, "b", "missed")


def test_the_networks_of_the_benchmark_of_shifts():
    """All kinds have the same weights; polyphase passes its bar, the strided one would not."""
    shift = importlib.import_module("shift")
    nets = {kind: net.double().eval() for kind, net in shift.networks(4, 10).items()}
    inputs = {k: v for k, v in shift.pictures().items() if k in ("noise", "stripes")}
    found = {kind: max(shift.changes(net, inputs, 16).values()) for kind, net in nets.items()}
    assert found["polyphase"] <= shift.BARS["change float64"] < 1e-3 < found["strided"]
    assert found["dense"] < 1e-12
    assert found["blur"] < found["strided"]
    states = [net.state_dict() for net in nets.values()]
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


def test_the_errors_of_the_benchmark_of_scale():
    scale = importlib.import_module("scale")
    x, octaves = scale.pictures(96)["natural"], scale.GROUPS["2"]
    torch.manual_seed(0)
    net = scale.scaled(octaves, "hermite", 5).double()
    for shrink in (scale.by_rescale, scale.by_skimage):
        assert scale.error(net, 2, 3, x, shrink) < scale.BARS["error"]
        assert scale.error(scale.plain(7).double(), 2, 1, x, shrink) > scale.BARS["error"]
    edges = scale.without_mean(net)
    assert edges[0].filters().sum((-1, -2)).abs().max() < 1e-12
