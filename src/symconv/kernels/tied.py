"""Spreading free weights over the entries of a filter, and the sum that is its adjoint.

Both are linear and each is the other's transpose, so that each is the other's derivative, to any
order. Torch's own derivative of `index_select` adds element by element; here every free weight
gathers its entries instead, which is why a group convolution trains at the speed of a plain one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from symconv.lattice.orbits import Orbits


class Tables(NamedTuple):
    """Which entries hold which weight, from both ends.

    Attributes:
        index: (entries,) where an entry finds its value in (weights), or in (weights, minus
            weights, zero) where `signs` has negative ones.
        inverse: (most entries of one weight, weights) the entries of each weight.
        signs: Like `inverse`: +1, -1 or 0 (no such entry); None where all are +1.
    """

    index: Tensor
    inverse: Tensor
    signs: Tensor | None


def tables(orbits: Orbits) -> Tables:
    """The tables of some orbits.

    Example:
        >>> tables(Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1))
        Tables(index=tensor([0, 2, 1]), inverse=tensor([[0],
                [2]]), signs=tensor([[ 1],
                [-1]], dtype=torch.int8))
    """
    live = np.flatnonzero(orbits.sign)
    order = live[np.argsort(orbits.weight[live], kind="stable")]
    owner = orbits.weight[order]
    first = np.searchsorted(owner, np.arange(orbits.count))
    rank = np.arange(len(order)) - first[owner]
    most = int(rank.max(initial=-1)) + 1
    inverse = np.tile(order[first], (most, 1))  # an absent one repeats the first, times zero
    signs = np.zeros((most, orbits.count), np.int8)
    inverse[rank, owner], signs[rank, owner] = order, orbits.sign[order]
    index = np.where(orbits.sign < 0, orbits.count + orbits.weight, orbits.weight)
    index = np.where(orbits.sign == 0, 2 * orbits.count, index)
    plain = bool((signs > 0).all()) and len(live) == len(orbits.sign)
    return Tables(
        torch.from_numpy(index),
        torch.from_numpy(inverse),
        None if plain else torch.from_numpy(signs),
    )


def spread(weight: Tensor, tables: Tables) -> Tensor:
    r"""The value of every entry: ``y[..., j] = sign[j] * weight[..., orbit[j]]``.

    Args:
        weight: Free weights (\*, weights).
        tables: Their tables.

    Returns:
        (\*, entries). Exact: values are copied or negated.

    Example:
        >>> pair = tables(Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1))
        >>> spread(torch.tensor([5.0]), pair)
        tensor([ 5.,  0., -5.])
        >>> gather(torch.tensor([1.0, 10.0, 100.0]), pair)
        tensor([-99.])
    """
    return _Spread.apply(weight, *tables)  # type: ignore[return-value]


def gather(entries: Tensor, tables: Tables) -> Tensor:
    r"""The transpose of `spread`: the signed sum over each weight's entries.

    Args:
        entries: (\*, entries).
        tables: The tables.

    Returns:
        (\*, weights).
    """
    return _Gather.apply(entries, *tables)  # type: ignore[return-value]


def reference_spread(weight: Tensor, tables: Tables) -> Tensor:
    """`spread` by a matrix of -1, 0 and 1: slow, and differentiated by torch."""
    weights, entries = weight.shape[-1], tables.index.numel()
    both = torch.nn.functional.one_hot(tables.index, 2 * weights + 1).to(weight.dtype)
    matrix = both[:, :weights] - both[:, weights : 2 * weights]
    return weight @ matrix.reshape(entries, weights).t()


class _Linear(torch.autograd.Function):
    """A linear map given by tables, with its transpose as `backward`."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])


class _Spread(_Linear):
    @staticmethod
    def forward(weight: Tensor, index: Tensor, inverse: Tensor, signs: Tensor | None) -> Tensor:
        if signs is not None:
            zero = weight.new_zeros(*weight.shape[:-1], 1)
            weight = torch.cat([weight, -weight, zero], -1)
        return weight.index_select(-1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gather.apply(grad, *ctx.saved_tensors), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Spread.apply(tangent, *ctx.saved_tensors)


class _Gather(_Linear):
    @staticmethod
    def forward(entries: Tensor, index: Tensor, inverse: Tensor, signs: Tensor | None) -> Tensor:
        each = entries.index_select(-1, inverse.flatten()).unflatten(-1, inverse.shape)
        return (each if signs is None else each * signs.to(each.dtype)).sum(-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Spread.apply(grad, *ctx.saved_tensors), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Gather.apply(tangent, *ctx.saved_tensors)
