"""Pointwise group convolutions in a row, in the Fourier domain from the first to the last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from symconv.errors import StructureError
from symconv.functional import check_input
from symconv.nn._fourier import through_fourier
from symconv.nn.group_conv import _GroupConv


class PointwiseChain(nn.Sequential):
    r"""Group convolutions one after another, with nothing between them: `nn.Sequential` of them.

        y = L_n(... L_1(x))

    A pointwise layer (kernel 1) between regular fields of a cyclic or dihedral group goes through
    the group's Fourier transform where that is quicker; between two such layers the transform back
    and the next one cancel. Here both are left out, as in a bottleneck from many copies to few and
    to many again. Where convolutions are quicker, or a layer is none of these, the layers run one
    by one. State, names and outputs are those of `nn.Sequential`; layers with hooks run one by one.

    Shapes: input (N, channels of the first field, \*S), output (N, channels of the last, \*S).
    Exact as `nn.Sequential` is; on integers with weights of integers for C1, C2, C4, D1, D2, D4.

    Args:
        args: The layers, or one ordered dictionary of them, as `nn.Sequential` takes them.

    Raises:
        StructureError: A layer is no group convolution, or takes another field than the one before
            it gives.

    Example:
        >>> import torch
        >>> from symconv.lattice.groups import parse
        >>> from symconv.nn import GroupConv2d
        >>> D4 = parse("D4")
        >>> wide, narrow = D4.regular(64), D4.regular(8)
        >>> chain = PointwiseChain(GroupConv2d(wide, narrow, 1), GroupConv2d(narrow, wide, 1))
        >>> chain(torch.zeros(8, 512, 16, 16)).shape
        torch.Size([8, 512, 16, 16])
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._check()

    def _check(self) -> list[_GroupConv]:
        layers: list[Any] = list(self)
        for number, layer in enumerate(layers):
            if not isinstance(layer, _GroupConv) or type(layer).forward is not _GroupConv.forward:
                raise StructureError(
                    "group convolutions", f"{layer} at {number}", "chain other layers by Sequential"
                )
            if number and layer.in_field != layers[number - 1].out_field:
                raise StructureError(
                    f"{layers[number - 1].out_field} into layer {number}", str(layer.in_field)
                )
        return layers

    def forward(self, input: Tensor) -> Tensor:
        """The last layer's output."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        layers = self._check()
        if len(layers) > 1 and not any(map(_hooked, layers)):
            first = layers[0]
            check_input(input, first.dimension, first.in_channels, str(first.in_field))
            y = through_fourier(layers, input)
            if y is not None:
                return y
        return super().forward(input)


def _hooked(layer: nn.Module) -> bool:
    return bool(
        _has_any_global_hook()
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
