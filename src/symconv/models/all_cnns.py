"""All-CNN-C (Springenberg et al. 2015): nine convolutions and nothing else."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.groups import Group
from symconv.models.kit import WINDOWS, Features, Kit, draw_he
from symconv.models.matching import matched
from symconv.models.network import Network, choice, count, probability


class AllCNN(Network):
    """The network that `all_cnn` builds."""

    def __init__(
        self,
        kit: Kit,
        *,
        width: int,
        classes: int,
        in_channels: Features,
        windows: str,
        dropout: tuple[float, float],
        norm: bool,
    ):
        super().__init__(kit, in_channels, 4, int(windows == "odd"))
        into, narrow, wide = kit.picture(in_channels), kit.hidden(width), kit.hidden(2 * width)
        even = windows == "even"
        # (features, kernel, stride, padding): the windows that stride are even on request
        stride = (3 + even, 2, 1)
        rows = [(narrow, 3, 1, 1), (narrow, 3, 1, 1), (narrow, *stride),
                (wide, 3, 1, 1), (wide, 3, 1, 1), (wide, *stride),
                (wide, 3, 1, 0), (wide, 1, 1, 0), (kit.whole(classes), 1, 1, 0)]  # fmt: skip
        layers = [kit.dropout(into, dropout[0])] if dropout[0] else []
        for out, kernel, step, padding in rows:
            layers.append(kit.conv(into, out, kernel, step, padding, bias=True))
            layers += [kit.batch_norm(out)] if norm and out is not rows[-1][0] else []
            layers.append(nn.ReLU())
            layers += [kit.dropout(out, dropout[1])] if step > 1 and dropout[1] else []
            into = out
        self.layers = nn.Sequential(*layers)
        self.invariant = kit.invariant(into)
        draw_he(self, "fan_in")

    def features(self, x: Tensor) -> Tensor:
        """The last map (N, C, *S / 4 - 2), which turns with its input."""
        return self.layers(x)

    def compute(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        return self.invariant(self.features(x)).flatten(2).mean(2)


def all_cnn(
    group: Group | str | None = None,
    *,
    width: int = 96,
    match: str | None = "width",
    classes: int = 10,
    in_channels: Features = 3,
    dimension: int | None = None,
    windows: str = "even",
    dropout: tuple[float, float] = (0.2, 0.5),
    norm: bool = False,
) -> AllCNN:
    r"""All-CNN-C, plain or equivariant, in 1-D, 2-D or 3-D.

    Three 3 x 3 convolutions of `width`, the third with stride 2; three of twice that, likewise;
    one without padding; two pointwise ones, the last with a copy per class; each with a ReLU. The
    scores are the mean over space of the largest component of each copy.

    Shapes: input (N, in_channels, \*S) of at least 9 positions, output (N, classes). Scores are
    invariant under the group up to rounding on centred sizes: multiples of 4 from 12 on, or with
    ``windows="odd"`` 4 k + 1 (33).

    Args:
        group: A symmetry group or its short name; None for the plain network.
        width: Channels of the plain network's first three layers.
        match: What a group's network has in common with the plain one; see `resnet`. The published
            ones are ``all_cnn("C4", width=48, match=None)`` and ``all_cnn("D4", width=32,
            match=None)``, with ``windows="odd"``.
        classes: Number of scores.
        in_channels: Channels of the input, a number or a field.
        dimension: Axes of space, 1 to 3: by default the group's, or 2.
        windows: "even": the windows that stride are 4 wide; "odd": 3, as published.
        dropout: Probabilities to drop inputs, and copies after the layers that stride.
        norm: Batch norm after each convolution but the last (the paper has none)?

    Raises:
        StructureError: An argument is none of the above, or the match cannot be met.

    Example:
        >>> import torch
        >>> published = all_cnn(windows="odd")
        >>> sum(p.numel() for p in published.parameters() if p.ndim > 1)  # weights
        1368480
        >>> all_cnn("D4", width=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for simplicity (2015), table 1, model
        C; Cohen and Welling, Group equivariant convolutional networks (2016), section 8.2.
    """
    choice(windows, "windows", WINDOWS)
    if not isinstance(dropout, tuple | list) or len(dropout) != 2:
        raise StructureError("two probabilities as dropout, such as (0.2, 0.5)", repr(dropout))
    first, later = dropout
    recipe = partial(
        AllCNN,
        width=count(width, "width"),
        classes=count(classes, "classes"),
        in_channels=in_channels,
        windows=windows,
        dropout=(probability(first, "dropout"), probability(later, "dropout")),
        norm=bool(norm),
    )
    return matched(recipe, group, dimension, match)
