"""U-Net (Ronneberger et al. 2015): maps to maps, down and up again with features side by side."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.models.kit import Features, Kit, draw_he
from symconv.models.matching import matched
from symconv.models.network import Network, choice, count

UPWARDS = ("transposed", "nearest", "linear")


class UNet(Network):
    """The network that `unet` builds: `down`, `bottom`, `up`, and a pointwise last layer."""

    def __init__(
        self,
        kit: Kit,
        *,
        out_channels: Features,
        width: int,
        levels: int,
        in_channels: Features,
        up: str,
        norm: bool,
    ):
        super().__init__(kit, in_channels, 2**levels)
        fields = [kit.hidden(width * 2**level) for level in range(levels + 1)]
        into = kit.picture(in_channels)
        self.down, self.pools = nn.ModuleList(), nn.ModuleList()
        for fine in fields[:-1]:
            self.down.append(_double(kit, into, fine, norm))
            self.pools.append(kit.max_pool(fine, 2, 2))
            into = fine
        self.bottom = _double(kit, into, fields[-1], norm)
        self.lift, self.up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in reversed(list(pairwise(fields))):
            self.lift.append(_lift(kit, coarse, fine, up))
            self.up.append(_double(kit, fine + fine, fine, norm))  # type: ignore[operator]
        self.last = kit.conv(fields[0], kit.picture(out_channels), 1, bias=True)
        draw_he(self, "fan_in")

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of inputs, or does not halve as often as there are levels."""
        super().check(x)
        size, step = tuple(x.shape[2:]), self.stride
        if not torch.compiler.is_compiling() and any(s % step or not s for s in size):
            near = tuple(max(step, round(s / step) * step) for s in size)
            raise StructureError(
                f"a size of multiples of {step}, to halve {len(self.down)} times",
                size,
                f"pad or crop to {near}, or build the network with fewer levels",
            )

    def compute(self, x: Tensor) -> Tensor:
        """The output map (N, out_channels, *S)."""
        kept = []
        for level, pool in zip(self.down, self.pools, strict=True):
            kept.append(level(x))
            x = pool(kept[-1])
        x = self.bottom(x)
        for lift, level in zip(self.lift, self.up, strict=True):
            x = level(torch.cat([kept.pop(), lift(x)], 1))
        return self.last(x)


def _double(kit: Kit, into: Features, out: Features, norm: bool) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with its norm and ReLU."""
    layers = []
    for source in (into, out):
        layers.append(kit.conv(source, out, 3, bias=not norm))
        layers += [kit.batch_norm(out)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _lift(kit: Kit, coarse: Features, fine: Features, up: str) -> nn.Module:
    """From a coarse map to one of twice the size and half the width."""
    if up == "transposed":
        return kit.transposed(coarse, fine, 2)
    return nn.Sequential(kit.conv(coarse, fine, 1, bias=True), kit.upsample(fine, 2, up))


def unet(
    out_channels: Features,
    group: Group | str | None = None,
    *,
    width: int = 64,
    levels: int = 4,
    match: str | None = "width",
    in_channels: Features = 3,
    dimension: int | None = None,
    up: str = "transposed",
    norm: bool = True,
) -> UNet:
    r"""A U-Net, plain or equivariant, in 1-D, 2-D or 3-D: every position gets an output.

    At each level two 3 x 3 convolutions and a 2 x 2 max pool; upwards the coarse map is doubled
    in size, set beside the fine one and convolved twice again; a pointwise layer ends it. Padded,
    so that the output has the input's size.

    Shapes: input (N, in_channels, \*S), output (N, out_channels, \*S), every size a multiple of
    2 ** levels. All windows that stride are even, so that the grid is centred on all of them:
    ``net(act(g, x)) == act(g, net(x), out_channels)`` up to rounding.

    Args:
        out_channels: What comes out at each position: a number of channels (scores of classes,
            that only move with the grid) or any field of the group, such as ``D4.vector(1)``, a
            flow that turns with the picture.
        group: A symmetry group or its short name; None for the plain network.
        width: Channels of the plain network's finest level; they double at each coarser one.
        levels: How often the map is halved.
        match: What a group's network has in common with the plain one; see `resnet`.
        in_channels: Channels of the input, a number or a field.
        dimension: Axes of space, 1 to 3: by default the group's, or 2.
        up: How maps grow: "transposed" (a convolution of kernel and stride 2, as published),
            "nearest" or "linear" (a pointwise layer, then interpolation).
        norm: Batch norm after each convolution, in place of a bias (the paper has none)?

    Raises:
        StructureError: An argument is none of the above, or the match cannot be met; or (when
            called) a size does not halve as often.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> D4 = parse("D4")
        >>> net = unet(D4.vector(1), D4, width=32, levels=2, in_channels=1)
        >>> net(torch.zeros(2, 1, 24, 32)).shape
        torch.Size([2, 2, 24, 32])

    References:
        Ronneberger, Fischer, Brox, U-Net: convolutional networks for biomedical image
        segmentation (2015); Cicek, Abdulkadir, Lienkamp, Brox, Ronneberger, 3D U-Net (2016).
    """
    choice(up, "up", UPWARDS)
    recipe = partial(
        UNet,
        out_channels=out_channels,
        width=count(width, "width"),
        levels=count(levels, "levels"),
        in_channels=in_channels,
        up=up,
        norm=bool(norm),
    )
    return matched(recipe, group, dimension, match)
