"""Tiled convolutions: filters that repeat with a period."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.functional import as_batch, cast, check_input, convolve, correlate, pad
from symconv.kernels import native, workspace
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn import _shared
from symconv.structure import Structure

FEW = 4  # items below which strided convolutions are the quicker way: measured


class _TiledConv(nn.Module):
    r"""Convolution whose filters repeat with period `tile` over the output positions.

        y[b, o, l] = bias[o, l mod T] + sum over taps t, channels c of
                     x[b, c, s l + d t - p] * W[l mod T, t, c, o]

    It commutes with translations by multiples of the tile only. Tile 1 is convolution; a tile of
    the output's size is a locally connected layer.

    Shapes: input (N, in_channels, \*S) of any size S, or without N; output (N, out_channels,
    \*out); `weight` (\*tile, \*kernel_size, in_channels // groups, out_channels); `bias`
    (out_channels, \*tile). Exact up to the rounding of sums. The work is that of one convolution.
    Compiled kernels serve batches of 4 items and more (see `symconv.kernels.local`); otherwise each
    phase of the tile is a strided convolution, and their outputs are interleaved (which holds the
    output twice).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next four.
        tile: Period of the filters, in output positions.
        stride: Step between outputs, in input positions.
        padding: Positions added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps, in input positions.
        groups: Blocks of channels that see only each other.
        bias: Add a learned bias, one per channel and phase of the tile?
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: An argument is out of range, or (when called) the input has other channels
            or is too small.

    Example:
        >>> layer = TiledConv2d(3, 8, kernel_size=3, tile=2, padding=1)
        >>> layer
        TiledConv2d(3, 8, kernel_size=(3, 3), tile=(2, 2), padding=(1, 1))
        >>> layer(torch.zeros(5, 3, 33, 20)).shape
        torch.Size([5, 8, 33, 20])

    References:
        Gregor and LeCun, Emergence of complex-like cells in a temporal product network with local
        receptive fields (2010); Le et al., Tiled convolutional neural networks (2010).
    """

    dimension: ClassVar[int]
    window: Window
    in_channels: int
    out_channels: int
    groups: int
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        tile: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        window = kernel_size, stride, padding, dilation, groups, padding_mode
        _shared.configure(self, in_channels, out_channels, *window)
        self.tile = per_axis(tile, self.dimension, "tile")
        weight = (*self.tile, *_shared.filter_shape(self))
        biases = (out_channels, *self.tile) if bias else None
        _shared.make_parameters(self, weight, biases, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in +-1 / sqrt(fan-in) as torch's convolutions do."""
        _shared.draw_uniform(self, self.in_channels // self.groups * self.window.taps)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_channels, *S), or without N."""
        n, window = self.dimension, self.window
        check_input(x, n, self.in_channels, "in_channels")
        if not isinstance(x, Tensor):  # a ragged batch, whose canvases begin where its items do
            x, weight, bias = pad(x, window), *cast(self.weight, self.bias)
            each = functools.partial(self._phases, weight=weight, bias=bias)
            return x.windowed(each, type(self).__name__, window.extent, window.stride)
        if not torch.compiler.is_compiling():  # there sizes may be symbols; torch checks them too
            window.output_size(x.shape[-n:])
        x, weight, bias = cast(x, self.weight, self.bias)
        batch = as_batch(x, n)
        by_labels = (
            not workspace.traced_for_export()
            and math.prod(self.tile) > 1
            and native.serves(batch)
            and len(batch) >= FEW
        )
        way = self._by_labels if by_labels else self._interleaved
        y = way(batch, weight, bias)
        return y.squeeze(0) if x.ndim == n + 1 else y

    def _by_labels(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """On the local kernel: the phase of an output position is the label of its filter."""
        n, window = self.dimension, self.window
        padding = [amount for pair in window.padding for amount in pair]
        steps = window.kernel_size, window.stride, padding, window.dilation
        out = workspace.output_size(x.shape[2:], *steps)  # sizes may be symbols here
        labels = torch.zeros((), dtype=torch.int64, device=x.device)
        for size, period in zip(out, self.tile, strict=True):
            labels = labels[..., None] * period + torch.arange(size, device=x.device) % period
        each = None if bias is None else bias.flatten(1)[:, labels]
        filters = weight.flatten(0, n - 1)
        return correlate(x, filters, labels.flatten(), each, window, self.groups)

    def _interleaved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._phases(pad(x, self.window), weight, bias)

    def _phases(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The outputs of each phase by one convolution, of an input that is padded already."""
        n, window = self.dimension, self.window
        rows = zip(x.shape[2:], window.extent, window.stride, strict=True)
        out = [(size - extent) // step + 1 for size, extent, step in rows]
        if math.prod(self.tile) == 1:
            once = None if bias is None else bias.flatten()
            return self._phase(x, weight.flatten(0, n - 1)[0], once, window.stride)
        # Pad the far end so that every phase has as many outputs as the first. In an exported graph
        # one more, so that the crop at the end is one for every size.
        more = workspace.traced_for_export()
        repeats = [o // t + 1 if more else -(-o // t) for o, t in zip(out, self.tile, strict=True)]
        far = [
            step * (r * t - 1) + extent - size
            for size, r, t, step, extent in zip(
                x.shape[2:], repeats, self.tile, window.stride, window.extent, strict=True
            )
        ]
        x = F.pad(x, [amount for f in reversed(far) for amount in (0, f)])
        steps = [s * t for s, t in zip(window.stride, self.tile, strict=True)]
        phases = []
        for phase in itertools.product(*map(range, self.tile)):
            seen = x
            for axis, (p, s) in enumerate(zip(phase, window.stride, strict=True), 2):
                seen = seen[(slice(None),) * axis + (slice(s * p, None),)]
            part = None if bias is None else bias[(slice(None), *phase)]
            phases.append(self._phase(seen, weight[phase], part, steps))
        y = torch.stack(phases, 2).unflatten(2, self.tile)  # (N, O, *tile, *repeats)
        pairs = [axis for a in range(n) for axis in (2 + n + a, 2 + a)]
        y = y.permute(0, 1, *pairs)
        for axis, size in enumerate(out, 2):
            y = y.flatten(axis, axis + 1)[(slice(None),) * axis + (slice(size),)]
        return y

    def _phase(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]
    ) -> Tensor:
        return convolve(x, weight, bias, stride, self.window.dilation, self.groups)

    def structure(self, input_size: Size) -> Structure:
        """What the layer connects and shares on inputs of `input_size`."""
        channels = self.in_channels, self.out_channels
        return Structure.tiled(*channels, self.window, input_size, self.tile, self.groups)

    @classmethod
    def from_conv(cls, conv: nn.Module, tile: Size) -> Self:
        """A layer that starts as `conv`, one filter per phase of the tile then untied.

        Raises:
            StructureError: `conv` is no convolution of this dimension.
        """
        layer = cls(**_shared.conv_arguments(conv, cls.dimension), tile=tile)
        return _shared.start_as(layer, conv, bias_axis=0)

    def to_conv(self, atol: float = 0.0) -> nn.Module:
        """The equal torch convolution, where all filters agree (those of the first phase).

        Raises:
            StructureError: Filters or biases differ by more than `atol`.
        """
        filters = self.weight.detach().flatten(0, self.dimension - 1)
        biases = None if self.bias is None else self.bias.detach().flatten(1).t()
        return _shared.as_conv(self, filters, biases, atol)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        return _shared.describe(self, f"tile={self.tile}")


class TiledConv1d(_TiledConv):
    """Convolution with one filter per phase, over one axis of space; see its base class."""

    dimension = 1


class TiledConv2d(_TiledConv):
    """Convolution with one filter per phase, over two axes of space; see its base class."""

    dimension = 2


class TiledConv3d(_TiledConv):
    """Convolution with one filter per phase, over three axes of space; see its base class."""

    dimension = 3
