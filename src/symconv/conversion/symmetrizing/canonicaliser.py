"""A learned pose: a small equivariant network that scores the elements of a group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv import nn as layers
from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.lattice.windows import per_axis

_CONV: dict[int, Any] = {
    1: layers.GroupConv1d,
    2: layers.GroupConv2d,
    3: layers.GroupConv3d,
}
_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Canonicaliser(nn.Module):
    r"""Scores of a group's elements: how well does each bring the input into its usual pose?

    Three group convolutions lead from the input's field to one regular feature v, averaged over
    space; the score of g is v[g^-1], so that

        scores(h x)[g] = scores(x)[g h].

    For `symconv.symmetrize(..., how="canonical", canonicaliser=...)`; trained with the model by its
    task (the pose is chosen with a straight-through gradient), with `prior_loss`, or both.

    Shapes: input (N, in_field.channels, \*S), output (N, in_field.group.order). Equivariant up to
    rounding; that the symmetrised model is invariant to the bit does not depend on it.

    Args:
        in_field: What the channels of the input mean, such as ``D4.trivial(3)``.
        width: Copies of the regular representation inside.
        kernel_size: Taps of every window, odd.
        shrink: Average blocks of so many positions along each axis first. Large pictures need no
            fine look to see which way is up.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: `in_field` is none, the kernel is even, a number is not positive, or (when
            called) `shrink` does not divide the input's size.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> pose = Canonicaliser(parse("C4").trivial(1), width=2)
        >>> pose(torch.rand(5, 1, 9, 9)).shape
        torch.Size([5, 4])

    References:
        Kaba, Mondal, Zhang, Bengio, Ravanbakhsh, Equivariance with learned canonicalization
        functions (2023), section 4.
    """

    def __init__(
        self,
        in_field: Field,
        width: int = 4,
        kernel_size: int = 5,
        shrink: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(in_field, Field):
            raise StructureError("in_field as a field, such as D4.trivial(3)", repr(in_field))
        (width,), (shrink,) = per_axis(width, 1, "width"), per_axis(shrink, 1, "shrink")
        (kernel_size,) = per_axis(kernel_size, 1, "kernel_size")
        if kernel_size % 2 == 0:
            raise StructureError("an odd kernel_size", kernel_size)
        group = in_field.group
        self.in_field, self.width, self.shrink = in_field, width, shrink
        self.kernel_size = kernel_size
        conv, hidden = _CONV[group.dimension], group.regular(width)
        made = {"padding": kernel_size // 2, "device": device, "dtype": dtype}
        self.layers = nn.Sequential(
            conv(in_field, hidden, kernel_size, **made),
            nn.ReLU(),
            conv(hidden, hidden, kernel_size, **made),
            nn.ReLU(),
            conv(hidden, group.regular(1), kernel_size, **made),
        )
        self._inverse = group.inverse.tolist()

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, order)."""
        group = self.in_field.group
        if self.shrink > 1:
            space = x.shape[2:]
            if any(size % self.shrink for size in space):
                raise StructureError(
                    f"sizes that are multiples of shrink={self.shrink}", tuple(space)
                )
            x = _POOL[group.dimension](x, self.shrink)
        found = self.layers(x).flatten(2).mean(2)
        return found[:, self._inverse]

    def __repr__(self) -> str:
        options = {"width": 4, "kernel_size": 5, "shrink": 1}
        given = [f"{k}={v}" for k, d in options.items() if (v := getattr(self, k)) != d]
        return f"Canonicaliser({', '.join([str(self.in_field), *given])})"


def prior_loss(scores: Tensor, prior: Tensor | None = None) -> Tensor:
    """How far the poses that scores tell are from what is known of them.

    The cross entropy ``-sum over g of prior[g] log softmax(scores)[g]``, a mean over the samples. A
    training set that stands upright has its prior on the identity: the default. Added to the
    model's own loss it keeps upright pictures upright, which a model trained on them needs.

    Args:
        scores: Scores (N, order) of a canonicaliser for pictures as they are in the set.
        prior: Probabilities (order,) of the elements that bring the set's pictures into the pose
            in which the model knows them; the identity for sure if left out.

    Raises:
        StructureError: The scores are no table, or the prior has another length, or is no
            distribution.

    Example:
        >>> prior_loss(torch.zeros(3, 4))  # as good as a guess among four: log 4
        tensor(1.3863)

    References:
        Mondal, Panigrahi, Kaba, Rajeswar, Ravanbakhsh, Equivariant adaptation of large pretrained
        models (2023), section 3.2.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise StructureError("scores (N, order)", came)
    logs = scores.log_softmax(1)
    if prior is None:
        return -logs[:, 0].mean()
    if prior.shape != scores.shape[1:]:
        raise StructureError(f"a prior of {scores.shape[1]} elements", tuple(prior.shape))
    if bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-4:
        raise StructureError("probabilities that sum to 1", prior.tolist())
    return -(logs @ prior.to(logs)).mean()
