"""Norms: statistics over valid cells, of the whole batch or of one item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.errors import StructureError
from symconv.ragged.check import layer, refused
from symconv.ragged.extent import Extent
from symconv.ragged.functions._steps import with_channels
from symconv.ragged.packed import ZERO, Packed
from symconv.ragged.valid import BATCH, Valid, product, zeroed


def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch norm over all valid cells of the batch, whatever the packing."""
    x = with_channels(input, "batch_norm")
    steps = running_mean, running_var, weight, bias
    if not training:
        x = x.tame()
        rest = weight, bias, running_mean, running_var, False, momentum, eps
        fast = torch.backends.cudnn.enabled
        return x.remade([torch.batch_norm(c, *rest, fast) for c in x.canvases])
    count: Any = sum(x.counted(v).sum() for v in x.valid)
    if not torch.compiler.is_compiling() and (count := int(count)) == 1:
        got = f"a single cell{layer()}"
        raise StructureError("more than one cell in all for batch norm in training", got)
    if len(x.valid) == 1 and x.valid[0].full:
        return x.remade([F.batch_norm(x.canvases[0], *steps, True, momentum, eps)])
    x = x.zeroed()
    joint = _formula if torch.compiler.is_compiling() else _joint
    made, mean, squares = joint(x, weight, bias, count, eps)
    _track(running_mean, running_var, mean, squares / (count - 1), momentum)
    return x.remade(made)


def _formula(
    x: Packed, weight: Tensor | None, bias: Tensor | None, count: Any, eps: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Canvases normalised over all of them, their mean and their squares about it."""
    axes = [0, *x.ragged]
    wide = [_wide(c) for c in x.canvases]
    mean = _total([c.sum(axes) for c in wide]) / count
    centred = [zeroed(c - _along(mean, c), v, x.layout) for c, v in zip(wide, x.valid, strict=True)]
    squares = _total([d.square().sum(axes) for d in centred])
    scale = torch.rsqrt(squares / count + eps)
    made = [_affine(d, scale, weight, bias, x.canvases[0].dtype) for d in centred]
    return made, mean, squares


class _Joint(torch.autograd.Function):
    """`_formula` with few passes over memory, and its gradient in closed form.

    With d the centred input, s = (var + eps) ** -1/2 and means over valid cells,
    ``dx = w s (g - mean(g) - d s**2 mean(g d))``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Packed, weight: Any, bias: Any, count: int, eps: float, *canvases: Tensor
    ) -> Any:
        made, mean, squares = _formula(x.remade(canvases, padding=ZERO), weight, bias, count, eps)
        ctx.x, ctx.count, ctx.eps = x.remade((), padding=ZERO), count, eps
        ctx.save_for_backward(weight, bias, mean, squares, *canvases)
        ctx.mark_non_differentiable(mean, squares)
        return (mean, squares, *made)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        weight, bias, mean, squares, *canvases = ctx.saved_tensors
        given = grads[2:]
        if torch.is_grad_enabled():  # a second derivative is asked for
            return _through_formula(ctx, weight, bias, canvases, given)
        x, axes = ctx.x, [0, *ctx.x.ragged]
        scale = torch.rsqrt(squares / ctx.count + ctx.eps)
        pairs = list(zip(canvases, given, strict=True))
        centred = [_wide(c) - _along(mean, c) for c, _ in pairs]
        wide = [_wide(g) for _, g in pairs]
        sums = _total([g.sum(axes) for g in wide])
        products = _total([(g * d).sum(axes) for g, d in zip(wide, centred, strict=True)])
        factor = scale if weight is None else scale * weight
        slope, shift = -factor * scale.square() * products / ctx.count, -factor * sums / ctx.count
        inputs = []
        for c, d, g, v in zip(canvases, centred, wide, x.valid, strict=True):
            dx = torch.addcmul(_along(shift, c), g, _along(factor, c)).addcmul_(d, _along(slope, c))
            inputs.append(zeroed(dx.to(c.dtype), v, x.layout))
        by_weight = None if weight is None else (products * scale).to(weight.dtype)
        by_bias = None if bias is None else sums.to(bias.dtype)
        return (None, by_weight, by_bias, None, None, *inputs)


def _through_formula(ctx: Any, weight: Any, bias: Any, canvases: Any, grads: Any) -> Any:
    made, _, _ = _formula(ctx.x.remade(canvases, padding=ZERO), weight, bias, ctx.count, ctx.eps)
    inputs = [t for t in (weight, bias, *canvases) if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(made, inputs, grads, create_graph=True))
    every = [
        next(found) if t is not None and t.requires_grad else None
        for t in (weight, bias, *canvases)
    ]
    return (None, *every[:2], None, None, *every[2:])


def _joint(
    x: Packed, weight: Tensor | None, bias: Tensor | None, count: int, eps: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    given: Any = (x, weight, bias, count, eps, *x.canvases)
    mean, squares, *made = _Joint.apply(*given)  # pyright: ignore[reportGeneralTypeIssues]
    return made, mean, squares


def _in_aten_order(
    input: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _wide(x: Tensor) -> Tensor:
    """In at least single precision, for sums."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _total(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values of the channels, broadcastable to x (N, C, *S)."""
    return values.view(-1, *[1] * (x.ndim - 2))


def _affine(
    x: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``x * scale * weight + bias``, with a scale for each channel, in this type."""
    factor = _along(scale if weight is None else scale * weight, x)
    y = x * factor if bias is None else torch.addcmul(_along(bias, x).to(x.dtype), x, factor)
    return y.to(dtype)


@torch.no_grad()
def _track(
    held_mean: Tensor | None, held_var: Tensor | None, mean: Tensor, var: Tensor, momentum: float
) -> None:
    """Move running statistics towards those of a batch, its variance without bias."""
    for held, new in ((held_mean, mean), (held_var, var)):
        if held is not None:
            held.mul_(1 - momentum).add_(new.to(held.dtype), alpha=momentum)


def _moments(c: Tensor, valid: Valid, x: Packed, first: int, each: int) -> Any:
    """A canvas less its items' means over the axes from `first` on, zero in the padding.

    Args:
        c: The canvas, zero in its padding.
        valid: Its extents.
        x: The batch.
        first: The first of the axes.
        each: Values per cell that the mean goes over.

    Returns:
        The difference, its mean square, and the number of values, broadcastable to `c`.
    """
    axes = list(range(first, c.ndim))
    shape = [-1] + [1] * (c.ndim - 1)
    count = (x.counted(valid) * each).to(c.device, c.dtype).view(shape)
    centred = c - c.sum(axes, keepdim=True) / count
    layout = (*x.layout[:1], *[None] * (c.ndim - x.dim()), *x.layout[1:])
    centred = zeroed(centred, valid, layout)
    return centred, centred.square().sum(axes, keepdim=True) / count, count


def group_norm(
    input: Any,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Group norm: statistics over the valid cells of one item."""
    x = with_channels(input, "group_norm").zeroed()
    channels = x.canvases[0].shape[1]
    if channels % num_groups:
        told = f"{num_groups} groups of {channels} channels"
        raise refused("channels divisible by the number of groups", told, "choose other groups")
    made = []
    for c, v in zip(x.canvases, x.valid, strict=True):
        if v.full:
            made.append(F.group_norm(c, num_groups, weight, bias, eps))
            continue
        grouped = _wide(c).unflatten(1, (num_groups, -1))
        y, square, _ = _moments(grouped, v, x, 2, channels // num_groups)
        made.append(_finish(y * torch.rsqrt(square + eps), c, weight, bias))
    return x.remade(made)


def _finish(y: Tensor, c: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y.reshape(c.shape)
    if weight is not None:
        y = y * _along(weight, c)
    return (y if bias is None else y + _along(bias, c)).to(c.dtype)


def instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Instance norm: statistics over the valid cells of one item and channel."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = with_channels(input, "instance_norm").zeroed()
    made, means, variances = [], [], []
    for c, v in zip(x.canvases, x.valid, strict=True):
        if not torch.compiler.is_compiling() and int(x.counted(v).min()) == 1:
            got = f"an item of a single cell{layer()}"
            raise StructureError("items of more than one cell for instance norm", got)
        y, square, count = _moments(_wide(c), v, x, 2, 1)
        made.append(_finish(y * torch.rsqrt(square + eps), c, weight, bias))
        means.append((_wide(c).sum(x.ragged, keepdim=True) / count).flatten(1))
        variances.append((square * count / (count - 1)).flatten(1))
    _track(
        running_mean, running_var, torch.cat(means).mean(0), torch.cat(variances).mean(0), momentum
    )
    return x.remade(made)


def layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Layer norm over the last axes: those without padding, or all of an item."""

    def whole(c: Tensor, v: Valid, x: Packed, first: int, each: int) -> Tensor:
        y, square, _ = _moments(_wide(c), v, x, first, each)
        return (y * torch.rsqrt(square + eps)).to(c.dtype)

    def alone(c: Tensor) -> Tensor:
        return F.layer_norm(c, tuple(normalized_shape), weight, bias, eps)

    return _over_last("layer_norm", input, normalized_shape, weight, alone, whole)


def rms_norm(
    input: Any, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """Root mean square norm over the last axes: those without padding, or all of an item."""

    def whole(c: Tensor, v: Valid, x: Packed, first: int, each: int) -> Tensor:
        axes, shape = list(range(first, c.ndim)), [-1] + [1] * (c.ndim - 1)
        values, least = _wide(c), torch.finfo(c.dtype).eps if eps is None else eps
        count = (x.counted(v) * each).to(c.device, values.dtype).view(shape)
        square = values.square().sum(axes, keepdim=True) / count
        return (values * torch.rsqrt(square + least)).to(c.dtype)

    def alone(c: Tensor) -> Tensor:
        return F.rms_norm(c, tuple(normalized_shape), weight, eps)

    return _over_last("rms_norm", input, normalized_shape, weight, alone, whole)


def _over_last(name: str, x: Any, shape: Any, weight: Tensor | None, alone: Any, whole: Any) -> Any:
    """A norm over as many last axes as `shape` has."""
    first = x.dim() - len(shape)
    labels = x.layout[first:]
    if all(label is None for label in labels):
        x = x.tame()
        return x.remade([alone(c) for c in x.canvases])
    space = {a for a in range(first, x.dim()) if isinstance(x.layout[a], int)}
    sizes = list(enumerate(shape, first))
    if (
        weight is not None
        or BATCH in labels
        or space != set(x.ragged)
        or not all(isinstance(s, Extent) for a, s in sizes if a in space)
        or not all(x.size_of(a) == s for a, s in sizes)
    ):
        raise refused(
            f"{name} over the channels, or over all of an item without weights",
            f"normalized_shape {tuple(shape)} of {x.described()}",
            "move channels last (as ConvNeXt does), or use nn.GroupNorm(1, channels)",
        )
    x = x.zeroed()
    made = []
    for c, v in zip(x.canvases, x.valid, strict=True):
        each = product(c.shape[a] for a in range(first, c.ndim) if x.layout[a] is None)
        made.append(whole(c, v, x, first, each))
    return x.remade(made)


NORMS = {
    F.batch_norm: batch_norm,
    torch.batch_norm: _in_aten_order,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
}
