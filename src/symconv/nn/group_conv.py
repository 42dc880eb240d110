"""Group convolution: convolution that also commutes with turns and mirrors of the lattice."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_input, pad
from symconv.kernels.tied import Tables, spread, tables
from symconv.lattice.centring import check_window, padded_more
from symconv.lattice.filters import Block, Filter
from symconv.lattice.orbits import Orbits
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn.centring import alignment
from symconv.structure import Structure

_LAYER: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _GroupConv(nn.Module):
    r"""Convolution that commutes with a point group as well as with translations.

        y = bias + F * x,   F[g o, g i, g t] = F[o, i, t]   for every element g,

    where g moves the taps t of the filter, and the channels i and o as the two fields say (with
    their signs). Each orbit of filter entries is one free weight; an entry that the group maps
    onto minus itself is zero. One class covers lifting (trivial to regular fields), regular to
    regular, projections, and sums of fields. The work is that of torch's convolution with as many
    channels; the filter is spread from its free weights at each call (once in `eval()` without
    gradients: it is kept there until the weights change).

    Shapes: input (N, in_field.channels, \*S) of any size S, or without N; output (N,
    out_field.channels, \*out); `weight` (free weights,): for each representation of the output,
    then of the input, (blocks, output copies, input copies, orbits); `bias` (copies that can
    have one,). Exact: with integer-valued weights and inputs both sides of ``act(g, layer(x)) ==
    layer(act(g, x))`` are equal to the last bit, if the sampling grid is centred: stride s needs
    ``(S + 2 p - d (k - 1) - 1) % s == 0`` on every axis that the group reverses. Off-centre sizes
    warn once (`OffCentreWarning`).

    Args:
        in_field: What the channels of the input mean, such as ``C4.trivial(3)``.
        out_field: The same for the output, over the same group.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next three.
        stride: Step between outputs, in input positions.
        padding: Positions added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps, in input positions.
        groups: Blocks of copies that see only each other; each field must be that many equal
            blocks of neighbouring copies.
        bias: Add a learned bias, one per copy of a representation with an invariant vector
            (trivial, regular, quotient)? By default wherever there is one. True insists that the
            output has at least one; copies without (sign, vector) never get any.
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".
        device: Where the parameters lie.
        dtype: Their type.
        align: Pad both ends further (in the padding mode) where the sampling grid would be
            off-centre, instead of warning.

    Raises:
        StructureError: The fields have different groups or another dimension than the layer; the
            group exchanges axes on which the window differs, or reverses one that is padded more
            at one end; `bias=True` for a field without invariant vectors; or (when called) the
            input has other channels, or `align` cannot centre it.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> C4 = parse("C4")
        >>> lift = GroupConv2d(C4.trivial(1), C4.regular(8), kernel_size=3, padding=1)
        >>> lift
        GroupConv2d(C4.trivial(1), C4.regular(8), kernel_size=3, padding=1)
        >>> lift.weight.shape, lift.bias.shape, lift(torch.zeros(5, 1, 9, 9)).shape
        (torch.Size([72]), torch.Size([8]), torch.Size([5, 32, 9, 9]))

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016); Cohen and Welling,
        Steerable CNNs (2017); Weiler and Cesa, General E(2)-equivariant steerable CNNs (2019);
        Winkels and Cohen, 3D G-CNNs for pulmonary nodule detection (2018).
    """

    dimension: ClassVar[int]
    bias: nn.Parameter | None

    def __init__(
        self,
        in_field: Field,
        out_field: Field,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        align: bool = False,
    ):
        super().__init__()
        window = Window.of(self.dimension, kernel_size, stride, padding, dilation, padding_mode)
        self._configure(in_field, out_field, window, groups)
        self.padding = padding if isinstance(padding, str) else self._entries(padding, "padding")
        self.align = align
        self._tie(in_field, out_field, bias, device, dtype)

    # Construction, shared with the transpose

    def _entries(self, value: Size, name: str) -> tuple[int, ...]:
        return per_axis(value, self.dimension, name, 0)

    def _configure(self, in_field: Field, out_field: Field, window: Window, groups: int) -> None:
        for name, field in (("in_field", in_field), ("out_field", out_field)):
            if not isinstance(field, Field) or field.channels == 0:
                raise StructureError(f"{name} as a field, such as C4.regular(8)", repr(field))
        if in_field.group != out_field.group:
            raise StructureError(
                "two fields of one group",
                f"{in_field} and {out_field}",
                "bring both to a common subgroup with .restrict(subgroup)",
            )
        self.groups = per_axis(groups, 1, "groups")[0]
        check_window(window, in_field.group)
        self.in_field, self.out_field, self.window = in_field, out_field, window
        self.in_channels, self.out_channels = in_field.channels, out_field.channels
        self.kernel_size, self.stride = window.kernel_size, window.stride
        self.dilation, self.padding_mode = window.dilation, window.padding_mode

    def _tie(
        self, rows: Field, columns: Field, bias: bool | None, device: Any, dtype: Any
    ) -> None:
        """Tables and parameters; the filter is (columns, rows // groups, *kernel)."""
        point = (1,) * self.dimension
        self._filter = Filter.of(rows, columns, self.kernel_size, self.groups)
        scalar = self.out_field.group.trivial(1)
        self._offset = Filter.of(scalar, self.out_field, point)
        self._expanded: tuple[Any, ...] | None = None
        if bias and not self._offset.count:
            raise StructureError(
                "a field with an invariant vector (trivial, regular, quotient) for bias=True",
                str(self.out_field),
                "a bias would break the symmetry: leave it out or give bias=False",
            )
        biases = 0 if bias is False else self._offset.count
        self.weight = nn.Parameter(torch.empty(self._filter.count, device=device, dtype=dtype))
        free = torch.empty(biases, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(free) if biases else None)
        for name, block in self._named_blocks():
            for part, table in zip(Tables._fields, _tables(block.orbits), strict=True):
                here = table if table is None else table.to(self.weight.device)
                self.register_buffer(f"_{name}_{part}", here, persistent=False)
        self.reset_parameters()
'''
