"""Region convolutions: filters shared within a region of the output and not across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import as_batch, cast, check_input, convolve, correlate, pad
from symconv.lattice.windows import Size, Window
from symconv.nn import _shared
from symconv.nn._region_plan import Cuts, Place, Plan, checked_labels, plan
from symconv.structure import Structure

SHOWN = 64  # positions that a repr writes out


class _RegionConv(nn.Module):
    r"""Convolution with one filter per region: shared within a region and not across.

        y[b, o, l] = bias[r, o] + sum over taps t, channels c of
                     x[b, c, s l + d t - p] * W[r, t, c, o]    with r = regions[l]

    For pictures whose parts have a place: the brows of a centred face lie above, the jaw below.
    One label is convolution, all labels different a locally connected layer, labels that repeat a
    tiled convolution.

    Shapes: input (N, in_channels, \*S) or without N; output (N, out_channels, \*regions.shape);
    `weight` (R, \*kernel_size, in_channels // groups, out_channels); `bias` (R, out_channels);
    `regions`, a buffer, int64. Exact up to the rounding of sums. Few compact regions run as one
    convolution on the bounding box of each; others on the local kernel: see
    `symconv.kernels.local` for its memory.

    The repr can be pasted back up to 64 output positions; larger `regions` are summed up.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next three.
        regions: The region of each output position: labels 0..R-1, each used.
        stride: Step between outputs, in input positions.
        padding: Positions added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps, in input positions.
        groups: Blocks of channels that see only each other.
        bias: Add a learned bias, one per channel and region?
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: An argument is out of range, labels have gaps, or (when called) the input
            has other channels or a size whose output has not the regions' shape.

    Example:
        >>> regions = torch.tensor([0, 0, 1, 1])[:, None].expand(4, 4)  # above and below
        >>> layer = RegionConv2d(3, 8, kernel_size=3, regions=regions, padding=1)
        >>> layer.weight.shape, layer(torch.zeros(5, 3, 4, 4)).shape
        (torch.Size([2, 3, 3, 3, 8]), torch.Size([5, 8, 4, 4]))

    References:
        Taigman et al., DeepFace (2014), uses unshared filters where regions differ; LeCun,
        Generalization and network design strategies (1989), compares degrees of sharing.
    """

    dimension: ClassVar[int]
    window: Window
    in_channels: int
    out_channels: int
    groups: int
    weight: nn.Parameter
    bias: nn.Parameter | None
    regions: Tensor
    _plan: Plan | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        regions: Tensor,
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
        labels = checked_labels(regions, self.dimension)
        count = int(labels.max()) + 1
        self._plan = plan(labels)
        self.register_buffer("regions", torch.as_tensor(labels, device=device))
        self.register_load_state_dict_post_hook(_read_regions_again)
        weight = (count, *_shared.filter_shape(self))
        biases = (count, out_channels) if bias else None
        _shared.make_parameters(self, weight, biases, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in +-1 / sqrt(fan-in) as torch's convolutions do."""
        _shared.draw_uniform(self, self.in_channels // self.groups * self.window.taps)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_channels, *S), or without N."""
        if not isinstance(x, Tensor):
            return x.uniform(self, type(self).__name__)  # a ragged batch, of one size
        n = self.dimension
        check_input(x, n, self.in_channels, "in_channels")
        out = self.window.output_size(x.shape[-n:])
        if out != tuple(self.regions.shape):
            raise StructureError(
                f"an input whose output has the regions' shape {tuple(self.regions.shape)}",
                f"output {out} from input size {tuple(x.shape[-n:])}",
                "resize the input or build a layer with regions of that shape",
            )
        x, weight, bias = cast(x, self.weight, self.bias)
        if self._plan is None:
            labels = self.regions.flatten()
            each = None if bias is None else bias[self.regions].movedim(-1, 0)
            return correlate(x, weight, labels, each, self.window, self.groups)
        y = self._by_boxes(self._plan, as_batch(pad(x, self.window), n), weight, bias)
        return y.squeeze(0) if x.ndim == n + 1 else y

    def _by_boxes(self, plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        window, parts = self.window, []
        for label, place in enumerate(plan.boxes):
            seen = x
            rows = zip(place, window.stride, window.extent, strict=True)
            for axis, (part, step, extent) in enumerate(rows, 2):
                length = step * (part.stop - part.start - 1) + extent
                seen = seen.narrow(axis, step * part.start, length)
            each = None if bias is None else bias[label]
            y = convolve(seen, weight[label], each, window.stride, window.dilation, self.groups)
            if not plan.full[label]:  # chosen, not multiplied: what lies outside may be infinite
                y = torch.where(self.regions[place] == label, y, torch.zeros_like(y))
            parts.append(y)
        if plan.cuts is not None:
            return _joined(plan.cuts, parts)
        spread = [
            _spread(y, place, self.regions.shape)
            for y, place in zip(parts, plan.boxes, strict=True)
        ]
        return sum(spread[1:], spread[0])

    def structure(self, input_size: Size) -> Structure:
        """What the layer connects and shares on inputs of `input_size`."""
        channels, labels = (self.in_channels, self.out_channels), self.regions.cpu().numpy()
        return Structure.region(*channels, self.window, input_size, labels, self.groups)

    @classmethod
    def from_conv(cls, conv: nn.Module, regions: Tensor) -> Self:
        """A layer that starts as `conv`, one filter per region then untied.

        Raises:
            StructureError: `conv` is no convolution of this dimension.
        """
        layer = cls(**_shared.conv_arguments(conv, cls.dimension), regions=regions)
        return _shared.start_as(layer, conv, bias_axis=-1)

    def to_conv(self, atol: float = 0.0) -> nn.Module:
        """The equal torch convolution, where all filters agree (those of the first region).

        Raises:
            StructureError: Filters or biases differ by more than `atol`.
        """
        biases = None if self.bias is None else self.bias.detach()
        return _shared.as_conv(self, self.weight.detach(), biases, atol)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        regions = f"<{len(self.weight)} regions over {tuple(self.regions.shape)}>"
        if self.regions.numel() <= SHOWN and not self.regions.is_meta:
            regions = f"torch.tensor({self.regions.tolist()})"
        return _shared.describe(self, f"regions={regions}")


def _joined(cuts: Cuts, parts: list[Tensor]) -> Tensor:
    if isinstance(cuts, int):
        return parts[cuts]
    axis, pieces = cuts
    return torch.cat([_joined(piece, parts) for piece in pieces], 2 + axis)


def _spread(y: Tensor, place: Place, size: Sequence[int]) -> Tensor:
    ends = [(part.start, s - part.stop) for part, s in zip(place, size, strict=True)]
    return F.pad(y, [amount for pair in reversed(ends) for amount in pair])


def _read_regions_again(layer: _RegionConv, _: Any) -> None:
    if not layer.regions.is_meta:
        labels = checked_labels(layer.regions, layer.dimension)
        if int(labels.max()) + 1 != len(layer.weight):
            raise StructureError(f"regions for {len(layer.weight)} filters", int(labels.max()) + 1)
        layer._plan = plan(labels)


class RegionConv1d(_RegionConv):
    """Convolution with one filter per region, over one axis of space; see its base class."""

    dimension = 1


class RegionConv2d(_RegionConv):
    """Convolution with one filter per region, over two axes of space; see its base class."""

    dimension = 2


class RegionConv3d(_RegionConv):
    """Convolution with one filter per region, over three axes of space; see its base class."""

    dimension = 3
