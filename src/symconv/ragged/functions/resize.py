"""Interpolation, padding and pixel shuffles: every item by its own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.extent import Extent
from symconv.ragged.functions._steps import with_channels
from symconv.ragged.packed import FINITE, ZERO, Packed
from symconv.ragged.valid import Valid

_LINEAR = ("linear", "bilinear", "trilinear")


def _along_axis(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Cells along one axis by number, for each item: index (items, cells)."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    full = [*x.shape]
    full[axis] = index.shape[1]
    return x.gather(axis, index.to(x.device).view(shape).expand(full))


# Interpolation


def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Each item resized as it would be alone, by a factor or to the sizes of another batch."""
    x = with_channels(input, "interpolate").numbered()
    n = x.dim() - 2
    cubic = mode == "bicubic" and n == 2
    linear = mode in _LINEAR and _LINEAR[n - 1] == mode
    if antialias or not (linear or cubic or mode in ("nearest", "nearest-exact")):
        raise refused(
            f"interpolation by nearest, nearest-exact or {_LINEAR[n - 1]}, without antialias",
            f"mode={mode!r}, antialias={antialias}",
            "resize the items before they are joined",
        )
    outs, factors = _wanted(x, size, scale_factor, recompute_scale_factor)
    taps = _Taps(mode, bool(align_corners), factors)
    made, valid = [], []
    for k, (c, v) in enumerate(zip(x.canvases, x.valid, strict=True)):
        columns = [out[k] for out in outs]
        for axis, (column, bound) in enumerate(
            zip(columns, _bounds(c, columns, factors), strict=True)
        ):
            c = taps.apply(c, v.table[:, axis], column, bound, axis)
        made.append(c)
        valid.append(_valid(v, columns, c))
    return x.remade(made, valid)


def _wanted(
    x: Packed, size: Any, factor: Any, recompute: Any
) -> tuple[list[list[Tensor]], list[float | None]]:
    """For each axis the items' new sizes canvas by canvas, and the factor that sets positions."""
    n = x.dim() - 2
    if (size is None) == (factor is None):
        raise refused("either size or scale_factor", f"{size}, {factor}", "give one of them")
    if size is not None:
        sizes = list(size) if isinstance(size, (tuple, list)) else [size] * n
        outs = []
        for axis, s in enumerate(sizes):
            like = x.size_of(2 + axis)
            tables = s.tables if isinstance(s, Extent) else [t * 0 + int(s) for t in like.tables]
            outs.append(list(tables))
        return outs, [None] * n
    factors = list(factor) if isinstance(factor, (tuple, list)) else [factor] * n
    outs = []
    for axis, f in enumerate(factors):
        tables = x.size_of(2 + axis).tables
        f = float(f)
        outs.append([(t * int(f) if f == int(f) else (t * f).floor().long()) for t in tables])
    return outs, [None] * n if recompute else [float(f) for f in factors]


def _bounds(c: Tensor, columns: Sequence[Tensor], factors: Sequence[float | None]) -> list[int]:
    """The size of the new canvas along each axis."""
    if not torch.compiler.is_compiling():
        return [int(column.max()) for column in columns]
    if None in factors:
        raise refused("scale_factor in a compiled graph", "size", "give scale_factor")
    return [int(s * f) for s, f in zip(c.shape[2:], factors, strict=True)]  # pyright: ignore


def _valid(v: Valid, columns: Sequence[Tensor], c: Tensor) -> Valid:
    full = v.full
    if not torch.compiler.is_compiling():
        full = all(bool((col == s).all()) for col, s in zip(columns, c.shape[2:], strict=True))
        if min(int(col.min()) for col in columns) <= 0:
            raise refused(
                "a size of at least one cell", "an item of none", "choose a larger factor"
            )
    return v.columns(columns, full)


class _Taps:
    """Which cells an output reads along one axis, and how it weighs them."""

    def __init__(self, mode: str, corners: bool, factors: Sequence[float | None]):
        self.mode, self.corners, self.factors = mode, corners, factors

    def positions(self, size: Tensor, out: Tensor, cells: int, axis: int, dtype: Any) -> Tensor:
        """Where outputs lie between the item's cells, (items, cells)."""
        at = torch.arange(cells, dtype=dtype)
        size, out = size[:, None].to(dtype), out[:, None].to(dtype)
        factor = self.factors[axis]
        if self.corners and self.mode not in ("nearest", "nearest-exact"):
            return at * ((size - 1) / (out - 1).clamp(min=1))
        step = size / out if factor is None else torch.full_like(size, 1 / factor)
        if self.mode == "nearest":
            return at * step
        middle = (at + 0.5) * step
        return middle if self.mode == "nearest-exact" else middle - 0.5

    def apply(self, c: Tensor, size: Tensor, out: Tensor, cells: int, axis: int) -> Tensor:
        """The canvas interpolated along one axis."""
        precise = torch.float64 if c.dtype == torch.float64 else torch.float32
        at = self.positions(size, out, cells, axis, precise)
        last = size[:, None] - 1
        if self.mode in ("nearest", "nearest-exact"):
            index = torch.minimum(at.floor().long(), last).clamp(min=0)
            return _along_axis(c, index, 2 + axis)
        if self.mode != "bicubic":
            at = at.clamp(min=0)
        whole = at.floor()
        part = (at - whole).clamp(0, 1)
        taps = {0: 1 - part, 1: part}
        if self.mode == "bicubic":
            taps = dict(zip((-1, 0, 1, 2), _cubic(part), strict=True))
        y: Any = 0
        shape = [1] * c.ndim
        shape[0], shape[2 + axis] = at.shape
        for step, weight in taps.items():
            index = torch.minimum(whole.long() + step, last).clamp(min=0)
            y = y + _along_axis(c, index, 2 + axis) * weight.view(shape).to(c.device, c.dtype)
        return y


def _cubic(part: Tensor, a: float = -0.75) -> list[Tensor]:
    """Keys' weights of four neighbours, as torch has them."""

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]


# Padding


def pad(input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    """Cells put before and after each item, or taken off by negative amounts."""
    x = input
    amounts = list(pad)
    given = [tuple(amounts[k : k + 2]) for k in range(0, len(amounts), 2)]
    axes = {x.dim() - 1 - k: pair for k, pair in enumerate(given)}
    if any(isinstance(a, Extent) for pair in given for a in pair):
        return _by_items(x, amounts, mode, value)
    plain = {a: p for a, p in axes.items() if not isinstance(x.layout[a], int) and any(p)}
    if x.batch in plain or (plain and mode != "constant"):
        raise refused("padding of channels and space", f"pad={tuple(pad)}", "pad fewer axes")
    ragged = {a: p for a, p in axes.items() if isinstance(x.layout[a], int) and any(p)}
    columns = {x.layout[a]: p for a, p in ragged.items()}

    def law(size: Any, column: int) -> Any:
        return size + sum(columns.get(column, (0, 0)))

    valid = x.after(("pad", tuple(sorted(columns.items()))), law, lambda: f"pad {tuple(pad)}")
    if mode != "constant":
        return x.remade(_mirrored(x.zeroed(), ragged, mode), valid, None, FINITE)
    value = value or 0.0
    x = x.zeroed() if value == 0 else x.remade(_filled_with(x, value))
    made = [F.pad(c, amounts, value=value) for c in x.canvases]
    cropped = any(a < 0 for a in amounts)
    return x.remade(made, valid, None, ZERO if value == 0 and not cropped else FINITE)


def _filled_with(x: Packed, value: float) -> list[Tensor]:
    from_ = zip(x.canvases, x.valid, strict=True)
    return [torch.where(v.mask(c, x.layout), c, value) if not v.full else c for c, v in from_]


def _mirrored(x: Packed, axes: dict[int, Any], mode: str) -> list[Tensor]:
    """Canvases padded by cells of each item: reflect, replicate or circular."""
    made = []
    for c, v in zip(x.canvases, x.valid, strict=True):
        for axis, (before, after) in axes.items():
            size = v.table[:, x.layout[axis], None]
            if not torch.compiler.is_compiling():
                _check_room(int(size.min()), max(before, after), mode)
            at = torch.arange(c.shape[axis] + before + after) - before
            if mode == "circular":
                at = at % size
            elif mode == "reflect":
                at = at.abs()
                at = torch.where(at < size, at, 2 * (size - 1) - at)
            at = torch.minimum(at, size - 1).clamp(min=0)
            c = _along_axis(c, at, axis)
        made.append(c)
    return made


def _check_room(size: int, most: int, mode: str) -> None:
    if (mode == "reflect" and most >= size) or (mode == "circular" and most > size):
        raise refused(
            f"items of more cells than {mode} padding adds",
            f"{most} added to an item of {size}",
            "leave small items out, or pad by zeros",
        )


def _by_items(x: Any, amounts: list[Any], mode: str, value: float | None) -> Any:
    """Amounts that differ from item to item."""
    each = [a.values() if isinstance(a, Extent) else None for a in amounts]
    made = []
    for k, item in enumerate(x.items()):
        mine = [int(a) if e is None else e[k] for a, e in zip(amounts, each, strict=True)]
        made.append(F.pad(item, mine, mode, value))
    return x.again(made)


# Channels into space


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """Channels into space, r by r."""
    x = with_channels(input, "pixel_shuffle").numbered()
    r = upscale_factor
    made = [F.pixel_shuffle(c, r) for c in x.canvases]
    valid = x.after(("shuffle", r), lambda size, axis: size * r, lambda: "pixel_shuffle")
    return x.remade(made, valid, None, x.held)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """Space into channels, r by r, for sizes that r divides."""
    x = with_channels(input, "pixel_unshuffle").numbered()
    r = downscale_factor
    if not torch.compiler.is_compiling():
        for v in x.valid:
            if bool((v.table % r).any()):
                raise refused(f"sizes that {r} divides", x.described(), "pad the items")
    gaps = [[amount for s in reversed(c.shape[2:]) for amount in (0, -s % r)] for c in x.canvases]
    made = [F.pixel_unshuffle(F.pad(c, g), r) for c, g in zip(x.canvases, gaps, strict=True)]
    valid = x.after(("unshuffle", r), lambda size, axis: size // r, lambda: "pixel_unshuffle")
    return x.remade(made, valid, None, max(FINITE, x.padding))


def channel_shuffle(input: Any, groups: int) -> Any:
    """Channels dealt out in turn."""
    x = with_channels(input, "channel_shuffle")
    return x.remade([F.channel_shuffle(c, groups) for c in x.canvases], None, None, x.held)


RESIZE: dict[Any, Callable[..., Any]] = {
    F.interpolate: interpolate,
    F.upsample: interpolate,
    F.pad: pad,
    F.pixel_shuffle: pixel_shuffle,
    F.pixel_unshuffle: pixel_unshuffle,
    F.channel_shuffle: channel_shuffle,
}
