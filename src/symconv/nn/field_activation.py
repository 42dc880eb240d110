"""Nonlinearities that commute with signs: by length and by gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.nn._copies import check_channels, join, runs_of, split, traced


class FieldNormReLU(nn.Module):
    r"""ReLU for permutations; signed copies keep their direction and lose length.

        permutations (trivial, regular, quotient):  y = relu(x)
        signed (sign, vector):                      y = x relu(|x| + b) / |x|,  0 where x = 0

    A ReLU of each channel alone does not commute with signs; a function of the length does.

    Shapes: input and output (N, field.channels, \*S) with any number of space axes; `bias` (signed
    copies,), zero at the start (the layer is then the identity on signed copies). Exactly
    equivariant, up to the rounding of the lengths' sums.

    Args:
        field: What the channels mean.
        bias: Learn b, one per signed copy? Without it signed copies pass unchanged.
        device: Where the bias lies.
        dtype: Its type.

    Raises:
        StructureError: `field` is none, or (when called) the input has other channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> layer = FieldNormReLU(parse("C4").vector(1))
        >>> layer, nn.init.constant_(layer.bias, -4.0).requires_grad
        (FieldNormReLU(C4.vector(1)), True)
        >>> layer(torch.tensor([[3.0, -4.0], [0.3, 0.4]])).tolist()
        [[0.6000000238418579, -0.800000011920929], [0.0, 0.0]]

    References:
        Worrall et al., Harmonic Networks (2017); Weiler and Cesa, General E(2)-equivariant
        steerable CNNs (2019), section 2.6.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        field: Field,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.runs, self.field = runs_of(field), field
        count = sum(run.copies for run in self.runs if run.signed)
        empty = torch.empty(count, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(empty) if bias and count else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set b to zero."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The output (N, field.channels, *S)."""
        check_channels(x, self.runs, self.field)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` without its check."""
        rows, first = [], 0
        for copies, run in zip(split(x, self.runs), self.runs, strict=True):
            if not run.signed:
                copies = F.relu(copies)
            elif self.bias is not None:
                length = torch.linalg.vector_norm(copies, dim=2)
                bias = self.bias[first : first + run.copies]
                kept = F.relu((length.movedim(1, -1) + bias).movedim(-1, 1))
                some = length > 0
                ratio = torch.where(some, kept / torch.where(some, length, 1), 0)
                copies = copies * ratio.unsqueeze(2).to(copies.dtype)
            first += run.copies if run.signed else 0
            rows.append(copies)
        return join(rows)

    def to_plain(self) -> nn.Module:
        """An equal module of torch's: a ReLU where nothing is signed, or a graph of functions."""
        return traced(self) if self.field.signed else nn.ReLU()

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        plain = self.field.signed and self.bias is None
        return str(self.field) + (", bias=False" if plain else "")


class FieldGated(nn.Module):
    r"""ReLU for permutations; each signed copy is scaled by a gate of its own.

        permutations (trivial, regular, quotient):  y = relu(x)
        signed (sign, vector):                      y = x * sigmoid(gate of the copy)

    The gates are trivial channels, given after the field's own: let the layer before put out
    `in_field`.

    Shapes: input (N, in_field.channels, \*S) with any number of space axes, output
    (N, out_field.channels, \*S). Exact.

    Args:
        field: What the channels of the output mean.

    Attributes:
        in_field: `field`, then a trivial channel for each signed copy.
        out_field: `field`.

    Raises:
        StructureError: `field` is none, or one that has no signed copies to gate, or (when
            called) the input has other channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> D4 = parse("D4")
        >>> gated = FieldGated(D4.regular(2) + D4.vector(4))
        >>> gated, gated.in_field
        (FieldGated(D4.regular(2) + D4.vector(4)), D4.regular(2) + D4.vector(4) + D4.trivial(4))
        >>> gated(torch.zeros(1, 28, 5, 5)).shape
        torch.Size([1, 24, 5, 5])

    References:
        Weiler et al., 3D Steerable CNNs (2018), section 4.3; Weiler and Cesa, General
        E(2)-equivariant steerable CNNs (2019), section 2.6.
    """

    def __init__(self, field: Field):
        super().__init__()
        self.runs = runs_of(field)
        gates = sum(run.copies for run in self.runs if run.signed)
        if not gates:
            raise StructureError("a field with signed copies to gate", str(field), "use nn.ReLU")
        self.in_field, self.out_field = field + field.group.trivial(gates), field
        self._in_runs = runs_of(self.in_field)

    def forward(self, x: Tensor) -> Tensor:
        """The output (N, out_field.channels, *S)."""
        check_channels(x, self._in_runs, self.in_field)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` without its check."""
        rows, gate = [], self.runs[-1].start + self.runs[-1].channels
        for copies, run in zip(split(x, self.runs), self.runs, strict=True):
            if run.signed:
                scale = x.narrow(1, gate, run.copies).sigmoid()
                rows.append(copies * scale.unsqueeze(2))
                gate += run.copies
            else:
                rows.append(F.relu(copies))
        return join(rows)

    def to_plain(self) -> nn.Module:
        """An equal graph of torch's functions."""
        return traced(self)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return str(self.out_field)
