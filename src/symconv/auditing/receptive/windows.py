"""Operations that slide a window: convolution, pooling, interpolation, unfolding."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from symconv.auditing.receptive import reach
from symconv.auditing.receptive.reach import LONGEST, resampled
from symconv.auditing.receptive.seen import Digit, Seen, together
from symconv.auditing.receptive.steps import Step, channels_replaced, per_axis, slid


def convolution(s: Step) -> Seen:
    """Convolution and its transpose, on a batch."""
    a = s.args
    kernel = a["weight"].shape[2:]
    n = len(kernel)
    make = reach.transposed if a["transposed"] else reach.window
    given = (per_axis(a[key], n) for key in ("stride", "padding", "dilation"))
    outer = [make(*row) for row in zip(kernel, *given, strict=True)]
    x = channels_replaced(s.x, 1, s.shape[1])
    x = slid(x, range(2, 2 + n), outer, s.shape)
    weight = s.seen(a["weight"])
    if not any(weight.views):
        return x
    everywhere = weight.summed(*range(n + 2)).arranged(())  # a filter computed from the input
    return together([x, everywhere], s.shape)


def pool(s: Step) -> list[Seen]:
    """Maximum and average pooling; rounding up adds outputs and moves none."""
    n = int(next(c for c in s.name if c.isdigit()))
    kernel = per_axis(s.args["kernel_size"], n)
    stride = per_axis(s.args.get("stride") or kernel, n)
    padding = per_axis(s.args.get("padding", 0), n)
    dilation = per_axis(s.args.get("dilation", 1), n)
    rows = zip(kernel, stride, padding, dilation, strict=True)
    axes = range(len(s.shape) - n, len(s.shape))
    return [slid(s.x, axes, [reach.window(*row) for row in rows], s.shape)] * len(s.shapes)


def adaptive_pool(s: Step) -> list[Seen]:
    """Adaptive pooling; to one output it is global at any size."""
    n = int(next(c for c in s.name if c.isdigit()))
    x = s.x
    for axis in range(len(s.shape) - n, len(s.shape)):
        inputs, outputs = x.shape[axis], s.shape[axis]
        if outputs == 1:
            x = x.whole(axis)
            x = x.arranged(x.axis_replaced(axis, (Digit(1),)))
        else:
            x = x.moved(axis, reach.adaptive(inputs, outputs), outputs)
    return [x] * len(s.shapes)


def local(s: Step) -> Seen:
    """Symconv's local correlation: weight (F, *kernel, inputs, outputs)."""
    kernel, before = s.args["weight"].shape[1:-2], s.args["padding"][::2]
    rows = zip(kernel, s.args["stride"], before, s.args["dilation"], strict=True)
    x = channels_replaced(s.x, 1, s.shape[1])
    return slid(x, range(2, 2 + len(kernel)), [reach.window(*r) for r in rows], s.shape)


def local_adjoint(s: Step) -> Seen:
    """The transpose of symconv's local correlation."""
    kernel, before = s.args["weight"].shape[1:-2], s.args["padding"][::2]
    rows = zip(kernel, s.args["stride"], before, s.args["dilation"], strict=True)
    x = channels_replaced(s.x, 1, s.shape[1])
    return slid(x, range(2, 2 + len(kernel)), [reach.transposed(*r) for r in rows], s.shape)


def im2col(s: Step) -> Seen:
    """Windows of a map as columns: channels and taps on one axis, positions on the next."""
    x = s.x
    keys = ("kernel_size", "stride", "padding", "dilation")
    rows = list(zip(*(per_axis(s.args[key], 2) for key in keys), strict=True))
    size = [
        (n + 2 * p - d * (k - 1) - 1) // t + 1
        for n, (k, t, p, d) in zip(x.shape[-2:], rows, strict=True)
    ]
    shape = (*x.shape[:-2], *size)
    axes = range(len(shape) - 2, len(shape))
    x = slid(x, axes, [reach.window(*row) for row in rows], shape)
    return x.arranged((*x.axes[:-3], (Digit(s.shape[-2]),), x.axes[-2] + x.axes[-1]))


def col2im(s: Step) -> Seen:
    """The transpose of im2col: columns summed into a map."""
    keys = ("kernel_size", "stride", "padding", "dilation")
    rows = list(zip(*(per_axis(s.args[key], 2) for key in keys), strict=True))
    size = [
        (n + 2 * p - d * (k - 1) - 1) // t + 1
        for n, (k, t, p, d) in zip(s.shape[-2:], rows, strict=True)
    ]
    channels = len(s.shape) - 3
    x = channels_replaced(s.x, channels, s.shape[channels])
    x = x.reshaped((*s.shape[:-2], *size))
    axes = range(len(s.shape) - 2, len(s.shape))
    return slid(x, axes, [reach.transposed(*row) for row in rows], s.shape)


def unfold(s: Step) -> Seen:
    """Sliding windows as a new last axis: each entry of a window is taken to see the window."""
    axis = s.args["dimension"] % max(1, len(s.x.axes))
    outer = reach.window(s.args["size"], s.args["step"])
    x = s.x.moved(axis, outer, s.shape[axis])
    return x.arranged((*x.axes, (Digit(s.args["size"]),)))


def interpolate(s: Step) -> Seen:
    """Upsampling and downsampling; the clamps at the border aside, a periodic map.

    Taps whose weight is zero (at whole positions) are none.
    """
    x = s.x
    n = len(x.axes) - 2
    scales = [v for k, v in s.args.items() if k.startswith("scales")] or [None] * n
    corners = s.args.get("align_corners", False)
    for axis, scale in zip(range(2, 2 + n), scales, strict=True):
        inputs, outputs = x.shape[axis], s.shape[axis]
        ratio = Fraction(inputs, outputs)
        if scale is not None and not corners:
            ratio = 1 / Fraction(scale).limit_denominator(LONGEST)
        half = Fraction(1, 2)
        if "nearest" in s.name:
            offset = Fraction(0) if "exact" in s.name else ratio / 2
            taps = _floor
        elif s.name.endswith("aa"):
            taps, offset = _support(max(ratio, 1) * (2 if "cubic" in s.name else 1)), Fraction(0)
        else:
            if corners:
                ratio = Fraction(inputs - 1, max(1, outputs - 1))
            offset = ratio / 2 if corners else half
            taps = _cubic if "cubic" in s.name else _linear
        if ratio == 0:  # one position stands for all
            x = x.moved(axis, "one fixed position is read", outputs)
            continue
        x = x.moved(axis, resampled(ratio, taps, offset), outputs)
    return x


def _floor(at: Fraction) -> list[int]:
    return [math.floor(at)]


def _linear(at: Fraction) -> list[int]:
    low = math.floor(at)
    return [low] if at == low else [low, low + 1]


def _cubic(at: Fraction) -> list[int]:
    low = math.floor(at)
    return [low] if at == low else [low - 1, low, low + 1, low + 2]


def _support(width: Fraction | int) -> Callable[[Fraction], list[int]]:
    """Positions whose centres lie less than a width away."""

    def taps(at: Fraction) -> list[int]:
        first, last = math.ceil(at - width), math.floor(at + width)
        return [i for i in range(first, last + 1) if abs(i + Fraction(1, 2) - at) < width]

    return taps
