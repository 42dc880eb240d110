"""Groups of scales and their fields."""

import pickle

import pytest

import symconv as sc


def test_fields():
    half = sc.groups.scales(2**0.5, 4)
    assert half.sizes == pytest.approx((1, 2**0.5, 2, 2 * 2**0.5))
    assert (half.trivial(3).channels, half.regular(3).channels) == (3, 12)
    assert half.regular(3).copies == 3
    assert not half.regular(3).signed
    assert half.regular(1) + half.regular(2) == half.regular(1) + half.regular(2)
    assert sc.groups.scales(2, 3) == sc.groups.scales(2.0, 3) != half
    assert pickle.loads(pickle.dumps(half.regular(2))) == half.regular(2)
    assert str(sc.groups.scales(2, 3).regular(2)) == "scales(2.0, 3).regular(2)"


@pytest.mark.parametrize("factor", [1, 0.5, -2, float("nan"), float("inf"), "2"])
def test_factors_above_one(factor):
    with pytest.raises(sc.StructureError, match="factor above 1"):
        sc.groups.scales(factor, 3)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_counts(count):
    with pytest.raises(sc.StructureError, match="count of scales"):
        sc.groups.scales(2, count)


def test_fields_of_other_groups():
    octaves = sc.groups.scales(2, 3)
    with pytest.raises(sc.StructureError, match="fields of one group"):
        octaves.regular(1) + sc.groups.parse("C4").regular(1)


def test_no_axis_holds_the_largest():
    with pytest.raises(sc.StructureError, match=r"at most 2 \*\* 32.*take fewer"):
        sc.groups.scales(1e200, 3)
    assert sc.groups.scales(2, 33).sizes[-1] == 2**32
