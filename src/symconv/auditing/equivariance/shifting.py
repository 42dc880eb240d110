"""Tensors shifted along axes, by whole steps or by parts of one, in pieces that fit the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

Axes = tuple[int, ...]


def shifted(x: Tensor, axes: Axes, steps: Sequence[Fraction]) -> Tensor:
    """Shift some axes: rolled where the step is whole, else by their Fourier series."""
    whole = {a: int(t) % x.shape[a] for a, t in zip(axes, steps, strict=True) if t == int(t)}
    if any(whole.values()):
        x = _rolled(x, whole)
    rest = [(a, t) for a, t in zip(axes, steps, strict=True) if t != int(t) and x.shape[a] > 1]

    def between(y: Tensor) -> Tensor:
        for axis, step in rest:
            if y.shape[axis] > _LONG:
                y = _fourier(y.double(), axis, step).to(y.dtype)
            else:
                y = times(_shifting(y.shape[axis], step), y, axis)
        return y

    return by_parts(x, axes, between) if rest else x


def _rolled(x: Tensor, steps: dict[int, int]) -> Tensor:
    """`torch.roll` along several axes, without a copy for each."""
    y = torch.empty_like(x)
    halves = [
        ((0, x.shape[axis] - step, step), (x.shape[axis] - step, step, 0))
        for axis, step in steps.items()
    ]
    for parts in product(*halves):
        here, there = x, y
        for axis, (start, length, to) in zip(steps, parts, strict=True):
            here, there = here.narrow(axis, start, length), there.narrow(axis, to, length)
        there.copy_(here)
    return y


def times(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """A matrix applied along an axis."""
    y = x.float() if x.element_size() < 4 else x
    matrix, behind = matrix.to(y), math.prod(x.shape[axis + 1 :])
    if behind > _FEW:
        done = matrix @ y.reshape(-1, y.shape[axis], behind)
        return done.view(*x.shape[:axis], len(matrix), *x.shape[axis + 1 :]).to(x.dtype)
    y = y.movedim(axis, -1)
    done = y.reshape(-1, y.shape[-1]) @ matrix.t()
    return done.view(*y.shape[:-1], len(matrix)).movedim(-1, axis).to(x.dtype)


def by_parts(x: Tensor, axes: Axes, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A change of some axes, to a few entries of another axis at a time, which saves memory."""
    other = next((a for a in range(x.ndim) if a not in axes and x.shape[a] > 1), None)
    if other is None or x.numel() <= _MANY:
        return change(x)
    size, few, y = x.shape[other], max(1, _MANY * x.shape[other] // x.numel()), None
    for place in range(0, size, few):
        done = change(x.narrow(other, place, min(few, size - place)))
        if y is None:
            shape = list(done.shape)
            shape[other] = size
            y = done.new_empty(shape)
        y.narrow(other, place, done.shape[other]).copy_(done)
    return x if y is None else y


_LONG = 512  # up to here a product with a matrix is quicker than two transforms
_FEW = 8  # products of smaller matrices, one after the other, are slow
_MANY = 1 << 18  # numbers worked on at a time, to save memory


@lru_cache(maxsize=256)
def _shifting(size: int, step: Fraction) -> Tensor:
    """The matrix of a Fourier shift."""
    return _fourier(torch.eye(size, dtype=torch.float64), 0, step)


def _fourier(x: Tensor, axis: int, step: Fraction) -> Tensor:
    size = x.shape[axis]
    frequency = torch.fft.rfftfreq(size, dtype=torch.float64, device=x.device)
    phase = (-2 * math.pi * float(step)) * frequency
    turn = torch.polar(torch.ones_like(phase), phase).view(-1, *(1,) * (x.ndim - 1 - axis))
    return torch.fft.irfft(torch.fft.rfft(x, dim=axis) * turn, n=size, dim=axis)
