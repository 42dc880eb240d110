"""Blur pooling against a plain sum over taps, and what it keeps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import symconv as sc

POOLS = {1: sc.nn.BlurPool1d, 2: sc.nn.BlurPool2d, 3: sc.nn.BlurPool3d}
NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@given(
    dimension=st.integers(1, 3),
    kernel=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    stride=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    size=st.lists(st.integers(3, 7), min_size=3, max_size=3),
    mode=st.sampled_from(list(NUMPY)),
)
def test_against_a_sum_over_taps(dimension, kernel, stride, size, mode):
    kernel, stride, size = (tuple(v[:dimension]) for v in (kernel, stride, size))
    generator = torch.Generator().manual_seed(sum(kernel))
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    y = POOLS[dimension](kernel, stride, mode).double()(x)
    pads = [(0, 0)] * 2 + [((k - 1) // 2, k // 2) for k in kernel]
    wide = np.pad(x.numpy(), pads, NUMPY[mode])
    out = tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))
    wanted = np.zeros((2, 3, *out))
    for taps in np.ndindex(kernel):
        weight = math.prod(
            math.comb(k - 1, t) / 2 ** (k - 1) for k, t in zip(kernel, taps, strict=True)
        )
        part = tuple(
            slice(t, t + s * (o - 1) + 1, s) for t, s, o in zip(taps, stride, out, strict=True)
        )
        wanted += weight * wide[(..., *part)]
    np.testing.assert_allclose(y.numpy(), wanted, atol=1e-14)


def test_blur_changes_less_under_a_shift_than_a_stride():
    x = torch.randn(4, 2, 32, 32, generator=torch.Generator().manual_seed(0))

    def change(pool):
        y, z = (pool(v).square().mean((2, 3)) for v in (x, x.roll(1, -1)))
        return float((y - z).norm() / y.norm())

    blurred = change(sc.nn.BlurPool2d(5, 2, "circular"))
    plain = change(sc.nn.BlurPool2d(1, 2, "circular"))  # one tap: the bare stride
    assert 0 < blurred < 0.5 * plain


def test_moves_with_shifts_by_its_stride():
    x = torch.randint(-8, 9, (2, 3, 12, 9)).double()
    pool = sc.nn.BlurPool2d((4, 3), (2, 3), "circular").double()
    assert torch.equal(pool(x.roll((4, 3), (2, 3))), pool(x).roll((2, 1), (2, 3)))


def test_bad_input():
    with pytest.raises(sc.StructureError, match="padding_mode"):
        sc.nn.BlurPool2d(padding_mode="mirror")
    with pytest.raises(sc.StructureError, match="stride"):
        sc.nn.BlurPool2d(stride=0)
    with pytest.raises(sc.StructureError, match=r"\(N, C, H, W\)"):
        sc.nn.BlurPool2d()(torch.zeros(3, 8, 8))
    with pytest.raises(sc.StructureError, match="replicate"):
        sc.nn.BlurPool2d(5)(torch.zeros(1, 1, 2, 2))
