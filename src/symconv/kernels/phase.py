"""Polyphase sampling: which phase of a strided grid, and features moved so that it comes first.

A stride s keeps one of s ** n phases x[..., p::s]. Where the phase is chosen by what it holds, not
by where it lies, a shift of x moves the choice with it, and the strided layer commutes with shifts.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.lattice.windows import Size, per_axis

#: Sums nearer than this, relative to what was summed, are a tie: the noise of a convolution's sums.
_TIE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def polyphase(x: Tensor, stride: Size) -> Tensor:
    r"""The phase of a strided grid that holds most: per item, p of x[..., p::stride].

    The choice follows what a phase holds, not where it lies: the largest sum of squares, and among
    phases that tie within rounding sums of other products that see sign and arrangement. When x
    moves by whole positions, circularly, the choice moves along: y[..., ::stride] for
    y = `align(x, phase)` then moves by a whole number of its own positions, (t + p - p') / stride
    for a shift t. Exact where each size is a multiple of its stride. Phases that tie in all sums
    are taken to be shifts of each other, as those of a constant or of stripes are: the first is
    taken, and the results differ by a whole shift. No gradient passes through the choice.

    Args:
        x: Features (N, C, \*S), floating-point.
        stride: An integer for all axes of space, or one per axis.

    Returns:
        Offsets (N, n), int64, each from 0 to stride - 1.

    Raises:
        StructureError: x has no axes of space, or the stride another number of them.

    Example:
        >>> x = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
        >>> polyphase(x, 2), polyphase(x.roll(1, -1), 2)
        (tensor([[1]]), tensor([[0]]))

    References:
        A. Chaman, I. Dokmanic, Truly shift-invariant convolutional neural networks (2021);
        there the phase is chosen on a convolution of stride 1, here on the input of the strided
        layer, which need not be computed at all phases then.
    """
    _check_space(x)
    return choose_phase(x, per_axis(stride, x.ndim - 2, "stride"))


def align(x: Tensor, phase: Tensor, padding_mode: str = "circular") -> Tensor:
    r"""Move each item so that its phase comes first: y[b, ..., i] = x[b, ..., i + phase[b]].

    Exact: values are moved. A strided layer applied to y is a polyphase layer.

    Args:
        x: Features (N, C, \*S).
        phase: Whole offsets (N, n), as from `polyphase`.
        padding_mode: "circular" (what leaves at one end enters at the other) or "zeros".

    Raises:
        StructureError: The shapes do not fit each other, or the mode is unknown.

    Example:
        >>> x = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
        >>> align(x, torch.tensor([[1]]))
        tensor([[[3., 1., 2., 0.]]])
    """
    check_phase(x, phase, padding_mode)
    return shifted(x, phase, padding_mode == "circular")


def unalign(y: Tensor, phase: Tensor, padding_mode: str = "circular") -> Tensor:
    r"""Move each item back: x[b, ..., i] = y[b, ..., i - phase[b]], the adjoint of `align`.

    Exact: values are moved. With "circular" it is the inverse of `align`.

    Args:
        y: Features (N, C, \*S).
        phase: Whole offsets (N, n), as from `polyphase`.
        padding_mode: "circular" (what leaves at one end enters at the other) or "zeros".

    Raises:
        StructureError: The shapes do not fit each other, or the mode is unknown.

    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> phase = polyphase(x, 2)
        >>> torch.equal(unalign(align(x, phase), phase), x)
        True
    """
    check_phase(y, phase, padding_mode)
    return shifted(y, -phase, padding_mode == "circular")


def _check_space(x: Tensor) -> None:
    if x.ndim not in (3, 4, 5) or not x.is_floating_point():
        raise StructureError(
            "floating-point features (batch, channels, *space), one to three axes of space",
            f"{x.dtype} of shape {tuple(x.shape)}",
            "add a batch axis with x.unsqueeze(0)",
        )


def check_phase(x: Tensor, phase: Tensor, mode: str = "circular") -> None:
    """Refuse offsets that do not fit x, and unknown modes."""
    _check_space(x)
    if phase.shape != (x.shape[0], x.ndim - 2) or phase.is_floating_point():
        raise StructureError(
            f"whole offsets of shape {(x.shape[0], x.ndim - 2)} for x of shape {tuple(x.shape)}",
            f"{phase.dtype} of shape {tuple(phase.shape)}",
            "take them from polyphase(x, stride)",
        )
    if mode not in ("circular", "zeros"):
        raise StructureError('padding_mode "circular" or "zeros"', repr(mode))


def choose_phase(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The winning phase of x (B, C, *space): offsets (B, n), each 0 <= p < stride."""
    n = len(stride)
    scores, scales = _invariants(x.detach(), stride)
    alive = torch.ones_like(scores[:, 0], dtype=torch.bool)
    for score, scale in zip(scores.unbind(1), scales.unbind(1), strict=True):
        held = score.masked_fill(~alive, -torch.inf)
        alive = alive & (held >= held.amax(1, keepdim=True) - _TIE[x.dtype] * scale[:, None])
    first = alive.to(torch.uint8).argmax(1)  # the first of those that tie to the end
    offsets = []
    for step in reversed(stride):
        offsets.append(first % step)
        first = first // step
    return torch.stack(offsets[::-1], 1).reshape(-1, n)


def _invariants(x: Tensor, stride: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sums over positions, by phase (B, K, P), and the size of what was summed (B, K).

    First the squared norm; then sums that tell phases of equal norm apart, of a generic projection
    v of the channels: v |v|, which sees signs, and v^2 times neighbours, each with a weight of its
    own, which sees the arrangement and its direction.
    """
    x = x if x.dtype == torch.float64 else x.float()
    # Maps are computed alike at every position, so a shift moves them to the bit; the sums over
    # positions, whose order a shift does change, are the float64 ones.
    energy = (x * x).sum(1)
    generic = torch.cos(math.sqrt(2) * torch.arange(1, x.shape[1] + 1, device=x.device))
    value = (generic.to(x.dtype) @ x.flatten(2)).view(energy.shape)
    square = value * value
    axes = range(1, len(stride) + 1)
    steps = [pick for n in axes for pick in itertools.combinations(axes, n)]
    near = torch.zeros_like(value)
    for number, step in enumerate(steps, 2):
        near = near + math.sqrt(number) * value.roll((-1,) * len(step), step)
    sums = [_by_phase(m, stride) for m in (energy, value * value.abs(), square * near)]
    sizes = [
        m.flatten(1).sum(1, dtype=torch.float64) for m in (energy, square, square * near.abs())
    ]
    return torch.stack(sums, 1), torch.stack(sizes, 1) / math.prod(stride)


def _by_phase(values: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Sums of values (B, *space) over each phase: (B, P), phases in row-major order."""
    missing = [-size % step for size, step in zip(values.shape[1:], stride, strict=True)]
    if not isinstance(missing[0], int) or any(missing):  # sizes are symbols under export
        pads = [amount for last in reversed(missing) for amount in (0, last)]
        values = torch.nn.functional.pad(values, pads)
    split = [
        part
        for size, step in zip(values.shape[1:], stride, strict=True)
        for part in (size // step, step)
    ]
    values = values.reshape(values.shape[0], *split)
    return values.sum(tuple(range(1, values.ndim, 2)), dtype=torch.float64).flatten(1)


class _Permute(torch.autograd.Function):
    """Entries of the last axis by index; the gradient is a gather by the inverse index."""

    @staticmethod
    def forward(flat: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Permute.apply(gradients[0], inverse, index), None, None


def shifted(x: Tensor, offsets: Tensor, circular: bool = True) -> Tensor:
    """y[b, :, i] = x[b, :, i + offsets[b]] for x (B, C, *space); circular, or zeros beyond."""
    forth = _places(offsets, x.shape[2:])
    flat = x.flatten(2)
    if not circular:  # what would wrap is cleared before it moves
        lost = _wraps(-offsets, x.shape[2:])
        flat = flat.masked_fill(lost[:, None], 0)
    # Without a gradient no way back is wanted; a compiler derives, and fuses, the plain operation.
    if torch.compiler.is_compiling() or not (x.requires_grad and torch.is_grad_enabled()):
        return flat.gather(2, forth[:, None].expand_as(flat)).view(x.shape)
    back = _places(-offsets, x.shape[2:])
    return _Permute.apply(flat, forth, back).view(x.shape)


def sampled(x: Tensor, offsets: Tensor, stride: tuple[int, ...]) -> Tensor:
    """y[b, :, i] = x[b, :, stride i + offsets[b]]: one phase; stride divides the sizes."""
    index = _places(offsets, x.shape[2:], stride)
    picked = x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1))
    size = [length // step for length, step in zip(x.shape[2:], stride, strict=True)]
    return picked.view(*x.shape[:2], *size)


def _places(offsets: Tensor, space: tuple[int, ...], stride: tuple[int, ...] = ()) -> Tensor:
    """Flat places (B, L) that positions read from, each axis modulo its size."""
    flat = torch.zeros_like(offsets[:, :1])
    for axis, size in enumerate(space):
        steps = torch.arange(0, size, stride[axis] if stride else 1, device=offsets.device)
        place = (steps + offsets[:, axis, None]) % size
        flat = (flat[:, :, None] * size + place[:, None]).flatten(1)
    return flat


def _wraps(offsets: Tensor, space: tuple[int, ...]) -> Tensor:
    """Whether position i + offset lies beyond an end, on any axis: (B, L)."""
    beyond = torch.zeros_like(offsets[:, :1], dtype=torch.bool)
    for axis, size in enumerate(space):
        place = torch.arange(size, device=offsets.device) + offsets[:, axis, None]
        outside = (place < 0) | (place >= size)
        beyond = (beyond[:, :, None] | outside[:, None]).flatten(1)
    return beyond
