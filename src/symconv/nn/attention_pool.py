"""Attention pooling: a learned weighted mean over the positions of a map of any size."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_input
from symconv.nn import _shared

_MAX: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
_MEAN: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class _AttentionPool(nn.Module):
    r"""Pools a map to one vector: the mean over its positions, each weighted by a learned score.

        s[b, h, l] = q[h] . x[b, :, l]                       without `hidden`
        s[b, h, l] = q[h] . tanh(V x[b, :, l] + v)           with
        y[b, c] = sum over l of a[b, h(c), l] x[b, c, l],    a = softmax over positions of s

    Head h weights its own block of channels / heads channels. The scores start at zero, so that
    the layer starts as global mean pooling. It does not matter where something lies, nor how large
    the map is.

    Shapes: input (N, channels, \*S), or a `Ragged` of N maps, each with its own size; output
    (N, channels). Exact up to the rounding of sums.

    Args:
        channels: Channels of the input.
        heads: Blocks of channels that are weighted each in its own way.
        hidden: Channels of the hidden layer of the scores; None for scores linear in the input.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: `heads` does not divide `channels`, a number is not positive, or (when
            called) the input has other axes or channels.

    Example:
        >>> pool = AttentionPool2d(8, heads=2)
        >>> pool
        AttentionPool2d(8, heads=2)
        >>> x = torch.randn(5, 8, 7, 9)
        >>> torch.allclose(pool(x), x.mean((2, 3)), atol=1e-6)  # before it has learned anything
        True

    References:
        Ilse, Tomczak, Welling, Attention-based deep multiple instance learning (2018), equations
        7 and 8; Vaswani et al., Attention is all you need (2017), section 3.2.2: heads.
    """

    dimension: ClassVar[int]

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        hidden: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.channels = _shared.positive(channels, "channels")
        self.heads = _shared.positive(heads, "heads")
        self.hidden = None if hidden is None else _shared.positive(hidden, "hidden")
        if channels % heads:
            raise StructureError(f"heads that divide {channels} channels", heads)
        conv, factory = _CONV[self.dimension], {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        if hidden is not None:
            layers = [conv(channels, hidden, 1, **factory), nn.Tanh()]
        # no bias: the softmax would take it out again
        layers.append(conv(hidden or channels, heads, 1, bias=False, **factory))
        self.score = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hidden layer anew and set the scores to zero: the layer starts as the mean."""
        convolutions: list[Any] = [m for m in self.score if not isinstance(m, nn.Tanh)]
        *hidden, last = convolutions
        for layer in hidden:
            layer.reset_parameters()
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The weighted mean (N, channels) of each map."""
        if x.ndim != self.dimension + 2:
            space = ", ".join("DHW"[-self.dimension :])
            raise StructureError(
                f"an input (N, {self.channels}, {space})", f"shape {tuple(x.shape)}"
            )
        check_input(x, self.dimension, self.channels, "channels")
        mean, scores = _MEAN[self.dimension], self.score(x)
        # The softmax in steps that know each map's own size. Its largest score is a constant to
        # the gradient; the clamp holds what lies outside a map, where a score may be any number.
        top = _MAX[self.dimension](scores, 1).detach()
        weights = (scores - top).clamp(max=0).exp()
        blocks = zip(weights.chunk(self.heads, 1), x.chunk(self.heads, 1), strict=True)
        return torch.cat([mean(a * block, 1) / mean(a, 1) for a, block in blocks], 1).flatten(1)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        options = {"heads": 1, "hidden": None}
        given = [f"{k}={getattr(self, k)}" for k, v in options.items() if getattr(self, k) != v]
        return ", ".join([str(self.channels), *given])

    def __repr__(self) -> str:
        """As it is made, without the layers of the scores."""
        return f"{type(self).__name__}({self.extra_repr()})"


class AttentionPool1d(_AttentionPool):
    """Attention pooling over one axis; see its base class."""

    dimension = 1


class AttentionPool2d(_AttentionPool):
    """Attention pooling over two axes; see its base class."""

    dimension = 2


class AttentionPool3d(_AttentionPool):
    """Attention pooling over three axes; see its base class."""

    dimension = 3
