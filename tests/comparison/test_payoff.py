import numpy as np
import pytest

from symconv.comparison.payoff import payoffs, told

TESTS = ("as they are", "any angle")


def correct(rate, seed):
    return np.random.default_rng(seed).random((3, 500)) < rate


def runs(**rates):
    return {
        name.replace("_", "+"): {
            test: correct(rate, 10 * i + j)
            for j, (test, rate) in enumerate(zip(TESTS, pair, strict=True))
        }
        for i, (name, pair) in enumerate(rates.items())
    }


def test_each_group_stands_beside_the_plain_one_trained_alike():
    found = runs(
        conv=(0.99, 0.3), conv_turns=(0.97, 0.97), C8=(0.9, 0.8), C8_turns=(0.97, 0.97), C4=(1, 0.6)
    )
    made = payoffs(found, equal_time=False)
    assert {p.group: p.plain for p in made} == {
        "C8": "conv", "C8+turns": "conv+turns", "C4": "conv",
    }  # fmt: skip
    (c8,) = (p for p in made if p.group == "C8")
    expected = found["C8"]["any angle"].mean() - found["conv"]["any angle"].mean()
    assert c8.leads["any angle"].mean == pytest.approx(expected)
    assert c8.sentence().startswith("C8 beside conv: ahead on any angle (+")
    assert "; behind on as they are (-" in c8.sentence()
    (turned,) = (p for p in made if p.group == "C8+turns")
    assert "level on as they are" in turned.sentence()
    assert "ahead" not in turned.sentence()


def test_without_the_plain_one_nothing_is_said():
    assert payoffs(runs(C8=(0.9, 0.8), conv_turns=(0.9, 0.9)), equal_time=False) == []
    assert told([]) == []


def test_a_single_seed_shows_no_lead():
    found = {
        name: {test: right[:1] for test, right in tests.items()}
        for name, tests in runs(conv=(0.99, 0.3), C8=(0.9, 0.8)).items()
    }
    (only,) = payoffs(found, equal_time=False)
    assert "ahead" not in only.sentence()
    assert "±" not in only.sentence()
    assert only.to_dict()["leads"]["any angle"]["standard_error"] is None


def test_told_are_the_last_groups():
    found = runs(conv=(0.9, 0.3), conv_turns=(0.9, 0.9), C4=(1, 1), C8=(1, 1), C8_turns=(1, 1))
    both = [*payoffs(found, equal_time=False), *payoffs(found, equal_time=True)]
    assert [(p.group, p.equal_time) for p in told(both)] == [
        ("C8", False), ("C8+turns", False), ("C8+turns", True),
    ]  # fmt: skip
