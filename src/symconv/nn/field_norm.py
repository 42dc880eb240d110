"""Norms for fields: one statistic per copy, so that the group has nothing to tell apart."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.nn._copies import (
    along,
    cat,
    check_channels,
    filled,
    join,
    merge,
    part,
    runs_of,
    split,
    spread,
    traced,
    unsigned,
    wide,
)


class _Summed(torch.autograd.Function):
    """Sum over the processes; so is its gradient (torch 2.6 has no public form that is)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Summed.apply(gradient.contiguous())  # type: ignore[return-value]


def _several_processes() -> bool:
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size() > 1


class FieldBatchNorm(nn.Module):
    r"""Batch norm with one mean and variance per copy of a field's representations.

    Over the batch, the components of a copy and space:

        permutations (trivial, regular, quotient):  y = w (x - mean) / sqrt(var + eps) + b
        signed (sign, vector):                      y = w x / sqrt(mean(x ** 2) + eps)

    A signed copy's mean is not invariant, so it is neither subtracted nor learned. Torch's own
    batch norm, with a mean per channel, breaks the symmetry of regular fields. On trivial fields
    the two are the same. Pure permutations run in torch's fused kernel, at its speed.

    Shapes: input and output (N, field.channels, \*S) with any number of space axes; `weight` and
    `running_var` (copies,), `bias` and `running_mean` (copies that are not signed,). As exact as
    the statistics' sums: in evaluation exactly equivariant, in training up to rounding. Half
    precision is summed in float32.

    Args:
        field: What the channels mean.
        eps: Added to variances.
        momentum: Weight of a new batch in the running statistics; None takes their plain mean.
        affine: Learn w and b?
        track_running_stats: Keep running statistics for evaluation? Otherwise batch statistics
            serve there too.
        device: Where parameters and buffers lie.
        dtype: Their type.
        sync: Where torch.distributed runs several processes, take the statistics of training over
            all of them (as torch's SyncBatchNorm), whose batches may differ in size. All
            processes must then call the layer equally often.

    Raises:
        StructureError: `field` is none, or (when called) the input has other channels, or, in
            training, one value per copy.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> D4 = parse("D4")
        >>> norm = FieldBatchNorm(D4.regular(16) + D4.vector(2))
        >>> norm
        FieldBatchNorm(D4.regular(16) + D4.vector(2))
        >>> norm.weight.shape, norm.bias.shape, norm(torch.rand(4, 132, 8, 8)).shape
        (torch.Size([18]), torch.Size([16]), torch.Size([4, 132, 8, 8]))

    References:
        Ioffe and Szegedy, Batch Normalization (2015); Cohen and Welling, Group equivariant
        convolutional networks (2016), section 6; Weiler and Cesa, General E(2)-equivariant
        steerable CNNs (2019), section 2.6.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Any  # tensors, or None without tracking or (the mean) without plain copies
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        field: Field,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        sync: bool = True,
    ):
        super().__init__()
        self.runs, self.field = runs_of(field), field
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.track_running_stats, self.sync = track_running_stats, sync
        self.signed = any(run.signed for run in self.runs)
        _make_affine(self, affine, device=device, dtype=dtype)
        for name, count in (
            ("running_mean", _unsigned_copies(self)),
            ("running_var", field.copies),
        ):
            held = torch.empty(count, device=device, dtype=dtype) if count else None
            self.register_buffer(name, held if track_running_stats else None)
        seen = torch.zeros((), dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", seen)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the batches seen: mean zero, variance one."""
        for held, value in ((self.running_mean, 0), (self.running_var, 1)):
            if held is not None:
                held.fill_(value)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set w to one, b to zero, and forget the batches seen."""
        self.reset_running_stats()
        _reset_affine(self)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input (N, field.channels, *S), in its type."""
        check_channels(x, self.runs, self.field)
        if not self.training and self.running_var is not None:
            return self.compute(x)
        together = self.training and self.sync and _several_processes()
        if self.signed or together:
            return self._defined(x, together)
        if self.training and x.numel() * self.runs[0].size == x.shape[1]:
            raise StructureError("more than one value per copy in training", tuple(x.shape))
        return self._fused(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` in evaluation, by running statistics, without its check."""
        mean, var, weight, bias = self._per_channel()
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)

    def _per_channel(self) -> tuple[Tensor | None, ...]:
        """Running mean (zero where signed) and variance, weight and bias, for each channel."""
        mean = self.running_var[:0] if self.running_mean is None else self.running_mean
        bias = None if self.bias is None else filled(self.bias, self.runs)
        values = filled(mean, self.runs), self.running_var, self.weight, bias
        return tuple(None if v is None else spread(v, self.runs) for v in values)

    def _fused(self, x: Tensor) -> Tensor:
        """By batch statistics of pure permutations, in torch's kernel: components join space."""
        track = self.training and self.running_var is not None
        # With momentum 1 the kernel leaves the batch's own statistics (on an empty batch the old
        # ones), and `_track` may weigh them by a tensor: no wait for the device.
        held: tuple[Any, Any] = (self.running_mean, self.running_var)
        mean, var = (v.clone() if track else None for v in held)
        rows, first = [], 0
        for copies, run in zip(split(x, self.runs), self.runs, strict=True):
            here = slice(first, first := first + run.copies)
            stats = (None if v is None else v[here] for v in (mean, var, self.weight, self.bias))
            y = F.batch_norm(copies.flatten(2), *stats, True, 1.0, self.eps)
            rows.append(y.view(copies.shape))
        if mean is not None and var is not None:
            self._track(mean, var)
        return join(rows)

    def _defined(self, x: Tensor, together: bool) -> Tensor:
        """By batch statistics as they are defined: signed copies, or several processes."""
        runs, axes = self.runs, [0, *range(2, x.ndim)]
        centred = x.to(wide(x.dtype))
        sums = merge(centred.sum(axes), runs)
        counts = merge(sums.new_ones(x.shape[1]), runs) * (x.numel() // x.shape[1])
        if together:
            sums, counts = _Summed.apply(torch.stack([sums, counts]))
        counts = counts.clamp(min=1)
        mean = unsigned(sums / counts, runs)
        centred = centred - along(spread(filled(mean, runs), runs), x)
        squares = merge(centred.square().sum(axes), runs)
        if together:
            squares = _Summed.apply(squares)
        scale = torch.rsqrt(squares / counts + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * along(spread(scale, runs), x)
        if self.bias is not None:
            y = y + along(spread(filled(self.bias, runs), runs), x)
        if self.training and self.running_var is not None and (together or x.numel()):
            # Bessel's correction where a mean was taken, as torch's batch norm has it
            taken = filled(torch.ones_like(mean), runs)
            self._track(mean, squares / (counts - taken).clamp(min=1))
        return y.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        self.num_batches_tracked.add_(1)
        weight: Any = self.momentum
        if weight is None:
            weight = 1 / self.num_batches_tracked.to(self.running_var.dtype)
        for held, new in ((self.running_mean, mean), (self.running_var, var)):
            if held is not None:
                held.lerp_(new.to(held.dtype), weight)

    def to_plain(self) -> nn.Module:
        """An equal graph of torch's functions, in evaluation: it stays so in training.

        Raises:
            StructureError: `track_running_stats=False`: there is nothing to evaluate by.
        """
        if self.running_var is None:
            raise StructureError("track_running_stats=True", "False", "no plain layer is equal")
        return traced(self).eval()

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        defaults = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True,
            "sync": True}  # fmt: skip
        return _describe(self, defaults)


class FieldLayerNorm(nn.Module):
    r"""Layer norm over the channels of a field, one sample and (by default) one position at a time.

    Over all channels of pure permutations, and apart from them over all those of signed copies:

        permutations (trivial, regular, quotient):  y = w (x - mean) / sqrt(var + eps) + b
        signed (sign, vector):                      y = w x / sqrt(mean(x ** 2) + eps)

    w is one per copy, b one per copy that is not signed. On trivial fields this is torch's layer
    norm over the channels (as ConvNeXt uses it), with ``over="sample"`` its group norm with one
    group.

    Shapes: input and output (N, field.channels, \*S) with any number of space axes; `weight`
    (copies,), `bias` (copies that are not signed,). Equivariant up to the rounding of the sums.
    Half precision is summed in float32.

    Args:
        field: What the channels mean.
        eps: Added to variances.
        affine: Learn w and b?
        over: "position": statistics of each position's channels. "sample": over space too.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: `field` is none, `over` is unknown, or (when called) the input has other
            channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> norm = FieldLayerNorm(parse("C4").regular(8), over="sample")
        >>> norm
        FieldLayerNorm(C4.regular(8), over='sample')
        >>> norm(torch.rand(2, 32, 7, 7)).mean((1, 2, 3)).abs().max() < 1e-6
        tensor(True)

    References:
        Ba, Kiros, Hinton, Layer Normalization (2016); Zhang and Sennrich, Root Mean Square Layer
        Normalization (2019); Liu et al., A ConvNet for the 2020s (2022).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        field: Field,
        eps: float = 1e-5,
        affine: bool = True,
        over: str = "position",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if over not in ("position", "sample"):
            raise StructureError('over="position" or "sample"', repr(over))
        self.runs, self.field = runs_of(field), field
        self.eps, self.affine, self.over = eps, affine, over
        _make_affine(self, affine, device=device, dtype=dtype)
        _reset_affine(self)

    def reset_parameters(self) -> None:
        """Set w to one and b to zero."""
        _reset_affine(self)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input (N, field.channels, *S), in its type."""
        check_channels(x, self.runs, self.field)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` without its check."""
        bias = None if self.bias is None else filled(self.bias, self.runs)
        affine = [None if v is None else spread(v, self.runs) for v in (self.weight, bias)]
        done: dict[int, Tensor] = {}
        for signed in (False, True):
            runs = [run for run in self.runs if run.signed is signed]
            if runs:
                mine = (
                    None if v is None else cat([part(v, r, 0) for r in runs], 0) for v in affine
                )
                y = self._normalised(cat([part(x, run) for run in runs]), signed, *mine)
                ends = accumulate(run.channels for run in runs)
                done |= {
                    r.start: y.narrow(1, end - r.channels, r.channels)
                    for r, end in zip(runs, ends, strict=True)
                }
        return cat([done[run.start] for run in self.runs])

    def _normalised(
        self, x: Tensor, signed: bool, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """All channels of one kind, given together; weight and bias per channel."""
        if self.over == "position":
            x, shape = x.movedim(1, -1), (x.shape[1],)
            if signed:
                y = F.rms_norm(x, shape, None, self.eps)  # a weight must have the type of x
                return (y if weight is None else y * weight).movedim(-1, 1)
            return F.layer_norm(x, shape, weight, bias, self.eps).movedim(-1, 1)
        if not signed:
            return F.group_norm(x, 1, weight, bias, self.eps)
        y = F.rms_norm(x, x.shape[1:], None, self.eps)
        return y if weight is None else (y.movedim(1, -1) * weight).movedim(-1, 1)

    def to_plain(self) -> nn.Module:
        """An equal module of torch's: a group norm, or a graph of torch's functions."""
        if self.over == "position" or self.field.signed:
            return traced(self)
        bias = None if self.bias is None else filled(self.bias, self.runs)
        given = {"weight": self.weight, "bias": bias}
        given = {name: None if v is None else spread(v, self.runs) for name, v in given.items()}
        return _given(nn.GroupNorm(1, self.field.channels, self.eps, self.affine), given)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return _describe(self, {"eps": 1e-5, "affine": True, "over": "position"})


def _unsigned_copies(layer: Any) -> int:
    return sum(run.copies for run in layer.runs if not run.signed)


def _make_affine(layer: Any, affine: bool, **factory: Any) -> None:
    """Register `weight` and `bias`, None where there are none."""
    for name, count in (("weight", layer.field.copies), ("bias", _unsigned_copies(layer))):
        made = nn.Parameter(torch.empty(count, **factory)) if affine and count else None
        layer.register_parameter(name, made)


def _reset_affine(layer: Any) -> None:
    if layer.weight is not None:
        nn.init.ones_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _describe(layer: Any, defaults: dict[str, Any]) -> str:
    given = {name: getattr(layer, name) for name in defaults}
    options = [f"{k}={v!r}" for k, v in given.items() if v != defaults[k]]
    return ", ".join([str(layer.field), *options])


@torch.no_grad()
def _given(plain: nn.Module, values: dict[str, Tensor | None]) -> nn.Module:
    """A plain layer with these parameters and buffers, where and of the type they are."""
    for name, value in values.items():
        if value is not None:
            plain.to(value)
            getattr(plain, name).copy_(value)
    return plain
