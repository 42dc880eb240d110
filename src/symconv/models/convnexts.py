"""ConvNeXt (Liu et al. 2022): depthwise 7 x 7 windows, layer norm, even windows that stride."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.models.kit import Features, Kit, channels, convolutions, copies, draw_normal
from symconv.models.matching import matched
from symconv.models.network import Classifier, Network, count, probability


class CopyScale(nn.Module):
    """One learned factor per copy, from a small one on (the paper's layer scale)."""

    def __init__(self, features: Features, start: float):
        super().__init__()
        self.size = channels(features) // copies(features)
        self.weight = nn.Parameter(torch.full((copies(features),), start))

    def forward(self, x):
        """The scaled input (N, C, *S)."""
        weight = self.weight.repeat_interleave(self.size)
        return (x.movedim(1, -1) * weight).movedim(-1, 1)


class DropBranch(nn.Module):
    """In training, drops the whole branch of an example with probability p (stochastic depth)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The branch, 0 for some examples, scaled by 1 / (1 - p) for the others."""
        if not self.training or self.p == 0:
            return x
        kept = x.new_full((x.shape[0], *(1,) * (x.ndim - 1)), 1 - self.p).bernoulli()
        return x * (kept / (1 - self.p))

    def to_plain(self) -> nn.Module:
        """The identity, which it is in evaluation."""
        return nn.Identity()

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.p:g}"


class Block(nn.Module):
    """y = x + scale * pointwise(gelu(pointwise(norm(depthwise(x)))))."""

    def __init__(self, kit: Kit, width: float, scale: float, drop: float):
        super().__init__()
        features, wide = kit.hidden(width), kit.hidden(4 * width)
        self.body = nn.Sequential(
            kit.conv(features, features, 7, bias=True, depthwise=True),
            kit.layer_norm(features),
            kit.conv(features, wide, 1, bias=True),
            nn.GELU(),
            kit.conv(wide, features, 1, bias=True),
            CopyScale(features, scale) if scale else nn.Identity(),
            DropBranch(drop),
        )

    def forward(self, x):
        """The input and its branch."""
        return x + self.body(x)


class ConvNeXt(Network):
    """The network that `convnext` builds."""

    def __init__(
        self,
        kit: Kit,
        *,
        depths: tuple[int, ...],
        width: int,
        classes: int,
        in_channels: Features,
        drop_path: float,
        layer_scale: float,
    ):
        super().__init__(kit, in_channels, 2 ** (len(depths) + 1))
        out = kit.hidden(width)
        self.stem = nn.Sequential(
            kit.conv(kit.picture(in_channels), out, 4, 4, 0, bias=True), kit.layer_norm(out)
        )
        self.stages = nn.ModuleList()
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        for stage, blocks in enumerate(depths):
            row, here = [], kit.hidden(width * 2**stage)
            if stage:
                row = [kit.layer_norm(out), kit.conv(out, here, 2, 2, 0, bias=True)]
            for _ in range(blocks):
                row.append(Block(kit, width * 2**stage, layer_scale, rates.pop(0)))
            self.stages.append(nn.Sequential(*row))
            out = here
        self.norm = kit.layer_norm(out)
        self.head = Classifier(kit, out, classes)
        for layer in (*convolutions(self), self.head.linear):
            draw_normal(layer, 0.02)

    def features(self, x: Tensor) -> Tensor:
        """The last map (N, C, *S / stride), which turns with its input."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def compute(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        mean = self.features(x).flatten(2).mean(2, keepdim=True)
        return self.head(self.norm(mean))


def convnext(
    depths: Sequence[int] = (3, 3, 9, 3),
    group: Group | str | None = None,
    *,
    width: int = 96,
    match: str | None = "width",
    classes: int = 1000,
    in_channels: Features = 3,
    dimension: int | None = None,
    drop_path: float = 0.0,
    layer_scale: float = 1e-6,
) -> ConvNeXt:
    r"""A ConvNeXt, plain or equivariant, in 1-D, 2-D or 3-D.

        y = x + scale * W2 gelu(W1 norm(D x)),   D depthwise, 7 x 7; W1 and W2 pointwise

    Its windows that stride are even as published, so that the published network is centred. A
    group's depthwise convolution sees all components of a copy, and nothing else: its channels are
    those of one copy, where the plain one has single channels.

    Shapes: input (N, in_channels, \*S), output (N, classes). Scores are invariant under the group
    up to rounding on the multiples of `net.stride` (32 with four stages).

    Args:
        depths: Blocks of each stage: (3, 3, 9, 3) is tiny, (3, 3, 27, 3) small, with width 128
            base, with width 192 large.
        group: A symmetry group or its short name; None for the plain network.
        width: Channels of the plain network's first stage; they double at each further one.
        match: What a group's network has in common with the plain one; see `resnet`.
        classes: Number of scores.
        in_channels: Channels of the input, a number or a field.
        dimension: Axes of space, 1 to 3: by default the group's, or 2.
        drop_path: Probability to drop the last block's branch in training; it grows to that from
            0 at the first (stochastic depth: 0.1 for tiny in the paper).
        layer_scale: Start of the learned factor of each branch, one per copy; 0 for none.

    Raises:
        StructureError: An argument is none of the above, or the match cannot be met.

    Example:
        >>> net = convnext((1, 1), "C4", width=16, classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape, net.stride
        (torch.Size([2, 10]), 8)

    References:
        Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, A ConvNet for the 2020s (2022), table 9: tiny
        has 28,589,128 parameters; Huang et al., Deep networks with stochastic depth (2016).
    """
    if isinstance(depths, str) or not isinstance(depths, Sequence) or not depths:
        raise StructureError("blocks of each stage, such as (3, 3, 9, 3)", repr(depths))
    if layer_scale < 0:
        raise StructureError("layer_scale of at least 0", repr(layer_scale))
    recipe = partial(
        ConvNeXt,
        depths=tuple(count(blocks, "blocks of a stage") for blocks in depths),
        width=count(width, "width"),
        classes=count(classes, "classes"),
        in_channels=in_channels,
        drop_path=probability(drop_path, "drop_path"),
        layer_scale=float(layer_scale),
    )
    return matched(recipe, group, dimension, match)
