"""Spreading free weights over the entries of a filter, and the sum that is its adjoint.

Both are linear and each is the other's transpose, so that each is the other's derivative, to any
order. Torch's own derivative of a gather adds element by element; here every free weight collects
its entries instead, which is why a group convolution trains at the speed of a plain one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from symconv.lattice.orbits import Orbits


class Tables(NamedTuple):
    """Which entries hold which of W weights, from both ends, for each of O outputs of a copy.

    Attributes:
        source: (O, E) where each of the entries finds its value: among the W weights, or among
            (weights, minus weights, zero) where `signs` is given.
        inverse: (O, M, W) the at most M entries of each weight.
        signs: (O, M, W) their signs, 0 where there is no such entry; None where all are +1.
    """

    source: Tensor
    inverse: Tensor
    signs: Tensor | None


def tables(orbits: Orbits, outputs: int) -> Tables:
    """The tables of some orbits over (outputs, entries), flattened.

    Example:
        >>> tables(Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1), outputs=1)
        Tables(source=tensor([[0, 2, 1]]), inverse=tensor([[[0],
                 [2]]]), signs=tensor([[[ 1],
                 [-1]]], dtype=torch.int8))
    """
    weight, sign = orbits.weight.reshape(outputs, -1), orbits.sign.reshape(outputs, -1)
    output, entry = np.nonzero(sign)
    owner = output * orbits.count + weight[output, entry]
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=outputs * orbits.count)
    rank = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    most = int(counts.max(initial=0))
    inverse = np.zeros((outputs, most, orbits.count), np.int64)
    signs = np.zeros(inverse.shape, np.int8)
    place = output[order], rank, weight[output, entry][order]
    inverse[place], signs[place] = entry[order], sign[output, entry][order]
    index = np.where(sign < 0, orbits.count + weight, np.where(sign, weight, 2 * orbits.count))
    plain = bool((signs > 0).all() and (sign > 0).all())
    return Tables(
        torch.from_numpy(index),
        torch.from_numpy(inverse),
        None if plain else torch.from_numpy(signs),
    )


def spread(weight: Tensor, tables: Tables) -> Tensor:
    """The value of every entry: ``y[r, o, c, e] = sign[o, e] * weight[r, c, orbit[o, e]]``.

    Args:
        weight: Free weights (R, C, W).
        tables: Their tables.

    Returns:
        (R, O, C, E). Exact: values are copied or negated.

    Example:
        >>> pair = tables(Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1), outputs=1)
        >>> spread(torch.tensor([[[5.0]]]), pair).flatten()
        tensor([ 5.,  0., -5.])
        >>> collect(torch.tensor([[[[1.0, 10.0, 100.0]]]]), pair).flatten()
        tensor([-99.])
    """
    if torch.compiler.is_compiling():  # plain operators for graphs; the compiler fuses them
        chosen = _with_negatives(weight, tables.signs).index_select(-1, tables.source.flatten())
        return chosen.unflatten(-1, tables.source.shape).movedim(-2, 1)
    return _Spread.apply(weight, *tables)  # type: ignore[return-value]


def collect(entries: Tensor, tables: Tables) -> Tensor:
    """The transpose of `spread`: the signed sum over each weight's entries.

    Args:
        entries: (R, O, C, E).
        tables: The tables.

    Returns:
        (R, C, W).
    """
    return _Collect.apply(entries, *tables)  # type: ignore[return-value]


def reference_spread(weight: Tensor, tables: Tables) -> Tensor:
    """`spread` by a matrix of -1, 0 and 1: slow, and differentiated by torch."""
    count = weight.shape[-1]
    both = torch.nn.functional.one_hot(tables.source, 2 * count + 1).to(weight.dtype)
    return torch.einsum("rcw,oew->roce", weight, both[..., :count] - both[..., count : 2 * count])


class _Linear(torch.autograd.Function):
    """A linear map given by tables; its derivatives need nothing else."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])


class _Spread(_Linear):
    @staticmethod
    def forward(weight: Tensor, source: Tensor, inverse: Tensor, signs: Tensor | None) -> Tensor:
        return _take(_with_negatives(weight, signs).unsqueeze(1), source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Collect.apply(grads[0], *ctx.saved_tensors), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return _Spread.apply(tangents[0], *ctx.saved_tensors)


class _Collect(_Linear):
    @staticmethod
    def forward(entries: Tensor, source: Tensor, inverse: Tensor, signs: Tensor | None) -> Tensor:
        each = _take(entries, inverse.flatten(1))
        if signs is not None:
            each = each * signs.to(each.dtype).flatten(1).unsqueeze(1)
        most, weights = inverse.shape[1:]
        return each.sum(1) if most == 1 else each.unflatten(-1, (most, weights)).sum((1, 3))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Spread.apply(grads[0], *ctx.saved_tensors), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return _Collect.apply(tangents[0], *ctx.saved_tensors)


def _with_negatives(weight: Tensor, signs: Tensor | None) -> Tensor:
    """What `Tables.source` points into."""
    if signs is None:
        return weight
    return torch.cat([weight, -weight, weight.new_zeros(*weight.shape[:-1], 1)], -1)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """``y[r, o, c, e] = values[r, o, c, index[o, e]]``; one gather, straight into its place."""
    rows, _, columns, _ = values.shape
    outputs, entries = index.shape
    chosen = index[None, :, None].expand(rows, outputs, columns, entries)
    return values.expand(rows, outputs, columns, values.shape[-1]).gather(3, chosen)
