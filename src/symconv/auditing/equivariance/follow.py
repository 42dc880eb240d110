"""What an operation does to the axes of a feature: rules from the layouts of inputs to the output's.

Only where an axis goes is asked for here, never what an operation does to values: that is measured.
An operation without a rule loses the axes, and what follows is not measured until they are known
again; nothing is taken for granted because a shape happens to fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from symconv.auditing.equivariance.layout import CHANNELS, Axis, Digit, Layout, LostError
from symconv.lattice.representations import Field

_ORDERS = {
    "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "T", "mT", "H", "mH",
    "adjoint", "t",
}  # fmt: skip
_SHAPES = {
    "view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze",
    "ravel",
}  # fmt: skip
_SUMS = {
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "logsumexp", "prod",
    "nanmean", "nansum", "median", "all", "any", "argmax", "argmin",
}  # fmt: skip
_SLICES = {"chunk", "split", "narrow", "tensor_split", "split_with_sizes", "slice"}
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
# What a copy of a feature, or the same feature on other axes, is called: it is no layer.
REARRANGE = _ORDERS | _SHAPES | {
    "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "expand",
    "expand_as", "broadcast_to", "data", "unbind", "chunk", "split", "alias", "lift_fresh",
    "_unsafe_view", "requires_grad_", "cpu", "cuda", "type_as", "split_with_sizes", "__get__",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One call of a function or of a layer.

    Attributes:
        name: The function's name, or the layer's class.
        again: Does it once more, with other arguments.
        args: Positional arguments.
        kwargs: Arguments by name.
        module: The layer, if it is one.
    """

    name: str
    again: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None = None


def plain_name(func: Any) -> str:
    """The usual name of a function: "add" for ``x += y``, "mT" for the property.

    Example:
        >>> plain_name(torch.Tensor.add_), plain_name(torch.ops.aten.add.Tensor)
        ('add', 'add')
    """
    name = getattr(func, "__name__", None) or str(func)
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    if isinstance(func, torch._ops.OpOverload):
        name = name.split(".")[0]
    name = name.removesuffix("_with_indices")
    if name.startswith("__"):
        name = name.strip("_")
        return name[1:] if name in ("iadd", "isub", "imul", "itruediv", "radd", "rsub", "rmul",
                                    "rtruediv", "rmatmul", "rpow") else name  # fmt: skip
    return name.rstrip("_").lstrip("_") if name not in REARRANGE else name


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
    if name in _ORDERS:
        return layout.permuted(_order(op, first))
    if name in _SHAPES:
        return layout.reshaped(tuple(out.shape))
    if name in ("expand", "expand_as", "broadcast_to"):
        return _expanded(layout, tuple(out.shape))
    if name in ("getitem", "index") and len(given) == 1:
        return _indexed(layout, op.args[1], out)
    if name in _PICKS:
        return _picked(layout, _argument(op, 1, "dim", 0))
    if name in _SUMS and out.shape != first.shape and len(given) == 1:
        return _summed(layout, _dims(op, first.ndim), out)
    if name in ("matmul", "bmm", "mm"):
        return _product(op.args[0], op.args[1], dict(_by_id(given)), out)
    if name == "einsum":
        return _einsum(op, dict(_by_id(given)), out)
    if name == "scaled_dot_product_attention":
        values = dict(_by_id(given)).get(id(op.args[2] if len(op.args) > 2 else None))
        last = values.axes[-1] if values else (Digit(CHANNELS, out.shape[-1]),)
        return layout.with_axis(len(layout.axes) - 1, last).plain()
    if name in ("cat", "concat", "concatenate"):
        return _joined(op, dict(_by_id(given)), out)
    if name == "stack":
        dim = _argument(op, 1, "dim", 0) % out.ndim
        axes, lead = list(layout.axes), list(layout.lead)
        axes.insert(dim, (Digit("-", out.shape[dim]),))
        lead.insert(dim, 0)
        return layout.with_axes(axes, lead)
    if name == "linear":
        return _linear(layout, out)
    if _LOSING.search(name) or _LOSING.search(str(getattr(op.again, "__module__", ""))):
        raise LostError(name)
    if _fits(given, out) and not _CONTRACTS.search(name):
        return _broadcast([g for _, g in given], out)
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
        return _linear(layout, out)
    if out.shape == first.shape and not heavy:
        result = layout
    else:
        result = _resized(op, layout, out, contracts=heavy)
    declared = getattr(module, "out_field", None) or getattr(module, "field", None)
    axis = result.axis_of(CHANNELS)
    if isinstance(declared, Field) and axis is not None:
        if declared.channels == out.shape[axis]:
            return replace(result, field=declared, sure=True)
    return result


def _linear(layout: Layout, out: Tensor) -> Layout:
    axis = len(layout.axes) - 1
    size, kinds = out.shape[-1], layout.kinds(axis)
    if out.ndim != len(layout.axes):
        raise LostError("a linear layer")
    if kinds <= {CHANNELS, "-"} or CHANNELS in kinds:
        return layout.with_axis(axis, (Digit(CHANNELS, size),)).plain()
    if size == layout.shape[-1]:
        return layout.plain()  # it mixes positions
    other = layout.axis_of(CHANNELS) is not None
    return layout.with_axis(axis, (Digit("-" if other else CHANNELS, size),)).plain()


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
                    result = _part_of_field(result, old, new)
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


def _part_of_field(layout: Layout, old: int, new: int) -> Layout:
    """Some neighbouring channels of a field: one of equal blocks, or it is not known what."""
    if layout.field is not None and old % max(new, 1) == 0:
        try:
            return replace(layout, field=layout.field.split(old // new))
        except ValueError:
            pass
    return replace(layout, field=None, sure=False)


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
        stride = _argument(op, 3, "stride", 1)
    else:
        stride = _argument(op, 2, "stride", None) or _argument(op, 1, "kernel_size", None)
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


# Functions


def _argument(op: Operation, place: int, name: str, default: Any) -> Any:
    return op.args[place] if len(op.args) > place else op.kwargs.get(name, default)


def _order(op: Operation, x: Tensor) -> list[int]:
    """Which axis comes where: the function itself says so, on a tensor of unlike sizes."""
    sizes = [2 + i for i in range(x.ndim)]
    with torch._C.DisableTorchFunction():
        probe = torch.empty(sizes, device="meta")
        moved = op.again(probe, *op.args[1:], **op.kwargs)
    return [sizes.index(n) for n in moved.shape]


def _expanded(layout: Layout, shape: tuple[int, ...]) -> Layout:
    new = len(shape) - len(layout.axes)
    axes: list[Axis] = [(Digit("-", n),) for n in shape[:new]]
    result = layout
    for old, digits, size in zip(layout.shape, layout.axes, shape[new:], strict=True):
        if old != size:
            label = digits[0].label if len(digits) == 1 else "-"
            digits = (Digit(label, size),)
            result = result.scaled(label, Fraction(1, size))
        axes.append(digits)
    return result.with_axes(axes, (0,) * new + layout.lead)


def _indexed(layout: Layout, index: Any, out: Tensor) -> Layout:
    index = list(index) if isinstance(index, tuple) else [index]
    if not all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index):
        raise LostError("an index of positions")
    used = sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis not in index:
        index.append(Ellipsis)
    fill = index.index(Ellipsis)
    index[fill : fill + 1] = [slice(None)] * (len(layout.axes) - used)
    result, axis = layout, 0
    for i in index:
        if i is None:
            axes, lead = list(result.axes), list(result.lead)
            axes.insert(axis, (Digit("-", 1),))
            lead.insert(axis, 0)
            result = result.with_axes(axes, lead)
        elif isinstance(i, int):
            result = _picked(result, axis, i)
            continue
        else:
            result = _sliced(result, axis, i, out.shape[axis])
        axis += 1
    return result


def _picked(layout: Layout, axis: int, at: int | None = None) -> Layout:
    """One entry of an axis."""
    axis %= len(layout.axes)
    kinds, lead = layout.kinds(axis), layout.lead[axis]
    if lead and at is not None and 0 <= at < lead:
        return layout.without({axis})
    if kinds & {"s", "t"}:
        raise LostError("one position is picked")
    result = layout.without({axis})
    if CHANNELS in kinds and layout.field is not None:
        return replace(result, field=None, sure=False)
    return result


def _sliced(layout: Layout, axis: int, part: slice, size: int) -> Layout:
    step = part.step or 1
    old, lead, digits = layout.shape[axis], layout.lead[axis], layout.axes[axis]
    if size == old and step == 1:
        return layout
    if lead:
        if part.start == lead and step == 1 and size == old - lead:
            return layout.with_axis(axis, digits)
        raise LostError("part of an axis with class tokens")
    if len(digits) != 1 or digits[0].weight != 1:
        raise LostError("part of an axis made of several")
    result = layout.with_axis(axis, (replace(digits[0], size=size),))
    if digits[0].label == CHANNELS and layout.field is not None:
        return _part_of_field(result, old, size)
    return result.scaled(digits[0].label, Fraction(step))


def _dims(op: Operation, ndim: int) -> set[int]:
    dims = op.kwargs.get("dim", op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None))
    if isinstance(dims, int):
        dims = [dims]
    if not dims:
        return set(range(ndim))
    return {int(d) % ndim for d in dims}


def _summed(layout: Layout, dims: set[int], out: Tensor) -> Layout:
    result = layout
    if any(CHANNELS in layout.kinds(a) for a in dims) and layout.field is not None:
        result = replace(result, field=None, sure=False)
    if out.ndim == len(layout.axes):
        for a in dims:
            digits = layout.axes[a]
            label = digits[0].label if len(digits) == 1 else "-"
            result = result.with_axis(a, (Digit(label, 1),)).scaled(label, Fraction(_size(digits)))
    elif out.ndim == len(layout.axes) - len(dims):
        result = result.without(dims)
    else:
        raise LostError("a sum")
    return _coarser(result)


def _size(axis: Axis) -> int:
    return math.prod(d.size for d in axis)


def _coarser(layout: Layout) -> Layout:
    """Where the lowest digits of a label were summed over, the others count coarser positions."""
    for label, _ in layout.strides:
        weights = [d.weight for a in layout.axes for d in a if d.label == label and d.size > 1]
        least = min(weights, default=1)
        if least > 1:
            axes = [
                tuple(replace(d, weight=d.weight // least) if d.label == label else d for d in axis)
                for axis in layout.axes
            ]
            layout = layout.with_axes(axes, layout.lead).scaled(label, Fraction(least))
    return layout


def _fits(given: Sequence[tuple[Tensor, Layout]], out: Tensor) -> bool:
    """Whether the output is as large as its inputs broadcast together."""
    try:
        return torch.broadcast_shapes(*(t.shape for t, _ in given)) == out.shape or any(
            t.shape == out.shape for t, _ in given
        )
    except RuntimeError:
        return False


def _broadcast(layouts: Sequence[Layout], out: Tensor) -> Layout:
    """An elementwise operation: each axis from the input that varies along it."""
    axes, lead = list[Axis](), list[int]()
    for place in range(-out.ndim, 0):
        found = [g for g in layouts if len(g.axes) >= -place and g.shape[place] == out.shape[place]]
        if not found:
            raise LostError("shapes that do not fit")
        known = [g for g in found if g.kinds(place % len(g.axes)) & {CHANNELS, "s", "t"}]
        best = (known or found)[0]
        axes.append(best.axes[place])
        lead.append(best.lead[place])
    strides = {label: s for g in reversed(layouts) for label, s in g.strides}
    fields = [g.field for g in layouts if g.field is not None]
    sure = all(g.sure for g in layouts)
    if len({f.channels for f in fields}) > 1:
        fields, sure = [], False
    return Layout(
        tuple(axes), tuple(strides.items()), fields[0] if fields else None, sure, tuple(lead)
    )


def _joined(op: Operation, known: dict[int, Layout], out: Tensor) -> Layout:
    """Concatenation: more channels, or class tokens before the positions."""
    parts = op.args[0] if op.args else op.kwargs["tensors"]
    dim = _argument(op, 1, "dim", 0) % out.ndim
    layouts = [known.get(id(p)) for p in parts]
    most = max((g for g in layouts if g is not None), key=lambda g: "s" in g.kinds(dim))
    kinds = most.kinds(dim)
    if kinds <= {CHANNELS, "-"}:
        label = CHANNELS if CHANNELS in kinds else "-"
        result = most.with_axis(dim, (Digit(label, out.shape[dim]),))
        fields = [g.field if g is not None else None for g in layouts]
        if label != CHANNELS or not any(fields):
            return replace(result, sure=all(g is None or g.sure for g in layouts))
        group = next(f for f in fields if f is not None).group
        sizes = [p.shape[dim] for p in parts]
        whole = [f or group.trivial(n) for f, n in zip(fields, sizes, strict=True)]
        if any(f.group != group for f in whole):
            return replace(result, field=None, sure=False)
        return replace(result, field=sum(whole))
    before = [i for i, g in enumerate(layouts) if g is None or not g.kinds(dim) & {"s", "t"}]
    if before != list(range(len(parts) - 1)):
        raise LostError("positions joined")
    lead = sum(parts[i].shape[dim] for i in before) + most.lead[dim]
    return most.with_axis(dim, most.axes[dim], lead)


# Products of two features


def _product(a: Tensor, b: Tensor, known: dict[int, Layout], out: Tensor) -> Layout:
    left, right = known.get(id(a)), known.get(id(b))
    if left is not None and right is None:
        if out.ndim != len(left.axes):
            raise LostError("a product with a vector")
        return _linear(left, out)
    if a.ndim < 2 or b.ndim < 2:
        raise LostError("a product with a vector")
    if left is None:
        assert right is not None
        if out.ndim != len(right.axes):
            raise LostError("a product")
        order = [*range(out.ndim - 2), out.ndim - 1, out.ndim - 2]
        return _linear(right.permuted(order), out.mT).permuted(order)
    assert right is not None
    batch = left if a.ndim >= b.ndim else right
    axes = [*batch.axes[:-2], left.axes[-2], right.axes[-1]]
    lead = [*batch.lead[:-2], left.lead[-2], right.lead[-1]]
    return _of_two(left, right, axes, lead)


def _of_two(left: Layout, right: Layout, axes: list[Axis], lead: Sequence[int]) -> Layout:
    """Axes from two features; a position of the second beside one of the first gets a new label."""
    strides, seen = dict(left.strides), set[tuple[str, int]]()
    for label, stride in right.strides:
        strides.setdefault(label, stride)
    for place, axis in enumerate(axes):
        digits = {(d.label, d.weight) for d in axis if d.size > 1}
        if any(label[0] in "sc" for label, _ in digits & seen):
            axes[place] = tuple(replace(d, label=_second(d.label)) for d in axis)
            for label, stride in right.strides:
                strides.setdefault(_second(label), stride)
        seen |= digits
    sure = left.sure and right.sure and left.field is None and right.field is None
    result = Layout(tuple(axes), tuple(strides.items()), None, sure, tuple(lead))
    for label, _ in right.strides:
        if result.total(_second(label)) not in (1, right.total(label)):
            raise LostError("positions within windows, beside others")
    return result


def _second(label: str) -> str:
    return f"t{label[1:]}" if label[0] == "s" else "-"


def _einsum(op: Operation, known: dict[int, Layout], out: Tensor) -> Layout:
    equation, *operands = op.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        raise LostError("einsum")
    inputs, output = equation.replace(" ", "").split("->")
    terms, letters = inputs.split(","), dict[str, tuple[Axis, int]]()
    layouts = [known.get(id(operand)) for operand in operands]
    for term, layout in zip(terms, layouts, strict=True):
        if layout is not None:
            pairs = zip(layout.axes, layout.lead, strict=True)
            letters = dict(zip(term, pairs, strict=True)) | letters
    sizes = dict(zip(output, out.shape, strict=True))
    found = [g for g in layouts if g is not None]
    channels = any(digit.label == CHANNELS for x in output if x in letters
                   for digit in letters[x][0])  # fmt: skip
    new = "-" if channels else CHANNELS
    axes = [letters[x][0] if x in letters else (Digit(new, sizes[x]),) for x in output]
    lead = [letters[x][1] if x in letters else 0 for x in output]
    return _of_two(found[0], found[-1], axes, lead)
