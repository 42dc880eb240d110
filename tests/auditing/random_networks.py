"""Random networks whose receptive fields are compared: branches, strides, dilation, upsampling."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

KINDS = "conv conv dilated depthwise pool average residual concat shift last shuffle".split()  # noqa: SIM905
GROWING = ["up", "linear", "transposed"]  # few of them: a map must stay small


class Branches(nn.Module):
    """Two paths of one stride that meet: a sum, or a concatenation."""

    def __init__(self, left, right, join):
        super().__init__()
        self.left, self.right, self.join = left, right, join

    def forward(self, x):
        a, b = self.left(x), self.right(x)
        space = [min(n, m) for n, m in zip(a.shape[2:], b.shape[2:], strict=True)]
        a, b = (t[(..., *(slice(n) for n in space))] for t in (a, b))
        return a + b if self.join == "add" else torch.cat([a, b], 1)


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function, text, *inside):
        super().__init__()
        self.function, self.text, self.inside = function, text, nn.ModuleList(inside)

    def forward(self, x):
        return self.function(x, *self.inside)

    def extra_repr(self):
        return self.text


def unshuffle(x):
    even = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    return F.pixel_unshuffle(even, 2)


def same(kernel, dilation):
    return dilation * (kernel - 1) // 2


@st.composite
def layers(draw, n, channels, kinds):
    """One layer of n space axes and the channels that come out of it."""
    axes = st.tuples(*[st.integers(1, 3)] * n)
    kind = draw(st.sampled_from(kinds))
    kernel, stride = draw(axes), draw(st.tuples(*[st.integers(1, 2)] * n))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if kind in ("conv", "dilated"):
        dilation = draw(axes) if kind == "dilated" else 1
        return conv(n)(channels, 2, kernel, stride, padding, dilation), 2
    if kind == "depthwise":
        return conv(n)(channels, channels, kernel, stride, padding, groups=channels), channels
    if kind in ("pool", "average"):
        ceil = draw(st.booleans())
        name = "MaxPool" if kind == "pool" else "AvgPool"
        return getattr(nn, f"{name}{n}d")(kernel, stride, padding, ceil_mode=ceil), channels
    if kind == "up":
        return nn.Upsample(scale_factor=2, mode="nearest"), channels
    if kind == "linear":
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[n]
        factor = draw(st.sampled_from([2, 3]))
        return nn.Upsample(scale_factor=factor, mode=mode), channels
    if kind == "transposed":
        make = getattr(nn, f"ConvTranspose{n}d")
        return make(channels, 2, kernel, stride, padding), 2
    if kind == "shift":
        by = draw(st.integers(-2, 2))
        return Step(lambda x: torch.roll(x, by, -1), f"roll {by}"), channels
    if kind == "last":  # channels last and back
        line = nn.Linear(channels, 2)
        return Step(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), "channels last", line), 2
    if kind == "shuffle" and n == 2:
        return Step(unshuffle, "unshuffle"), 4 * channels
    size = draw(st.sampled_from([1, 3]))
    dilation = draw(st.integers(1, 2))
    left = conv(n)(channels, 2, size, stride, same(size, dilation), dilation)
    right = conv(n)(channels, 2, 1, stride)
    join = "cat" if kind == "concat" else "add"
    return Branches(left, right, join), 4 if join == "cat" else 2


GROWN = (nn.Upsample, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def conv(n):
    return getattr(nn, f"Conv{n}d")


@st.composite
def networks(draw, dimensions=(1, 2, 3), depth=5):
    """A random network in evaluation mode, with its number of space axes."""
    n = draw(st.sampled_from(dimensions))
    count = draw(st.integers(1, depth if n < 3 else min(depth, 3)))
    found, channels = [], 1
    for _ in range(count):
        grown = sum(isinstance(layer, GROWN) for layer in found)
        kinds = KINDS + GROWING * (grown < (1 if n == 3 else 2))
        layer, channels = draw(layers(n, channels, kinds))
        found += [layer, nn.ReLU()]
    return nn.Sequential(*found).eval(), n
