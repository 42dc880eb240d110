"""The choice of a phase and the moves, against plain numpy; what happens where phases tie."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symconv.errors import StructureError
from symconv.functional import align, polyphase, unalign
from symconv.kernels import phase as primitives

STRIDES = {1: [(2,), (3,)], 2: [(2, 2), (2, 3), (1, 2)], 3: [(2, 2, 2), (2, 1, 3)]}


@st.composite
def features(draw, divisible=True):
    """A map, its stride, and a whole shift."""
    dimension = draw(st.integers(1, 3))
    stride = draw(st.sampled_from(STRIDES[dimension]))
    size = [s * draw(st.integers(1, 4)) + (0 if divisible else draw(st.integers(0, 2)))
            for s in stride]  # fmt: skip
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, stride, tuple(draw(st.integers(-5, 5)) for _ in stride)


def strided(x, phase, stride):
    return align(x, phase)[(..., *(slice(None, None, s) for s in stride))]


def axes_of(x):
    return tuple(range(1, x.ndim - 1))


@given(features())
def test_the_phase_is_the_one_of_the_largest_norm(case):
    x, stride, _ = case
    for item, chosen in zip(x, polyphase(x, stride).tolist(), strict=True):
        norms = {
            p: float(item[(..., *map(slice, p, [None] * len(p), stride))].square().sum())
            for p in itertools.product(*map(range, stride))
        }
        assert norms[tuple(chosen)] == pytest.approx(max(norms.values()))


@given(features(divisible=False), st.booleans())
def test_aligned_is_rolled(case, circular):
    x, stride, shift = case
    phase = torch.tensor([[abs(t) % s for t, s in zip(shift, stride, strict=True)]] * len(x))
    phase[0] = 0  # each item by its own
    mode = "circular" if circular else "zeros"
    for item, moved, back, p in zip(
        x.numpy(), align(x, phase, mode), unalign(x, phase, mode), phase.tolist(), strict=True
    ):
        for found, sign in ((moved, -1), (back, 1)):
            wanted = np.roll(item, [sign * q for q in p], axes_of(x))
            if not circular:
                for axis, q in enumerate(p, 1):
                    places = np.arange(wanted.shape[axis]) - sign * q
                    lost = (places < 0) | (places >= wanted.shape[axis])
                    wanted[(slice(None),) * axis + (lost,)] = 0
            np.testing.assert_array_equal(found.numpy(), wanted)


@given(features())
def test_a_strided_map_moves_by_whole_positions(case):
    x, stride, shift = case
    moved = x.roll(shift, tuple(range(2, x.ndim)))
    before, after = polyphase(x, stride), polyphase(moved, stride)
    y, z = strided(x, before, stride), strided(moved, after, stride)
    travelled = before + torch.tensor(shift) - after
    assert not (travelled % torch.tensor(stride)).any()
    for one, other, steps in zip(y, z, travelled // torch.tensor(stride), strict=True):
        assert torch.equal(other, one.roll(steps.tolist(), axes_of(x)))


def test_without_the_choice_the_map_changes():
    """The negative control: phase 0 always, as a plain stride has it."""
    x = torch.randn(2, 3, 8, 8)
    y, z = (v[..., ::2, ::2] for v in (x, x.roll(1, -1)))
    assert not torch.allclose(y.flatten(2).sort().values, z.flatten(2).sort().values)


PICTURES = {
    "signed stripes": lambda: torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8).clone(),
    "checkerboard": lambda: (
        (torch.arange(8)[:, None] + torch.arange(8)).float().remainder(2)[None, None]
    ),
    "equal values, another arrangement": lambda: torch.tensor(
        [[[1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 1.0, 5.0, 2.5, 6.0, 5.0, 2.5, 6.0]]]
    ),
    "constant": lambda: torch.ones(1, 3, 6, 6),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PICTURES)
def test_ties_in_the_norm(name, dtype):
    """What a global pool over the map sees stays the same, also beside a channel of rounding."""
    x = PICTURES[name]().to(dtype)
    stride = (2,) * (x.ndim - 2)
    generator = torch.Generator().manual_seed(0)
    noise = 1 + torch.randn(x.shape, generator=generator).to(dtype) * torch.finfo(dtype).eps
    for shift in itertools.product(range(3), repeat=len(stride)):
        moved = x.roll(shift, tuple(range(2, x.ndim)))
        results = [strided(v, polyphase(v * noise, stride), stride) for v in (x, moved)]
        one, other = (r.flatten(2) for r in results)
        neighbours = [(r * r.roll(1, -1)).flatten(2).sum(-1) for r in results]
        assert torch.equal(one.sort().values, other.sort().values)
        assert torch.allclose(*neighbours)


def test_the_norm_alone_does_not_decide_ties(monkeypatch):
    """The negative control: without further sums, stripes of plus and minus one change sign."""
    full = primitives._invariants
    monkeypatch.setattr(primitives, "_invariants", lambda *a: tuple(v[:, :1] for v in full(*a)))
    x = PICTURES["signed stripes"]()
    sums = [strided(v, polyphase(v, 2), (2, 2)).sum() for v in (x, x.roll(1, -1))]
    assert sums[0] == -sums[1] != 0


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_derivatives(mode):
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    phase = torch.tensor([[1, 0], [0, 2]])
    for move in (align, unalign):
        assert torch.autograd.gradcheck(lambda v, m=move: m(v, phase, mode), x)
        assert torch.autograd.gradgradcheck(lambda v, m=move: m(v, phase, mode), x)
    y = torch.randn_like(x)
    forth, back = (align(x, phase, mode) * y).sum(), (x * unalign(y, phase, mode)).sum()
    torch.testing.assert_close(forth, back)
    assert not polyphase(x, 2).requires_grad


def test_bad_input():
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(StructureError, match="batch axis"):
        polyphase(x[0, 0], 2)
    with pytest.raises(StructureError, match="floating-point"):
        polyphase(x.long(), 2)
    with pytest.raises(StructureError, match="stride"):
        polyphase(x, (2, 2, 2))
    with pytest.raises(StructureError, match=r"whole offsets of shape \(2, 2\)"):
        align(x, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(StructureError, match="whole offsets"):
        unalign(x, torch.zeros(2, 2))
    with pytest.raises(StructureError, match="padding_mode"):
        align(x, polyphase(x, 2), "reflect")
