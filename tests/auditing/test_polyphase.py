"""Layers that choose their sampling grid by content: acquitted, while plain strides are named."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symconv as sc
from symconv.auditing.equivariance.errors import nearest
from symconv.auditing.equivariance.layout import Layout
from symconv.auditing.equivariance.moves import shift

ROUND: dict[str, Any] = {"padding_mode": "circular"}


def _conv(inside: int, outside: int, stride: int = 1, kind: Any = nn.Conv2d) -> nn.Module:
    return kind(inside, outside, 3, stride, 1, **ROUND)


def _polyphase(inside: int, outside: int, stride: int = 2) -> nn.Module:
    return _conv(inside, outside, stride, sc.nn.PolyphaseConv2d)


class Residual(nn.Module):
    """A block whose two strided branches share one phase; or do not."""

    def __init__(self, width: int, shared: bool = True, strided: Any = sc.nn.PolyphaseConv2d):
        super().__init__()
        self.first = _conv(width, 2 * width, 2, strided)
        self.second = _conv(2 * width, 2 * width)
        self.short = strided(width, 2 * width, 1, 2)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        phase = (self.short.phase(x),) if self.shared else ()
        y = self.second(torch.relu(self.first(x, *phase)))
        return torch.relu(y + self.short(x, *phase))


class Scores(nn.Module):
    """A stem, blocks, the mean over positions, and a linear layer."""

    def __init__(self, *blocks: nn.Module, width: int = 16, classes: int = 5):
        super().__init__()
        self.stem, self.blocks = _conv(3, 4), nn.Sequential(*blocks)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def _audit(net: nn.Module, *size: int, batch: int = 3, dtype: torch.dtype = torch.float64):
    x = torch.randn(batch, 3, *(size or (16, 16)), dtype=torch.float64).to(dtype)
    return sc.audit(net.to(dtype), x, counts=False, sizes=False)


def _named(report, transform: str = "shift 1") -> list[str]:
    words = f"under a shift of {transform.split()[1]} px"
    return [s.split(": error")[0].split(",")[0] for s in report.culprits if words in s]


def _rows(report, transform: str = "shift 1") -> dict:
    return {row.layer: row for row in report.equivariance if row.transform == transform}


def _sequence(*, hidden: nn.Module | None = None) -> nn.Sequential:
    layers = [_conv(3, 4), nn.ReLU(), _polyphase(4, 6), nn.GELU(), sc.nn.PolyphasePool2d(2, 3)]
    return nn.Sequential(*layers, *([] if hidden is None else [hidden]), _conv(6, 6), nn.ReLU())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_maps_of_polyphase_layers_move_by_whole_positions(dtype):
    report = _audit(_sequence(), dtype=dtype)
    rows = _rows(report)
    assert {row.verdict for row in rows.values()} == {"exact"}
    assert all(row.error < (1e-12 if dtype == torch.float64 else 1e-5) for row in rows.values())
    assert _named(report) == []
    assert report.period == (1, 1)
    assert "whole number of its own positions" in rows[""].note
    assert "whole number of its own positions" in str(report)


def test_residual_branches_on_one_phase_are_acquitted():
    report = _audit(Scores(Residual(4), Residual(8)))
    assert {row.verdict for row in _rows(report).values()} == {"exact"}
    assert _named(report) == []


def test_residual_branches_on_phases_of_their_own_are_exact_where_those_agree():
    """Both branches read the same input, so that each layer's own choice is the same."""
    report = _audit(Scores(Residual(4, shared=False), Residual(8)))
    assert {row.verdict for row in _rows(report).values()} == {"exact"}


class Apart(Residual):
    """The second branch chooses its grid on another map: the sum joins two grids."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x) + self.short(torch.relu(0.1 - x).roll(1, -1)))


def test_branches_on_different_grids_are_found():
    net = Scores(Apart(4), width=8)
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    report = sc.audit(net.double(), x, counts=False, sizes=False)
    assert _rows(report)[""].verdict != "exact"
    (said,) = (s for s in report.culprits if "shift of 1 px" in s)
    assert said.startswith("blocks.0:")
    assert "the first features that differ" in said


def test_strides_of_three_and_of_one_axis():
    layers = [_conv(3, 4), sc.nn.PolyphaseConv2d(4, 4, 3, (3, 1), 1, **ROUND), nn.ReLU()]
    report = _audit(nn.Sequential(*layers, _polyphase(4, 4)), 24, 10)
    assert {row.verdict for row in _rows(report).values()} == {"exact"}


HIDDEN = {
    "strided convolution": lambda: _conv(6, 6, 2),
    "max pool": lambda: nn.MaxPool2d(2),
    "dilated stride": lambda: nn.Conv2d(6, 6, 3, 2, 2, 2, **ROUND),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_plain_stride_hidden_behind_polyphase_layers_is_named(name):
    report = _audit(_sequence(hidden=HIDDEN[name]()))
    assert _named(report) == ["5 (MaxPool2d)" if name == "max pool" else "5 (Conv2d)"]
    rows = _rows(report)
    assert rows["5"].verdict == "broken"
    assert rows[""].verdict != "exact"
    assert {rows[layer].verdict for layer in "012346"} == {"exact"}


def test_a_plain_stride_in_one_residual_branch_is_named():
    block = Residual(8)
    block.shared = False
    block.short = nn.Conv2d(8, 16, 1, 2)
    report = _audit(Scores(Residual(4), block))
    assert "blocks.1.short" in _named(report)
    assert "blocks.1.first" not in _named(report)


def test_every_plain_stride_is_named_and_none_once_replaced():
    """As before and after a conversion of the network."""
    before = _audit(Scores(Residual(4, False, nn.Conv2d), Residual(8, False, nn.Conv2d)))
    strided = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("first", "short")]
    assert sorted(_named(before)) == strided
    assert _rows(before)[""].verdict != "exact"
    assert _named(_audit(Scores(Residual(4), Residual(8)))) == []


def test_layers_behind_a_stride_are_not_blamed_for_it():
    """They get half a position, but commute with whole shifts of their own input."""
    report = _audit(nn.Sequential(_conv(3, 4, 2), nn.ReLU(), _conv(4, 4), nn.GELU()))
    assert _named(report) == ["0 (Conv2d)"]
    assert {_rows(report)[layer].verdict for layer in "123"} == {"exact"}


# The comparison itself


@pytest.mark.parametrize("stride", [2, 3])
def test_each_item_finds_its_own_shift(stride):
    """Rolled by zero or one position, some items each; an error of one item alone counts as one."""
    x = torch.randn(6, 2, 12, 12, dtype=torch.float64)
    layout = Layout.channels_first(x.shape, [Fraction(stride)] * 2)
    move = shift((1, 1))
    draw = torch.randint(0, 2, (6, 2)).tolist()
    got = torch.stack([a.roll(d, (-2, -1)) for a, d in zip(x, draw, strict=True)])

    def error(got: Tensor) -> float | None:
        others = (shift(s).on(x, layout, 2) for s in move.whole_steps(layout.stride(2)))
        return nearest(got, move.on(x, layout, 2), others, layout, move, 2).full

    assert error(got) == 0.0
    assert (error(x.roll(2, -1)) or 0.0) > 0.5  # no such shift
    got[3] += 0.1
    expected = 0.1 * math.sqrt(2 * 144) / float(x.norm())
    assert error(got) == pytest.approx(expected, rel=1e-9)


def test_whole_shifts_are_tried_only_where_the_shift_of_the_picture_is_whole():
    assert shift((Fraction(1, 2),) * 2).whole_steps([Fraction(2)] * 2) == []
    assert shift((2, 2)).whole_steps([Fraction(2)] * 2) == []
    assert len(shift((1, 1)).whole_steps([Fraction(2)] * 2)) == 4


class Block(nn.Module):
    """As torchvision writes a block."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.first, self.second = _conv(inside, outside, 2), _conv(outside, outside)
        self.short = nn.Conv2d(inside, outside, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


def test_conversion_removes_the_culprits():
    net = Scores(Block(4, 8), Block(8, 16)).double().eval()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    before = sc.audit(net, x, counts=False, sizes=False)
    strided = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("first", "short")]
    assert sorted(_named(before)) == strided
    after = sc.audit(sc.antialias(net, "polyphase")[0], x, counts=False, sizes=False)
    assert _named(after) == []
    assert after.period == (1, 1)
    assert {row.verdict for row in _rows(after).values()} == {"exact"}


def test_fields_over_scales_are_no_point_group():
    """Turns leave scales where they are; pooled over scales, and turned, features are compared."""
    octaves = sc.groups.scales(2, 2)
    lift = sc.nn.ScaleConv2d(octaves.trivial(1), octaves.regular(2), 5, padding="same")
    report = sc.audit(lift, torch.randn(1, 1, 32, 32), counts=False, sizes=False)
    assert report.reasons == {}
    assert {row.transform for row in report.equivariance} >= {"shift 1", "turn 90", "rescale 0.5"}
