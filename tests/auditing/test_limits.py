"""Limits on an audit: what passes, what fails, and what is no limit."""

import pytest

from symconv.auditing import Audit, EquivarianceRow, Total
from symconv.auditing.limits import COUNTS, Limit
from symconv.errors import StructureError

REPORT = Audit(
    "Net",
    "1x3x8x8 float32",
    total=Total(100, 90, 1000, 2000, 20, 9000, ("einsum: unknown, at least 5",)),
    equivariance=(
        EquivarianceRow("shift 1", "", 0.3, 0.2, None, "broken"),
        EquivarianceRow("shift 2", "", 0.1, 1e-8, None, "exact"),
        EquivarianceRow("mirror", "", 0.1, None, None, "broken", smallest_interior=(33, 35)),
        EquivarianceRow("shift 1", "pool", 0.3, 0.2, 0.32, "broken"),
        EquivarianceRow("shift 2", "pool", 0.1, 0.0, 1e-8, "exact"),
        EquivarianceRow("shift 1", "pool:add", 0.1, 0.0, None, "exact"),
    ),
)


def failures(text, report=REPORT):
    return list(Limit.parse(text).failures(report))


def test_errors_of_the_whole_model_and_of_layers():
    assert failures("error=0.3") == []
    assert failures("error=0.2") == ["shift 1: error 0.3 is above 0.2"]
    assert failures("local_error = 0.1") == ["shift 1, pool: local_error 0.32 is above 0.1"]
    assert failures("local_error=0.5") == []


def test_what_was_not_measured_fails_and_says_which_size_has_an_interior():
    assert failures("interior_error=0.5") == [
        "mirror: interior_error was not measured: no unit avoids the border; "
        "an input of 33x35 has one that does"
    ]
    without = Audit("Net", "1x3 float32", reasons={"equivariance": "no axes of space"})
    assert failures("error=1", without) == ["error was not measured: no axes of space"]
    assert failures("macs=1", without) == ["macs was not measured: the audit has no counts"]
    assert failures("error[rescale]=1") == ["error was not measured: the audit has no such rows"]


def test_only_some_transforms():
    assert failures("interior_error[shift]=0.2") == []
    assert failures("interior_error[shift 2]=1e-4") == []
    assert len(failures("interior_error[shift]=1e-4")) == 1


def test_counts_and_those_that_are_only_bounded_below():
    assert failures("parameters=100") == []
    assert failures("parameters=99") == ["parameters 100 is above 99"]
    assert failures("macs=1999") == ["macs 2,000 is above 1,999"]
    assert failures("macs=1e6") == [
        "macs is only known to be at least 2,000: einsum: unknown, at least 5"
    ]


def test_an_error_that_is_no_number_fails():
    report = Audit(
        "Net",
        "1x3x8x8 float32",
        equivariance=(EquivarianceRow("shift 1", "", float("nan"), None, None, "broken"),),
    )
    assert failures("error=9", report) == ["shift 1: error nan is above 9"]


def test_require_names_everything_that_failed():
    REPORT.require("error=0.3", parameters=100, local_error=0.4)
    with pytest.raises(AssertionError, match=r"(?s)shift 1: error.*parameters 100 is above 1"):
        REPORT.require("error=0.2", parameters=1)


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_can_be_bounded(name):
    assert not [f for f in failures(f"{name}=1e9") if "above" in f]
    assert [f for f in failures(f"{name}=1") if "above" in f]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=1", "a limit on one of error, .* got speed"),
        ("error", "NAME=NUMBER"),
        ("error=small", "NAME=NUMBER"),
        ("error=nan", "finite"),
        ("error=-1", "at least 0"),
    ],
)
def test_what_is_no_limit(text, message):
    with pytest.raises(StructureError, match=message):
        Limit.parse(text)


def test_what_is_no_number():
    with pytest.raises(StructureError, match="a number as the limit of error"):
        REPORT.require(error="1e-4")
