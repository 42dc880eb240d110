"""The reference for ragged batches: every item by itself, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

import symconv as sc
from symconv.ragged.packed import ANY

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def items_of(sizes, channels=6, dtype=torch.float64, seed=0, grad=False):
    """Random items (channels, *size)."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(channels, *size, dtype=torch.float64, generator=draw) for size in sizes]
    return [item.to(dtype).requires_grad_(grad) for item in made]


def poisoned(x):
    """The same batch with NaN in all of its padding."""
    canvases = [
        torch.where(v.mask(c, x.layout), c, torch.nan) if not v.full else c
        for c, v in zip(x.canvases, x.valid, strict=True)
    ]
    return x.remade(canvases, padding=ANY)


def each(function, *batches):
    """A function of batches (1, C, *S), on each item alone."""
    return [function(*(item[None] for item in row))[0] for row in zip(*batches, strict=True)]


def parts(output):
    """The result for each item, of a batch or a plain tensor."""
    return list(output.unbind())


def error(one, other, scale=None):
    """The largest difference relative to the largest value, or to a scale."""
    assert one.shape == other.shape, (one.shape, other.shape)
    assert one.dtype == other.dtype, (one.dtype, other.dtype)
    one, other = one.detach().double(), other.detach().double()
    if not one.numel() or torch.equal(one, other):
        return 0.0
    scale = other.abs().max() if scale is None else scale
    return float((one - other).abs().max() / scale.clamp(min=1e-30))


def assert_alone(function, *batches, dtype=torch.float64, parameters=(), poison=True):
    """A function gives the same on a batch as on each item alone, forwards and backwards."""
    ragged = [sc.Ragged(items) for items in batches]
    if poison:
        ragged = [poisoned(x) for x in ragged]
    out, expected = parts(function(*ragged)), each(function, *batches)
    assert len(out) == len(expected)
    for got, wanted in zip(out, expected, strict=True):
        assert error(got, wanted) <= TOLERANCE[dtype], error(got, wanted)
    leaves = [i for items in batches for i in items if i.requires_grad] + list(parameters)
    if not leaves or not expected[0].requires_grad:
        return
    draw = torch.Generator().manual_seed(12345)  # no numbers that the items are made of
    weights = [torch.randn(e.shape, dtype=torch.float64, generator=draw).to(e) for e in expected]
    grads = [
        torch.autograd.grad(
            sum((w * o).sum() for w, o in zip(weights, some, strict=True)),
            leaves,
            allow_unused=True,
        )
        for some in (out, expected)
    ]
    # relative to the largest of all gradients: a bias before a norm has none but rounding
    scale = max(g.abs().max().double() for g in grads[1] if g is not None)
    for got, wanted in zip(*grads, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            off = error(got, wanted, scale)
            assert off <= 10 * TOLERANCE[dtype], off


def tensors(*shape, dtype=torch.float64, seed=1):
    """Random parameters."""
    draw = torch.Generator().manual_seed(seed)
    made: Tensor = torch.randn(*shape, dtype=torch.float64, generator=draw)
    return made.to(dtype).requires_grad_()
