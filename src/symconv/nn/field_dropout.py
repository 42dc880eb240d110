"""Dropout for fields: a copy's components are dropped together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.nn._copies import check_channels, join, runs_of, split


class FieldDropout(nn.Module):
    r"""In training, zeroes whole copies with probability p and scales the others by 1 / (1 - p).

        y[n, copy, component, l] = x[n, copy, component, l] * mask[n, copy, l] / (1 - p)

    The group maps the components of a copy onto each other, so one mask serves them all; torch's
    dropout, with a mask per channel, is equivariant only in the mean.

    Shapes: input and output (N, field.channels, \*S) with any number of space axes. With the same
    masks exactly equivariant; in evaluation the identity.

    Args:
        field: What the channels mean.
        p: Probability to be zeroed.
        spatial: Drop a copy at all positions together, as torch's Dropout2d, rather than at each
            position apart?

    Raises:
        StructureError: `field` is none, p is not in 0..1, or (when called) the input has other
            channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> drop = FieldDropout(parse("C4").regular(8), p=0.25, spatial=True)
        >>> drop
        FieldDropout(C4.regular(8), p=0.25, spatial=True)
        >>> sorted(drop(torch.ones(64, 32, 5)).unique().tolist())
        [0.0, 1.3333333730697632]

    References:
        Srivastava et al., Dropout (2014); Tompson et al., Efficient object localization using
        convolutional networks (2015).
    """

    def __init__(self, field: Field, p: float = 0.5, spatial: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise StructureError("a probability p from 0 to 1", p)
        self.runs, self.field, self.p, self.spatial = runs_of(field), field, p, spatial

    def forward(self, x: Tensor) -> Tensor:
        """The input with copies dropped while training; as it is otherwise."""
        check_channels(x, self.runs, self.field)
        if not self.training or self.p == 0:
            return x
        rows = []
        for copies in split(x, self.runs):
            mask = copies.detach()[:, :, :1]
            if self.spatial:
                mask = mask[(..., *(slice(1),) * (x.ndim - 2))]
            rows.append(copies * F.dropout(torch.ones_like(mask), self.p))
        return join(rows)

    def to_plain(self) -> nn.Module:
        """The identity, which the layer is in evaluation."""
        return nn.Identity()

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return f"{self.field}, p={self.p}" + (", spatial=True" if self.spatial else "")
