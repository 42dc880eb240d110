"""From a field to invariant channels: pooling over the components of each copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.nn._copies import check_channels, join, runs_of, split, traced


class GroupPool(nn.Module):
    r"""One invariant channel per copy of a field.

        permutations (regular, quotient):  y = max (or mean) of the copy's components
        trivial:                           y = x
        signed (sign, vector):             y = sqrt(sum of the components' squares)

    The group permutes a copy's components, which changes neither their maximum nor their mean; of
    signed copies both change, the length does not. Space is not pooled: the result is a feature
    map that turns with its input, and invariant after a mean over space. The gradient of a maximum
    is shared equally among ties, so it is equivariant too; that of a length is 0 at 0.

    Shapes: input (N, field.channels, \*S) with any number of space axes, output
    (N, field.copies, \*S). Exact.

    Args:
        field: What the channels of the input mean.
        reduce: "max" or "mean"; signed copies give their length with either.

    Raises:
        StructureError: `field` is none, `reduce` is unknown, or (when called) the input has other
            channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> pool = GroupPool(parse("D4").regular(2) + parse("D4").vector(1), reduce="mean")
        >>> pool, pool.out_field
        (GroupPool(D4.regular(2) + D4.vector(1), reduce='mean'), D4.trivial(3))
        >>> pool(torch.arange(18.0)[None]) [0, :2]
        tensor([ 3.5000, 11.5000])

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016), section 6.3.
    """

    def __init__(self, field: Field, reduce: str = "max"):
        super().__init__()
        if reduce not in ("max", "mean"):
            raise StructureError('reduce="max" or "mean"', repr(reduce))
        self.runs, self.reduce = runs_of(field), reduce
        self.in_field, self.out_field = field, field.group.trivial(field.copies)

    def forward(self, x: Tensor) -> Tensor:
        """The invariant channels (N, field.copies, *S)."""
        check_channels(x, self.runs, self.in_field)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` without its check."""
        rows = []
        for copies, run in zip(split(x, self.runs), self.runs, strict=True):
            if run.signed:
                rows.append(torch.linalg.vector_norm(copies, dim=2, keepdim=True))
            elif run.size == 1:
                rows.append(copies)
            elif self.reduce == "max":
                rows.append(copies.amax(2, keepdim=True))
            else:
                rows.append(copies.mean(2, keepdim=True))
        return join(rows)

    def to_plain(self) -> nn.Module:
        """An equal graph of torch's functions."""
        return traced(self)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return f"{self.in_field}" + (f", reduce={self.reduce!r}" if self.reduce != "max" else "")
