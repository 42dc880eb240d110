"""Spreading free weights over the entries of a filter.

One gather writes each entry straight into its place in torch's layout. Its derivative, a scatter
and a sum over the outputs of a copy, is torch's own: to any order, forward and backward.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from symconv.lattice.orbits import Orbits


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
