"""Spreading free weights over the entries of a filter.

On the lattice one gather writes each entry straight into its place in torch's layout. Its
derivative, a scatter and a sum over the outputs of a copy, is torch's own: to any order, forward
and backward. Off the lattice a gather and a product with sampled functions mix each entry.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from symconv.lattice.orbits import Orbits
from symconv.lattice.steerable import Steered


def source_of(orbits: Orbits, outputs: int) -> np.ndarray:
    """Where each of (outputs, entries) finds its value: among (weights, minus weights, zero).

    Example:
        >>> source_of(Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1), outputs=1)
        array([[0, 2, 1]])
    """
    negative = np.where(orbits.sign < 0, orbits.weight + orbits.count, 2 * orbits.count)
    found = np.where(orbits.sign > 0, orbits.weight, negative)
    return found.reshape(outputs, -1)


def spread(weight: Tensor, source: Tensor, signed: bool) -> Tensor:
    """The value of every entry: ``y[r, o, c, e] = sign[o, e] * weight[r, c, orbit[o, e]]``.

    Args:
        weight: Free weights (R, C, W).
        source: (O, E) from `source_of`, as a tensor.
        signed: Whether some sign is not +1.

    Returns:
        (R, O, C, E). Exact: values are copied or negated.

    Example:
        >>> odd = Orbits(np.array([0, -1, 0]), np.array([1, 0, -1]), 1)
        >>> source = torch.from_numpy(source_of(odd, outputs=1))
        >>> spread(torch.tensor([[[5.0]]]), source, signed=True).flatten()
        tensor([ 5.,  0., -5.])
    """
    values = with_negatives(weight) if signed else weight
    if torch.compiler.is_compiling():  # a gather with fewer indices, which other runtimes like
        return values.index_select(-1, source.flatten()).unflatten(-1, source.shape).movedim(-2, 1)
    rows, columns, count = values.shape
    shape = rows, source.shape[0], columns
    every = values.unsqueeze(1).expand(*shape, count)
    return every.gather(3, source[None, :, None].expand(*shape, source.shape[1]))


def expand(weight: Tensor, index: Tensor, basis: Tensor) -> Tensor:
    """Filters mixed from functions: ``y[r, o, c, q e] = sum_k w[r, c, index[o, q], k] b[o, k, e]``.

    Args:
        weight: Free weights (R, C, rows * K).
        index: (O, Q), the row of the weights that each part takes.
        basis: (O, K, E), an output's functions.

    Returns:
        (R, O, C, Q * E). Summed in the weight's own type, under autocast too.

    Example:
        >>> index, basis = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[[2.0]], [[3.0]]])
        >>> expand(torch.tensor([[[1.0, 10.0]]]), index, basis).flatten()
        tensor([ 2., 20., 30.,  3.])
    """
    rows, columns = weight.shape[:2]
    (outputs, parts), functions = index.shape, basis.shape[1]
    kind = weight.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return expand(weight, index, basis)
    if not functions:  # no filter of this kernel size exists
        return weight.new_zeros(rows, outputs, columns, parts * basis.shape[2])
    mixed = weight.unflatten(-1, (-1, functions))
    # Outputs first, so that one product serves all filters of an output.
    if parts == 1 and mixed.shape[2] == 1:
        mixed = mixed.reshape(1, -1, functions)
    else:
        mixed = mixed.index_select(2, index.flatten()).unflatten(2, (outputs, parts))
        mixed = mixed.movedim(2, 0).reshape(outputs, -1, functions)
    y = torch.matmul(mixed, basis)
    return y.view(outputs, rows, columns, -1).movedim(0, 1)


def with_negatives(weight: Tensor) -> Tensor:
    """(weights, minus weights, zero) along the last axis."""
    return torch.cat([weight, -weight, weight.new_zeros(*weight.shape[:-1], 1)], -1)


def reference_spread(weight: Tensor, orbits: Orbits, outputs: int) -> Tensor:
    """`spread` entry by entry, by a matrix of -1, 0 and 1 (slow)."""
    matrix = np.zeros((orbits.weight.size, orbits.count))
    for entry, (owner, sign) in enumerate(zip(orbits.weight, orbits.sign, strict=True)):
        if sign:
            matrix[entry, owner] = sign
    entries = torch.from_numpy(matrix).to(weight).unflatten(0, (outputs, -1))
    return torch.einsum("rcw,oew->roce", weight, entries)


def reference_expand(weight: Tensor, tie: Steered) -> Tensor:
    """`expand` output by output and part by part (slow)."""
    free = weight.unflatten(-1, (tie.rows, tie.functions))
    basis = torch.from_numpy(tie.basis).to(weight)
    outputs = [
        torch.cat([free[:, :, int(row)] @ basis[o] for row in tie.index[o]], -1)
        for o in range(len(tie.basis))
    ]
    return torch.stack(outputs, 1)
