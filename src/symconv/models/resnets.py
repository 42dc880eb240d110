"""Residual networks: ResNet (He et al. 2016) and wide ResNet (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.models.kit import WINDOWS, Features, Kit, draw_he
from symconv.models.matching import matched
from symconv.models.network import Classifier, Network, choice, count, probability

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip
STEMS = {"standard": 4, "half": 2, "small": 1}  # and their strides


class Residual(nn.Module):
    """y = relu(shortcut(x) + body(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        """The sum of both branches, rectified."""
        return torch.relu(self.shortcut(x) + self.body(x))


class PreActivated(nn.Module):
    """z = enter(x); y = shortcut(z) + body(z), or x + body(z) where the shortcut is the identity.

    He et al., Identity Mappings in Deep Residual Networks (2016).
    """

    def __init__(self, enter: nn.Module, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.enter, self.body, self.shortcut = enter, body, shortcut

    def forward(self, x):
        """The sum of both branches."""
        z = self.enter(x)
        return self.body(z) + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(z))


def strided(kit: Kit, into: Features, out: Features, taps: int, stride: int, windows: str) -> Any:
    """A convolution whose window gets one tap more where "even" windows stride."""
    return kit.conv(into, out, taps + (windows == "even" and stride > 1), stride, (taps - 1) // 2)


def projection(
    kit: Kit, into: Features, out: Features, stride: int, windows: str
) -> list[nn.Module]:
    """A pointwise convolution that strides; "even" windows average over 2 x 2 sites before it."""
    if stride > 1 and windows == "even":
        return [kit.avg_pool(into, stride), kit.conv(into, out, 1)]
    return [kit.conv(into, out, 1, stride)]


def basic(kit: Kit, into: Features, width: float, stride: int, windows: str) -> Residual:
    """Two 3 x 3 convolutions."""
    out = kit.hidden(width)
    body = nn.Sequential(
        strided(kit, into, out, 3, stride, windows),
        kit.batch_norm(out),
        nn.ReLU(),
        kit.conv(out, out, 3),
        kit.batch_norm(out),
    )
    return Residual(body, _shortcut(kit, into, out, stride, windows))


def bottleneck(kit: Kit, into: Features, width: float, stride: int, windows: str) -> Residual:
    """1 x 1, 3 x 3 (which strides) and 1 x 1 to four times the width."""
    middle, out = kit.hidden(width), kit.hidden(4 * width)
    body = nn.Sequential(
        kit.conv(into, middle, 1),
        kit.batch_norm(middle),
        nn.ReLU(),
        strided(kit, middle, middle, 3, stride, windows),
        kit.batch_norm(middle),
        nn.ReLU(),
        kit.conv(middle, out, 1),
        kit.batch_norm(out),
    )
    return Residual(body, _shortcut(kit, into, out, stride, windows))


def _shortcut(kit: Kit, into: Features, out: Features, stride: int, windows: str) -> nn.Module:
    if into == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(*projection(kit, into, out, stride, windows), kit.batch_norm(out))


class ResNet(Network):
    """The network that `resnet` builds: stem, stages of residual blocks, head."""

    def __init__(
        self,
        kit: Kit,
        *,
        stages: tuple[int, ...],
        deep: bool,
        width: int,
        classes: int,
        in_channels: Features,
        stem: str,
        windows: str,
        zero_init: bool,
    ):
        first = STEMS[stem]
        odd = windows == "odd"
        super().__init__(kit, in_channels, first * 2 ** (len(stages) - 1), int(odd))
        into, out = kit.picture(in_channels), kit.hidden(width)
        if stem == "standard":
            layers = [strided(kit, into, out, 7, 2, windows), kit.batch_norm(out), nn.ReLU()]
            layers.append(kit.max_pool(out, 3, 2, 1) if odd else kit.max_pool(out, 2, 2))
        else:
            layers = [strided(kit, into, out, 3, first, windows), kit.batch_norm(out), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.stages, block = nn.ModuleList(), bottleneck if deep else basic
        for stage, blocks in enumerate(stages):
            here, row = width * 2**stage, []
            for place in range(blocks):
                row.append(block(kit, out, here, 2 if stage and not place else 1, windows))
                out = kit.hidden(4 * here if deep else here)
            self.stages.append(nn.Sequential(*row))
        self.head = Classifier(kit, out, classes)
        draw_he(self, "fan_out")
        if zero_init:
            for part in self.modules():
                if isinstance(part, Residual):
                    nn.init.zeros_(part.body[-1].weight)  # type: ignore[index]

    def features(self, x: Tensor) -> Tensor:
        """The last map (N, C, *S / stride), which turns with its input."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def compute(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        return self.head(self.features(x))


def resnet(
    depth: int,
    group: Group | str | None = None,
    *,
    width: int | None = None,
    match: str | None = "width",
    classes: int = 1000,
    in_channels: Features = 3,
    dimension: int | None = None,
    windows: str = "even",
    stem: str | None = None,
    zero_init: bool = False,
) -> ResNet:
    r"""A residual network, plain or equivariant, in 1-D, 2-D or 3-D.

        y = relu(x + F(x)),   F two 3 x 3 convolutions, or (depth >= 50) 1 x 1, 3 x 3, 1 x 1

    Every hidden map of a group's network is a regular field; the head takes the largest component
    of each copy, the mean over space, and a linear layer.

    Shapes: input (N, in_channels, \*S) of any size, output (N, classes). Scores are invariant
    under the group up to rounding on *centred* sizes. With ``windows="even"`` those are the
    multiples of `net.stride` (32; with the small stem 8, of depth 6 n + 2 4), such as 224 and 32;
    with "odd" the multiples plus one, such as 225 and 33. Groups that act inexactly (such as C8)
    keep the scores at quarter turns only.

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks); or 6 n + 2, such as 20, 32,
            44, 56 or 110: the networks for small pictures, with three stages and the small stem.
        group: A symmetry group or its short name; None for the plain network, of torch's layers.
        width: Channels of the plain network's first stage: 64, or 16 for depth 6 n + 2.
        match: What a group's network has in common with the plain one of this width: "width"
            (channels in all, and so nearly the time), "params" (parameters in all), "macs"
            (multiply-accumulates); None: `width` counts the copies of its regular fields instead.
        classes: Number of scores.
        in_channels: Channels of the input: a number (they only move with the grid) or a field.
        dimension: Axes of space, 1 to 3: by default the group's, or 2.
        windows: "even": windows that stride have one tap more than published (8, 4), the stem
            pools by 2 x 2, and shortcuts average 2 x 2 sites; "odd": the published windows (7, 3,
            3 and 1), with which ``resnet(50, windows="odd")`` is the published network.
        stem: "standard" (a 7 x 7 convolution and a pool, together stride 4), "half" (3 x 3,
            stride 2) or "small" (3 x 3, stride 1); by default as the depth suggests.
        zero_init: Start every block's last norm at zero, so that blocks begin as the identity
            (Goyal et al. 2017)?

    Raises:
        StructureError: An argument is none of the above, or the match cannot be met to within
            10 %.

    Example:
        >>> net = resnet(18, "C4", classes=10, width=16)
        >>> net(torch.zeros(2, 3, 64, 64)).shape, net.stride
        (torch.Size([2, 10]), 32)
        >>> plain = resnet(18, windows="odd")  # the published one
        >>> sum(p.numel() for p in plain.parameters())
        11689512

    References:
        He, Zhang, Ren, Sun, Deep residual learning for image recognition (2016), tables 1 and 6,
        option B, the stride of bottlenecks on their 3 x 3 convolution (Gross and Wilber 2016);
        averaging shortcuts: He et al., Bag of tricks for image classification (2019), fig. 2c;
        Cohen and Welling, Group equivariant convolutional networks (2016).
    """
    whole = isinstance(depth, int) and not isinstance(depth, bool)
    standard = whole and depth in STAGES
    if not standard and (not whole or depth % 6 != 2 or depth < 8):
        known = ", ".join(map(str, STAGES))
        raise StructureError(f"a depth among {known}, or 6 n + 2 such as 20 or 56", repr(depth))
    stem = stem or ("standard" if standard else "small")
    choice(stem, "stem", tuple(STEMS))
    choice(windows, "windows", WINDOWS)
    recipe = partial(
        ResNet,
        stages=STAGES[depth] if standard else ((depth - 2) // 6,) * 3,
        deep=standard and depth >= 50,
        width=count((64 if standard else 16) if width is None else width, "width"),
        classes=count(classes, "classes"),
        in_channels=in_channels,
        stem=stem,
        windows=windows,
        zero_init=zero_init,
    )
    return matched(recipe, group, dimension, match)


class WideResNet(Network):
    """The network that `wide_resnet` builds."""

    def __init__(
        self,
        kit: Kit,
        *,
        blocks: int,
        widen: int,
        width: int,
        classes: int,
        in_channels: Features,
        windows: str,
        dropout: float,
    ):
        super().__init__(kit, in_channels, 4, int(windows == "odd"))
        out = kit.hidden(width)
        self.stem = kit.conv(kit.picture(in_channels), out, 3)
        self.stages = nn.ModuleList()
        for stage in range(3):
            here, row = kit.hidden(width * widen * 2**stage), []
            for place in range(blocks):
                stride = 2 if stage and not place else 1
                row.append(_pre_activated(kit, out, here, stride, windows, dropout))
                out = here
            self.stages.append(nn.Sequential(*row))
        self.leave = nn.Sequential(kit.batch_norm(out), nn.ReLU())
        self.head = Classifier(kit, out, classes)
        draw_he(self, "fan_out")
        nn.init.zeros_(self.head.linear.bias)

    def features(self, x: Tensor) -> Tensor:
        """The last map (N, C, *S / 4), which turns with its input."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.leave(x)

    def compute(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        return self.head(self.features(x))


def _pre_activated(
    kit: Kit, into: Features, out: Features, stride: int, windows: str, dropout: float
) -> PreActivated:
    body = [strided(kit, into, out, 3, stride, windows), kit.batch_norm(out), nn.ReLU()]
    body += [kit.dropout(out, dropout)] if dropout else []
    shortcut: nn.Module = nn.Identity()
    if into != out or stride > 1:
        shortcut = nn.Sequential(*projection(kit, into, out, stride, windows))
    enter = nn.Sequential(kit.batch_norm(into), nn.ReLU())
    return PreActivated(enter, nn.Sequential(*body, kit.conv(out, out, 3)), shortcut)


def wide_resnet(
    depth: int = 28,
    widen: int = 10,
    group: Group | str | None = None,
    *,
    width: int = 16,
    match: str | None = "width",
    classes: int = 10,
    in_channels: Features = 3,
    dimension: int | None = None,
    windows: str = "even",
    dropout: float = 0.0,
) -> WideResNet:
    r"""A wide residual network of pre-activated blocks, plain or equivariant, in 1-D to 3-D.

        y = x + F(relu(norm(x))),   F two 3 x 3 convolutions

    Shapes: input (N, in_channels, \*S) of any size, output (N, classes). Scores are invariant
    under the group up to rounding on centred sizes: multiples of 4, or with ``windows="odd"``
    4 k + 1 (33).

    Args:
        depth: 6 n + 4, such as 16, 22, 28 or 40.
        widen: Factor k of the stages' width.
        group: A symmetry group or its short name; None for the plain network.
        width: Channels of the plain network's stem; the stages have k, 2 k and 4 k times as many.
        match: What a group's network has in common with the plain one; see `resnet`.
        classes: Number of scores.
        in_channels: Channels of the input, a number or a field.
        dimension: Axes of space, 1 to 3: by default the group's, or 2.
        windows: "even" or "odd" (the published ones); see `resnet`.
        dropout: Probability to drop a copy between a block's convolutions (0.3 in the paper).

    Raises:
        StructureError: An argument is none of the above, or the match cannot be met.

    Example:
        >>> net = wide_resnet(10, 2, "D4", width=8, match=None)  # 8, 16, 32, 64 copies
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Zagoruyko and Komodakis, Wide residual networks (2016), table 1: WRN-28-10 has 36.5 M
        parameters.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth % 6 != 4 or depth < 10:
        raise StructureError("a depth of 6 n + 4, such as 16, 28 or 40", repr(depth))
    choice(windows, "windows", WINDOWS)
    recipe = partial(
        WideResNet,
        blocks=(depth - 4) // 6,
        widen=count(widen, "widen"),
        width=count(width, "width"),
        classes=count(classes, "classes"),
        in_channels=in_channels,
        windows=windows,
        dropout=probability(dropout, "dropout"),
    )
    return matched(recipe, group, dimension, match)
