"""What an operation does to the axes of a feature: from the layouts of inputs to the output's.

Only where an axis goes is asked for here, never what an operation does to values: that is measured.
An operation without a rule loses the axes, and what follows is not measured until they are known
again; nothing is taken for granted because a shape happens to fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from symconv.auditing.equivariance.combined import broadcast, einsum, fits, joined, linear, product
from symconv.auditing.equivariance.layout import CHANNELS, Digit, Layout, LostError
from symconv.auditing.equivariance.operations import ORDERS, SHAPES, Operation, argument
from symconv.auditing.equivariance.rearranged import (
    dims,
    expanded,
    indexed,
    order,
    part_of_field,
    picked,
    summed,
)
from symconv.lattice.representations import Field

_SUMS = {
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "logsumexp", "prod",
    "nanmean", "nansum", "median", "all", "any", "argmax", "argmin",
}  # fmt: skip
_PICKS = {"unbind", "select"}
_LOSING = re.compile(
    r"fft|linalg|sort|topk|gather|scatter|unfold|fold|as_strided|stft|histc|unique|index|take|"
    r"diag|tril|triu|outer|cross|kron|repeat|tile|bucketize|grid_sample|Fold|multi_head"
)
_CONTRACTS = re.compile(r"conv|linear|bilinear|baddbmm|addmm", re.IGNORECASE)
# Layers that torch applies to (N, C, *S) only: their name says where channels and space are.
_CHANNELS_FIRST = re.compile(
    r"(conv|pool|batchnorm|instancenorm|batch_norm|connected).*?(?P<n>[123])d", re.IGNORECASE
)


def follow(op: Operation, given: Sequence[tuple[Tensor, Layout]], out: Tensor) -> Layout:
    """The layout of an operation's output.

    Args:
        op: The operation.
        given: Its inputs that are features, in order, with their layouts.
        out: One of its outputs.

    Raises:
        LostError: There is no rule for it.
    """
    first, layout = given[0]
    if op.module is not None:
        return _follow_module(op, op.module, first, layout, out)
    name = op.name
    if name in ORDERS:
        return layout.permuted(order(op, first))
    if name in SHAPES:
        return layout.reshaped(tuple(out.shape))
    if name in ("expand", "expand_as", "broadcast_to"):
        return expanded(layout, tuple(out.shape))
    if name in ("getitem", "index") and len(given) == 1:
        return indexed(layout, op.args[1], out)
    if name in _PICKS:
        return picked(layout, argument(op, 1, "dim", 0))
    if name in _SUMS and out.shape != first.shape and len(given) == 1:
        return summed(layout, dims(op, first.ndim), out)
    if name in ("matmul", "bmm", "mm"):
        return product(op.args[0], op.args[1], dict(_by_id(given)), out)
    if name == "einsum":
        return einsum(op, dict(_by_id(given)), out)
    if name == "scaled_dot_product_attention":
        values = dict(_by_id(given)).get(id(op.args[2] if len(op.args) > 2 else None))
        last = values.axes[-1] if values else (Digit(CHANNELS, out.shape[-1]),)
        return layout.with_axis(len(layout.axes) - 1, last).plain()
    if name in ("cat", "concat", "concatenate"):
        return joined(op, dict(_by_id(given)), out)
    if name == "stack":
        dim = argument(op, 1, "dim", 0) % out.ndim
        axes, lead = list(layout.axes), list(layout.lead)
        axes.insert(dim, (Digit("-", out.shape[dim]),))
        lead.insert(dim, 0)
        return layout.with_axes(axes, lead)
    if name == "linear":
        return linear(layout, out)
    if _LOSING.search(name) or _LOSING.search(str(getattr(op.again, "__module__", ""))):
        raise LostError(name)
    if fits(given, out) and not _CONTRACTS.search(name):
        return broadcast([g for _, g in given], out)
    return _resized(op, layout, out, contracts=bool(_CONTRACTS.search(name)))


def _by_id(given: Sequence[tuple[Tensor, Layout]]) -> list[tuple[int, Layout]]:
    return [(id(tensor), layout) for tensor, layout in given]


def guess(name: str, out: Tensor, size: Sequence[int]) -> Layout | None:
    """Where the axes were lost, and a layer that takes channels first knows them again."""
    found = _CHANNELS_FIRST.search(name)
    if found is None or int(found["n"]) != len(size):
        return None
    return first_channels(out, size)


def first_channels(out: Tensor, size: Sequence[int], field: Field | None = None) -> Layout | None:
    """The layout of a map (N, C, *S) or a vector (N, C), strides from its size."""
    if out.ndim == 2 + len(size):
        strides = [_ratio(s, n) for s, n in zip(size, out.shape[2:], strict=True)]
        return Layout.channels_first(out.shape, strides, field)
    if out.ndim == 2:
        return Layout(((Digit("n", out.shape[0]),), (Digit(CHANNELS, out.shape[1]),)), (), field)
    return None


# Layers


def _follow_module(
    op: Operation, module: nn.Module, first: Tensor, layout: Layout, out: Tensor
) -> Layout:
    kind = op.name
    if isinstance(module, (nn.Flatten, nn.Unflatten)):
        return layout.reshaped(tuple(out.shape))
    if _LOSING.search(kind):
        raise LostError(kind)
    weights: Any = getattr(module, "weight", None)
    heavy = isinstance(weights, Tensor) and weights.ndim > 1
    heavy |= any(isinstance(p, Tensor) and p.ndim > 1 for p in module._parameters.values())
    if isinstance(module, (nn.Linear, nn.MultiheadAttention, nn.RNNBase)) or kind in (
        "SparseLinear", "NonDynamicallyQuantizableLinear",
    ):  # fmt: skip
        if isinstance(module, nn.MultiheadAttention) and out.shape != first.shape:
            raise LostError("attention weights")
        return linear(layout, out)
    if out.shape == first.shape and not heavy:
        result = layout
    else:
        result = _resized(op, layout, out, contracts=heavy)
    declared = getattr(module, "out_field", None) or getattr(module, "field", None)
    axis = result.axis_of(CHANNELS)
    if axis is not None and isinstance(declared, Field) and declared.channels == out.shape[axis]:
        return replace(result, field=declared, sure=True)
    return result


def _resized(op: Operation, layout: Layout, out: Tensor, contracts: bool) -> Layout:
    """The same axes with other sizes: windows, pooling, resampling, slices."""
    if out.ndim != len(layout.axes):
        raise LostError(op.name)
    steps = _steps(op, out.ndim - 2)
    result = layout.plain() if contracts else layout
    for axis, (old, new) in enumerate(zip(layout.shape, out.shape, strict=True)):
        kinds, digits = layout.kinds(axis), layout.axes[axis]
        single = len(digits) == 1 and not layout.lead[axis]
        step = steps[axis - 2] if steps and axis >= 2 else None
        if kinds <= {CHANNELS}:
            if old != new or contracts:
                result = result.with_axis(axis, (Digit(CHANNELS, new),))
                if not contracts and layout.field is not None and old != new:
                    result = part_of_field(result, old, new)
        elif single and kinds <= {"s", "t"}:
            step = step if step is not None else _ratio(old, new, _is_resampling(op.name))
            if step != 1 or old != new:
                digit = replace(digits[0], size=new)
                if digit.weight != 1:
                    raise LostError(op.name)
                result = result.with_axis(axis, (digit,)).scaled(digit.label, Fraction(step))
        elif old != new:
            if not (single and kinds <= {"-"}):
                raise LostError(op.name)
            result = result.with_axis(axis, (Digit("-", new),))
    return result


def _is_resampling(name: str) -> bool:
    return bool(re.search("interpolate|upsample|adaptive", name, re.IGNORECASE))


def _steps(op: Operation, dimension: int) -> list[Fraction] | None:
    """The stride that a window operation was told."""
    name = op.name.lower()
    if not re.search("conv|pool|connected", name) or "adaptive" in name or "fractional" in name:
        return None
    stride: Any
    if op.module is not None:
        stride = getattr(op.module, "stride", None) or getattr(op.module, "kernel_size", None)
    elif "conv" in name:
        stride = argument(op, 3, "stride", 1)
    else:
        stride = argument(op, 2, "stride", None) or argument(op, 1, "kernel_size", None)
    if isinstance(stride, int):
        stride = (stride,) * dimension
    if not isinstance(stride, (tuple, list)) or not all(isinstance(s, int) for s in stride):
        return None
    stride = (*stride,) * (dimension if len(stride) == 1 else 1)
    if len(stride) != dimension:
        return None
    transposed = "transpose" in name
    return [Fraction(1, s) if transposed else Fraction(s) for s in stride]


def _ratio(old: int, new: int, exact: bool = False) -> Fraction:
    """Old positions per new one; a border that was cut off or added does not count."""
    if new == 0:
        return Fraction(1)
    if exact or old % new == 0 or new % old == 0:
        return Fraction(old, new)
    return Fraction(round(old / new)) if old > new else Fraction(1, round(new / old))
