"""What the reference networks share: how they were built, checks of input, their plain equal."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

from torch import Tensor, fx, nn

from symconv.errors import StructureError
from symconv.export import plain
from symconv.models.kit import Features, Kit, channels
from symconv.nn._copies import traced


class Network(nn.Module):
    """A network that remembers its recipe, so that a twin of another group can be built.

    Attributes:
        kit: What it is made of.
        recipe: Builds the same network from another kit.
        in_channels: Channels of its input.
        stride: Input positions between two sites of its coarsest map.
        remainder: Sizes S with ``S % stride == remainder`` on every axis are centred: there every
            strided layer samples symmetrically about the input's centre, and the network commutes
            with its group. Others may do too; a layer that is off-centre warns.
    """

    recipe: partial

    def __init__(self, kit: Kit, in_channels: Features, stride: int, remainder: int = 0):
        super().__init__()
        self.kit, self.in_channels = kit, channels(kit.picture(in_channels))
        self.stride, self.remainder = stride, remainder

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of inputs; what stands for one while torch.fx traces is none."""
        if isinstance(x, fx.Proxy):
            return
        n = self.kit.dimension
        if x.ndim != n + 2 or x.shape[1] != self.in_channels:
            space = ", ".join(["height", "width"] if n == 2 else [f"S{i + 1}" for i in range(n)])
            raise StructureError(
                f"an input (N, {self.in_channels}, {space})", f"shape {tuple(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The output for a batch (N, in_channels, *S)."""
        self.check(x)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """`forward` without its check."""
        raise NotImplementedError

    def to_plain(self) -> nn.Module:
        """An equal graph of torch's layers, in evaluation: it loads without this package."""
        body = deepcopy(self).eval()
        for name, child in list(body.named_children()):
            setattr(body, name, plain(child))
        return traced(body)


class Classifier(nn.Module):
    """Invariant scores of a map: the largest component of each copy, mean over space, linear."""

    def __init__(self, kit: Kit, features: Features, classes: int):
        super().__init__()
        self.invariant = kit.invariant(features)
        self.linear = nn.Linear(
            features if isinstance(features, int) else features.copies, count(classes, "classes")
        )

    def forward(self, x):
        """Scores (N, classes) of a map (N, C, *S)."""
        return self.linear(self.invariant(x).flatten(2).mean(2))


def count(value: object, name: str, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        StructureError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StructureError(f"{name} as a whole number of at least {least}", repr(value))
    return value


def choice(value: object, name: str, options: tuple) -> None:
    """Refuse a value that is none of the options.

    Raises:
        StructureError: It is none.
    """
    if value not in options:
        raise StructureError(f"{name} as one of {', '.join(map(repr, options))}", repr(value))


def probability(value: float, name: str) -> float:
    """A number from 0 up to but not including 1.

    Raises:
        StructureError: It is none.
    """
    if not 0 <= value < 1:
        raise StructureError(f"{name} from 0 up to 1 (1 left out)", repr(value))
    return value
