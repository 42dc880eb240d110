"""What a formula finds in an operation: products of two operands summed over an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Named = dict[str, Any]  # the arguments of an operation by name
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Contraction:
    """Products of two operands summed over an axis.

    Attributes:
        name: What it is called in the report.
        left: First operand; the activation of a layer.
        right: Second operand; the weight of a layer.
        macs: Multiply-accumulates, taps on zero padding included.
        outputs: Numbers that come out.
        fan_in: Terms of the sum of an output (the largest).
        padding_macs: Those of `macs` that fall on zero padding.
        connections: Distinct (output, input) pairs, if one operand holds weights.
        items: Items of the batch, where the operation knows them.
        inputs: Numbers that go in, where they are not those of the activation.
    """

    name: str
    left: Tensor
    right: Tensor
    macs: int
    outputs: int
    fan_in: int
    padding_macs: int = 0
    connections: int | None = None
    items: int | None = None
    inputs: int | None = None


def real_products(*operands: Tensor) -> int:
    """Real products of a product of numbers: four if they are complex."""
    return 4 if any(t.is_complex() for t in operands) else 1
