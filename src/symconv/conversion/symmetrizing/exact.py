"""Scores whose bits do not depend on the order of their terms, and what is best by them.

A choice made by comparing sums of floating-point numbers depends on their order near a tie. Here
the input is rounded to whole numbers, the weights are whole, and every sum stays below 2**53, so
that double precision holds each partial sum exactly: the choice moves with the input, always.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symconv.errors import StructureError

EXACT = 52  # bits of the largest sum
LEAST = 6  # bits to which an input is rounded at least


def bits_for(terms: int, taken: int) -> int:
    """Bits to which values may be rounded: sums of `terms`, times weights of `taken` bits.

    Raises:
        StructureError: The input is too large.
    """
    bits = min(22, EXACT - taken - (max(terms, 2) - 1).bit_length())
    if bits < LEAST:
        raise StructureError(f"fewer than 2**{EXACT - taken - LEAST} values a sample", terms)
    return bits


def whole(x: Tensor, bits: int) -> Tensor:
    """Each sample of x (N, ...) as whole numbers up to 2**bits.

    In the type of x where single precision holds them. The scale is the sample's largest magnitude:
    a maximum, which no motion of the values changes.
    """
    x = x.detach()
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float() if x.is_floating_point() else x.double()
    # Two reductions without a copy. What is below the smallest level is black.
    flat = x.flatten(1)
    level = torch.maximum(flat.amax(1), -flat.amin(1)).clamp_min(1e-30)
    return (x * (2**bits / level).view(-1, *(1,) * (x.ndim - 1))).round_()


def weights(shape: Sequence[int], bits: int, stream: int, device: torch.device) -> Tensor:
    """Generic whole numbers from -2**bits to 2**bits - 1, the same on every machine."""
    count = 1
    for size in shape:
        count *= size
    mask = 2**32 - 1
    h = (torch.arange(count, device=device) * 2654435761 + 374761393 * (stream + 1)) & mask
    for _ in range(2):  # a well-mixing integer hash; products stay below 2**63
        h = ((h ^ (h >> 16)) * 73244475) & mask
    return (((h ^ (h >> 16)) & (2 ** (bits + 1) - 1)) - 2**bits).double().view(*shape)


def best(scores: Sequence[Tensor]) -> Tensor:
    """Which entries (N, K) are best: largest in the first score, then in the second, and so on.

    Example:
        >>> first, second = torch.tensor([[3, 1, 3, 3]]), torch.tensor([[5, 9, 7, 7]])
        >>> best([first, second])
        tensor([[False, False,  True,  True]])
    """
    kept = torch.ones_like(scores[0], dtype=torch.bool)
    for score in scores:
        score = score.nan_to_num(0.0, 0.0, 0.0)  # of a sample that is not finite all are equal
        low = torch.where(kept, score, score.amin(1, keepdim=True) - 1)
        kept = low == low.amax(1, keepdim=True)
    return kept
