"""What a layer's window does to a map: read from the module, in one form for all kinds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx, nn

from symconv import nn as ours
from symconv.lattice.windows import per_axis

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAXES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
BLURS = (ours.BlurPool1d, ours.BlurPool2d, ours.BlurPool3d)
GROUPED = (ours.GroupConv1d, ours.GroupConv2d, ours.GroupConv3d)
ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
UPSAMPLES = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    ours.FieldBatchNorm,
)
PLACED = (  # one weight for each position, or each place in a tile
    ours.BiasMap,
    ours.LocallyConnected1d,
    ours.LocallyConnected2d,
    ours.LocallyConnected3d,
    ours.LocallyConnectedTranspose1d,
    ours.LocallyConnectedTranspose2d,
    ours.LocallyConnectedTranspose3d,
    ours.RegionConv1d,
    ours.RegionConv2d,
    ours.RegionConv3d,
    ours.TiledConv1d,
    ours.TiledConv2d,
    ours.TiledConv3d,
)
ACTIVATIONS = tuple(
    getattr(nn, name) for name in nn.modules.activation.__all__ if "Attention" not in name
)
POINTWISE = (
    *ACTIVATIONS,
    *NORMS,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.ChannelShuffle,
    ours.FieldDropout,
    ours.FieldGated,
    ours.FieldNormReLU,
    ours.GroupPool,
    ours.PointwiseChain,
)


@dataclass(frozen=True)
class Window:
    """A layer's window, per axis of space."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    mode: str  # of the padding: "circular", "zeros" or another of torch's
    ceil: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """Positions from a window's first to its last, less one."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True))

    @property
    def strided(self) -> bool:
        """Whether it skips positions."""
        return any(step > 1 for step in self.stride)

    def circled(self) -> Window:
        """The window with what lies beyond the border taken from the other side."""
        padded = any(self.before) or any(self.after)
        if self.mode != "zeros" or not (padded or self.ceil):
            return self
        ends = zip(self.before, self.after, self.reach, self.stride, strict=True)
        after = tuple(max(a, r + 1 - s - b) if self.ceil else a for b, a, r, s in ends)
        return replace(self, after=after, mode="circular", ceil=False)

    def beyond(self, had: tuple[int, ...]) -> tuple[int, ...]:
        """Cells past size / stride that come out where `had` cells past the size went in."""
        terms = zip(had, self.before, self.after, self.reach, self.stride, strict=True)
        spare = [(more + a + b - reach - 1, step) for more, a, b, reach, step in terms]
        return tuple((-(-left // step) if self.ceil else left // step) + 1 for left, step in spare)


def window(module: nn.Module, n: int) -> Window | None:
    """The window of a layer that has one; None of others."""
    one = (1,) * n
    if isinstance(module, CONVS):
        size, stride, step = module.kernel_size, module.stride, module.dilation
        if isinstance(module.padding, str):
            total = [d * (k - 1) if module.padding == "same" else 0
                     for d, k in zip(step, size, strict=True)]  # fmt: skip
            before = tuple(t // 2 for t in total)
            after = tuple(t - t // 2 for t in total)
        else:
            before = after = tuple(module.padding)
        return Window(size, stride, before, after, step, module.padding_mode)
    if isinstance(module, (*MAXES, *MEANS)):
        size = per_axis(module.kernel_size, n, "kernel_size")
        stride = per_axis(module.stride or module.kernel_size, n, "stride")
        sides = per_axis(module.padding, n, "padding", 0)
        step = per_axis(getattr(module, "dilation", 1), n, "dilation")
        return Window(size, stride, sides, sides, step, "zeros", module.ceil_mode)
    if isinstance(module, BLURS):
        before = tuple((k - 1) // 2 for k in module.kernel_size)
        after = tuple(k // 2 for k in module.kernel_size)
        return Window(module.kernel_size, module.stride, before, after, one, module.padding_mode)
    if isinstance(module, GROUPED):
        inner = module.window
        before, after = (tuple(pair[i] for pair in inner.padding) for i in (0, 1))
        return Window(
            inner.kernel_size, inner.stride, before, after, inner.dilation, inner.padding_mode
        )
    return None


def module_of(made: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls."""
    return made.get_submodule(str(node.target)) if node.op == "call_module" else None
