"""Which nonlinearities a field allows channel by channel."""

from __future__ import annotations

from typing import Any

from torch import nn

from symconv.errors import StructureError
from symconv.lattice.representations import Field

# f(-x) is neither f(x) nor -f(x): a channel that changes sign would come out otherwise.
_LOPSIDED = (
    nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardsigmoid, nn.Hardswish, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus,
    nn.Threshold,
)  # fmt: skip
# Nor do these commute with a sign, though they look at other positions or channels too.
_UNSIGNED = (
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d, nn.LogSoftmax, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Softmax,
    nn.Softmax2d, nn.Softmin,
)  # fmt: skip


def check_pointwise(module: nn.Module, field: Field) -> None:
    """Refuse a network that applies a pointwise nonlinearity where it breaks equivariance.

    A nonlinearity that acts on each channel alone commutes with permutations of channels, but with
    a change of sign only if it is odd, such as `nn.Tanh`. So ReLU and its kin, max pools and
    softmaxes are refused on fields with signs (`sign`, `vector`), and so is a `nn.PReLU` with a
    slope per channel on any field whose group exchanges channels. Modules are visited in the order
    of `module.modules()`; each layer with an `out_field`, unless it holds other layers, sets the
    field of those that follow. Functional calls are not seen.

    Args:
        module: A nonlinearity, or a network of layers in order (`nn.Sequential`).
        field: The field of its input.

    Raises:
        StructureError: Names the nonlinearity and the field; or `field` is none.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> D4 = parse("D4")
        >>> check_pointwise(nn.ReLU(), D4.regular(8))
        >>> check_pointwise(nn.Tanh(), D4.vector(8))
        >>> check_pointwise(nn.ReLU(), D4.vector(8))
        Traceback (most recent call last):
            ...
        symconv.errors.StructureError: expected an odd nonlinearity on D4.vector(8), whose \
channels change sign, got ReLU(); use an odd one such as Tanh, a gate or a norm nonlinearity, or \
a regular field
    """
    if not isinstance(field, Field):
        raise StructureError("a field, such as C4.regular(8)", repr(field))
    for name, part in module.named_modules(remove_duplicate=False):
        following: Any = getattr(part, "out_field", None)
        # a container's is that of its last layer, and its layers come after it
        if isinstance(following, Field) and not part._modules.keys() - {"parametrizations"}:
            field = following
        where = f"{part} at {name!r}" if name else f"{part}"
        lopsided_tanh = isinstance(part, nn.Hardtanh) and part.min_val != -part.max_val
        if field.signed and (isinstance(part, _LOPSIDED) or lopsided_tanh):
            raise StructureError(
                f"an odd nonlinearity on {field}, whose channels change sign",
                where,
                "use an odd one such as Tanh, a gate or a norm nonlinearity, or a regular field",
            )
        if field.signed and isinstance(part, _UNSIGNED):
            raise StructureError(
                f"layers that commute with signs on {field}, whose channels change sign",
                where,
                "use an average pool, a GroupPool before it, or a regular field",
            )
        slopes = part.num_parameters if isinstance(part, nn.PReLU) else 1
        if slopes > 1 and (field.permutation != field.permutation[:1]).any():
            raise StructureError(
                f"one slope for all channels of {field}, which its group exchanges",
                where,
                "give num_parameters=1",
            )
