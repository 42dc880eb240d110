"""Pointwise maps between regular fields through the group's Fourier transform, on the CPU.

``y = bias + T' W T x`` with T the transform over the group and W block-diagonal in its irreducible
representations. Chunk by chunk, so that what lies between stays in the cache: only input and output
meet the memory, and only the input is kept for the gradient. Further derivatives, `vmap` and
forward derivatives take `reference_pointwise`, in plain operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from symconv.kernels.workspace import traced_for_export
from symconv.lattice.fourier import Fourier, Program

BYTES = 2 << 20  # of input or output at a time: measured best of 1/2 to 4 MiB

# What the path costs beside its own products, on each kind of device that was measured: for each
# addition of two values, for each addition of two slabs, for each call; in products saved that make
# up for it. Fitted to `benchmarks/pointwise.py --sweep`, one thread.
COSTS = {"cpu": (20, 200_000, 10_000_000)}


class Blocks(NamedTuple):
    """A filter in the Fourier domain: the irreducible representations of dimension 1 and 2.

    Attributes:
        single: (ones * B, O, I) for B blocks of O by I copies.
        double: (twos * B, 2 O, 2 I), in cyclic groups of the form [[a, -b], [b, a]].
    """

    single: Tensor
    double: Tensor

    @classmethod
    def of(cls, free: Tensor, table: Tensor, transform: Fourier, blocks: int) -> Blocks:
        """The blocks of a filter given by its free weights; exact where the table's entries are.

        Args:
            free: Free weights (B * O, I, order).
            table: `transform.blocks(orbits)` as a tensor of the same type.
            transform: The group's.
            blocks: B, blocks of copies that see only each other.
        """
        outputs, inputs, order = free.shape
        every = table @ free.reshape(-1, order).T
        single, double = every.split([transform.ones, 4 * transform.twos])
        size = outputs // blocks, inputs
        double = double.reshape(transform.twos, 2, 2, blocks, *size).permute(0, 3, 1, 4, 2, 5)
        many = transform.twos * blocks
        return cls(single.reshape(-1, *size), double.reshape(many, 2 * size[0], 2 * size[1]))

    def after(self, bias: Tensor | None, transform: Fourier, blocks: int) -> tuple[Blocks, Any]:
        """The blocks, and what they make of a bias, for a layer whose input is not synthesised.

        A transform and its transpose cancel but for the square norms of the rows.
        """
        scaled = Blocks(self.single * transform.order, self.double * (transform.order / 2))
        if bias is not None:
            bias = (scaled.single[:blocks] @ bias.view(blocks, -1, 1)).flatten()
        return scaled, bias


def pays(
    transform: Fourier,
    copies: Sequence[int],
    blocks: int,
    samples: int,
    pixels: int,
    width: int = 4,
) -> bool:
    """Is a chain of pointwise layers quicker through the transform than densely, on the CPU?

    Args:
        transform: The group's.
        copies: Copies of the input and of each layer's output.
        blocks: Blocks of copies that see only each other.
        samples: Samples in the batch.
        pixels: Positions of one sample.
        width: Bytes of a value.

    Example:
        >>> from symconv.lattice.fourier import fourier
        >>> from symconv.lattice.groups import parse
        >>> transform = fourier(parse("D4").product)
        >>> pays(transform, (64, 64), 1, 8, 16 * 16), pays(transform, (16, 16), 1, 8, 16 * 16)
        (True, False)
    """
    per_value, per_slab, per_call = COSTS["cpu"]
    order, ends = transform.order, (copies[0], copies[-1])
    pairs = sum(a * b for a, b in pairwise(copies)) // blocks
    saved = samples * pixels * pairs * (order**2 - transform.products)
    several, run = _steps(samples, pixels, order * max(copies) * width)
    chunks = -(-samples // several) * -(-pixels // run)
    forward, backward = transform.forward.additions, transform.backward.additions
    values = samples * pixels * (forward * ends[0] + backward * ends[1])
    slabs = chunks * (forward + backward)
    return saved > per_value * values + per_slab * slabs + per_call


def suits(x: Tensor, weight: Tensor) -> bool:
    """May this input take the Fourier path?

    On the CPU (elsewhere nothing was measured), in single or double precision, channels first, in
    plain eager PyTorch: whatever compiles, exports or watches operations sees a convolution.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.layout is torch.strided
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not (torch.compiler.is_compiling() or traced_for_export())
        and not (torch.is_autocast_enabled("cpu") or _get_current_function_mode_stack())
        and not _get_current_dispatch_mode_stack()
        and x.is_contiguous()
    )


def pointwise(
    x: Tensor, bias: Tensor | None, transform: Fourier, blocks: int, *layers: Blocks
) -> Tensor:
    """Pointwise maps one after another: ``y = bias + T' W_n ... W_1 T x``, T the transform.

    Args:
        x: (N, B * I * order, P), the group's index fastest among the channels.
        bias: One per copy of the output (B * O,), or None.
        transform: The group's.
        blocks: B, blocks of copies that see only each other.
        layers: `Blocks.of` the first filter, `Blocks.after` the others.

    Returns:
        (N, B * O * order, P). Exact on integers where the transform has no others.
    """
    return _Pointwise.apply(x, bias, transform, blocks, *(part for pair in layers for part in pair))


def reference_pointwise(
    x: Tensor, bias: Tensor | None, transform: Fourier, blocks: int, *weights: Tensor
) -> Tensor:
    """`pointwise` in plain operations: differentiable to any order, and slow."""
    samples, _, pixels = x.shape
    ones, twos, columns = transform.ones, transform.twos, transform.columns
    matrix = torch.from_numpy(transform.matrix).to(x)
    hat = (matrix @ x.reshape(samples, blocks, -1, transform.order, pixels)).permute(3, 1, 2, 0, 4)
    copies = hat.shape[2]
    single = hat[:ones].reshape(ones * blocks, copies, samples * pixels)
    double = hat[ones:].reshape(twos, 2, columns, blocks, copies, samples * pixels)
    double = double.permute(0, 3, 1, 4, 2, 5).reshape(
        twos * blocks, 2 * copies, columns * samples * pixels
    )
    for first, second in _pairs(weights):
        single, double = first @ single, second @ double
    copies = single.shape[1]
    double = double.reshape(twos, blocks, 2, copies, columns, samples, pixels)
    double = double.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2)
    hat = torch.cat([single.reshape(ones, blocks, copies, samples, pixels), double])
    y = matrix.T @ hat.permute(3, 1, 2, 0, 4)
    if bias is not None:
        y = y + bias.reshape(blocks, copies, 1, 1)
    return y.reshape(samples, -1, pixels)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, bias: Any, transform: Fourier, blocks: int, *weights: Tensor) -> Tensor:
        channels = blocks * weights[-2].shape[1] * transform.order
        y, hats = x.new_empty(x.shape[0], channels, x.shape[2]), _Hats(x, transform, blocks)
        for part in _chunks(x, transform, blocks, weights):
            hat = hats.analysed("x", x[part])
            for number, layer in enumerate(_pairs(weights)):
                hat = hats.multiplied(number, layer, hat)
            if bias is not None:
                hat.trivial(blocks).add_(bias[:, None])
            hats.synthesise(hat, y[part])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, bias, ctx.transform, ctx.blocks, *weights = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, *weights)
        ctx.save_for_forward(x, *weights)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.autocast("cpu", enabled=False):  # `forward` ran without, whatever is on here
            if not torch.is_grad_enabled():
                return _gradients(ctx, g.contiguous(), *ctx.saved_tensors)
            return _Pointwise._twice_differentiable(ctx, g)

    @staticmethod
    def _twice_differentiable(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        def plain(x: Tensor, *weights: Tensor) -> Tensor:
            return reference_pointwise(x, None, ctx.transform, ctx.blocks, *weights)

        gx, *gw = torch.func.vjp(plain, *ctx.saved_tensors)[1](g)
        gb = g.unflatten(1, (-1, ctx.transform.order)).sum((0, 2, 3)) if ctx.biased else None
        return gx, gb, None, None, *gw

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        dx, db, _, _, *dw = tangents
        x, *weights = ctx.saved_tensors
        fixed = None, ctx.transform, ctx.blocks
        total = torch.zeros((), dtype=x.dtype)
        if dx is not None:
            total = total + reference_pointwise(dx, *fixed, *weights)
        for i, change in enumerate(dw):
            if change is not None:
                moved = list(weights)
                moved[i], moved[i ^ 1] = change, torch.zeros_like(weights[i ^ 1])
                total = total + reference_pointwise(x, *fixed, *moved)
        return total if db is None else total + db.repeat_interleave(ctx.transform.order)[:, None]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return torch.vmap(reference_pointwise, in_dims)(*inputs), 0


def _gradients(ctx: Any, g: Tensor, x: Tensor, *weights: Tensor) -> tuple[Any, ...]:
    """Of the input, the bias and the blocks, as far as they are needed."""
    transform, blocks = ctx.transform, ctx.blocks
    gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
    gb = g.new_zeros(g.shape[1] // transform.order) if ctx.needs_input_grad[1] else None
    wanted = any(ctx.needs_input_grad[4:])
    gw = [torch.zeros_like(w) for w in weights] if wanted else []
    layers, hats = _pairs(weights), _Hats(x, transform, blocks)
    for part in _chunks(x, transform, blocks, weights):
        back = hats.analysed("g", g[part])
        if gb is not None:
            gb += back.trivial(blocks).sum(1)
        seen = [hats.analysed("x", x[part])] if wanted else []
        for number, layer in enumerate(layers[:-1] if wanted else ()):
            seen.append(hats.multiplied(number, layer, seen[-1]))
        for number, layer in reversed(list(enumerate(layers))):
            if wanted:
                gw[2 * number].baddbmm_(back.single, seen[number].single.mT)
                gw[2 * number + 1].baddbmm_(back.double, seen[number].double.mT)
            if number or gx is not None:
                back = hats.multiplied(-1 - number, (layer[0].mT, layer[1].mT), back)
        if gx is not None:
            hats.synthesise(back, gx[part])
    return gx, gb, None, None, *(gw or [None] * len(weights))


def _pairs(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(weights[::2], weights[1::2], strict=True))


def _chunks(
    x: Tensor, transform: Fourier, blocks: int, weights: Sequence[Tensor]
) -> Iterator[tuple[slice, slice, slice]]:
    """Runs of samples, or of one sample's pixels, whose values fit the workspace."""
    samples, channels, pixels = x.shape
    widest = max(channels, *(blocks * transform.order * w.shape[1] for w in weights[::2]))
    several, run = _steps(samples, pixels, widest * x.element_size())
    for start in range(0, samples, several):
        for first in range(0, pixels, run):
            yield slice(start, start + several), slice(None), slice(first, first + run)


def _steps(samples: int, pixels: int, width: int) -> tuple[int, int]:
    """Samples and pixels of a chunk, given the bytes of a pixel."""
    most = BYTES // max(1, width) or 1
    return max(1, min(samples, most // max(1, pixels))), max(1, min(pixels, most))


class _Hat(NamedTuple):
    """A chunk in the Fourier domain.

    Attributes:
        single: (ones * B, copies, pixels).
        double: (twos * B, 2 copies, columns * pixels).
        rows: For each row of the transform a view (B, copies, samples, pixels of a sample).
    """

    single: Tensor
    double: Tensor
    rows: list[Tensor]

    def trivial(self, blocks: int) -> Tensor:
        """The part that the group leaves alone: (B * copies, pixels)."""
        return self.single[:blocks].flatten(0, 1)


class _Hats:
    """The chunks of one call in the Fourier domain, in memory that chunks of one shape share."""

    def __init__(self, like: Tensor, transform: Fourier, blocks: int):
        self.like, self.transform, self.blocks = like, transform, blocks
        self.made: dict[tuple[Any, ...], _Hat] = {}

    def _hat(self, name: Any, copies: int, samples: int, pixels: int) -> _Hat:
        key = name, samples, pixels
        if key not in self.made:
            ones, twos, columns = self.transform.ones, self.transform.twos, self.transform.columns
            many = samples * pixels
            single = self.like.new_empty(ones * self.blocks, copies, many)
            double = self.like.new_empty(twos * self.blocks, 2 * copies, columns * many)
            ends = copies, samples, pixels
            rows = [*single.view(ones, self.blocks, *ends).unbind()]
            split = double.view(twos, self.blocks, 2, copies, columns, samples, pixels)
            for part in (part for two in split.unbind() for part in two.unbind(1)):
                rows += part.unbind(2)
            self.made[key] = _Hat(single, double, rows)
        return self.made[key]

    def _elements(self, x: Tensor) -> list[Tensor]:
        """For each element of the group a view (B, copies, samples, pixels)."""
        order = self.transform.order
        split = x.view(x.shape[0], self.blocks, -1, order, x.shape[2])
        return list(split.permute(3, 1, 2, 0, 4).unbind())

    def analysed(self, name: Any, x: Tensor) -> _Hat:
        """The transform of a chunk (samples, B * copies * order, pixels)."""
        samples, channels, pixels = x.shape
        copies = channels // (self.blocks * self.transform.order)
        hat = self._hat(name, copies, samples, pixels)
        _run(self.transform.forward, self._elements(x), hat.rows)
        return hat

    def multiplied(self, name: Any, layer: tuple[Tensor, Tensor], hat: _Hat) -> _Hat:
        """A layer's blocks times a chunk."""
        to = self._hat(name, layer[0].shape[1], *hat.rows[0].shape[2:])
        torch.bmm(layer[0], hat.single, out=to.single)
        if self.transform.columns == 1:
            _rotated(layer[1], hat.double, to.double)
        else:
            torch.bmm(layer[1], hat.double, out=to.double)
        return to

    def synthesise(self, hat: _Hat, y: Tensor) -> None:
        """The transposed transform, into y (samples, B * copies * order, pixels)."""
        _run(self.transform.backward, hat.rows, self._elements(y))


def _rotated(weight: Tensor, x: Tensor, y: Tensor) -> None:
    """``[[a, -b], [b, a]] @ x`` with three products for four, as complex numbers allow.

    In cyclic groups every 2x2 block is of this form: it commutes with the turns.
    """
    outputs, inputs = weight.shape[1] // 2, weight.shape[2] // 2
    (first, second), (left, right) = x.split(inputs, 1), y.split(outputs, 1)
    a, b = weight[:, :, :inputs].split(outputs, 1)
    both = torch.bmm(a, first + second)
    torch.baddbmm(both, a + b, second, alpha=-1, out=left)
    torch.baddbmm(both, b - a, first, out=right)


def _run(program: Program, sources: list[Tensor], into: list[Tensor]) -> None:
    """Carry out a program of sums, the results where they belong at once."""
    slots, places = list(sources), dict(zip(program.outputs, into, strict=True))
    for terms in program.steps:
        slots.append(_sum(slots, terms, places.get(len(slots))))
    for slot, place in places.items():
        if slot < len(sources):
            place.copy_(slots[slot])


def _sum(slots: list[Tensor], terms: Sequence[tuple[int, float]], into: Tensor | None) -> Tensor:
    (first, scale), *others = terms
    total = slots[first] if scale == 1 else torch.mul(slots[first], scale, out=into)
    for slot, factor in others:
        total = torch.add(total, slots[slot], alpha=factor, out=into)
    return total
