import numpy as np
import pytest

from symconv.comparison.verdict import gap, judge

COSTS = {"a": 1000, "b": 2000, "c": 3000}


def correct(rates, pictures=400, seed=0):
    """Correctness (seeds, pictures) with one rate per seed."""
    draw = np.random.default_rng(seed).random((len(rates), pictures))
    return draw < np.array(rates)[:, None]


def verdict(arrays, parameters=COSTS, macs=COSTS):
    return judge("moved", arrays, parameters, macs)


def test_a_real_winner_is_named():
    found = verdict(
        {
            "a": correct([0.7] * 3, seed=1),
            "b": correct([0.95] * 3, seed=2),
            "c": correct([0.6] * 3, seed=3),
        }
    )
    assert found.winner == found.preferred == "b"
    assert found.losers == ["a", "c"]
    assert "Moved: b (9" in found.sentence()
    assert "wins" in found.sentence()


def test_a_tie_names_no_winner_and_prefers_fewer_weights():
    same = correct([0.9] * 3)
    found = verdict({"b": same, "c": correct([0.9] * 3, seed=5), "a": same.copy()})
    assert found.winner is None
    assert set(found.peers) == {"a", "b", "c"}
    assert found.preferred == "a"
    assert (
        "cannot be told apart (a and b tie); a has the fewest weights (1,000)" in found.sentence()
    )


def test_weights_as_good_as_equal_leave_it_to_the_multiply_accumulates():
    same = correct([0.9] * 3)
    weights = {"a": 1000, "b": 1020}
    found = verdict({"a": same, "b": same.copy()}, weights, {"a": 900, "b": 500})
    assert found.preferred == "b"
    assert "within 5 %" in found.sentence()


def test_a_difference_carried_by_one_seed_is_no_difference():
    base = correct([0.5] * 3, pictures=4000)
    lucky = base.copy()
    lucky[0] |= correct([0.6], pictures=4000, seed=9)[0]
    found = gap(lucky, base)
    assert found.mean > 0.05
    assert not found.distinguishable
    steady = base | correct([0.2] * 3, pictures=4000, seed=9)
    assert gap(steady, base).mean == pytest.approx(found.mean, abs=0.05)
    assert gap(steady, base).distinguishable, "the same difference in every seed is one"


def test_few_pictures_leave_differences_open():
    few = gap(correct([0.7] * 3, 12, 1), correct([0.5] * 3, 12, 2))
    many = gap(correct([0.7] * 3, 4000, 1), correct([0.5] * 3, 4000, 2))
    assert not few.distinguishable
    assert many.distinguishable


def test_one_seed_never_names_a_winner():
    found = verdict({"a": np.ones((1, 50)), "b": np.zeros((1, 50))})
    assert found.winner is None
    assert "single seed" in found.sentence()
    assert found.to_dict()["lead"]["b"]["standard_error"] is None


def test_pairing_finds_what_unpaired_spread_would_hide():
    hard = np.random.default_rng(0).random(600) < 0.5
    better = np.stack([hard] * 3)
    worse = better.copy()
    worse[:, np.flatnonzero(hard)[:20]] = False
    assert gap(better, worse).distinguishable
    shuffled = worse[:, np.random.default_rng(1).permutation(600)]
    assert not gap(better, shuffled).distinguishable


def test_false_alarms_are_rare():
    alarms = [
        gap(correct([0.8] * 3, 200, 2 * i), correct([0.8] * 3, 200, 2 * i + 1)).distinguishable
        for i in range(300)
    ]
    assert np.mean(alarms) < 0.08


def test_a_single_structure():
    found = verdict({"a": correct([0.9] * 3)})
    assert found.winner is None
    assert "only a" in found.sentence()


def test_equal_means_of_a_single_seed_are_a_tie():
    same = correct([0.9])
    found = verdict({"a": same, "b": same.copy(), "c": correct([0.5])})
    assert " tie, and a single seed shows no spread" in found.sentence()
    assert "is ahead" not in found.sentence()
    alone = verdict({"a": same, "c": correct([0.5])})
    assert "is ahead, but a single seed" in alone.sentence()
