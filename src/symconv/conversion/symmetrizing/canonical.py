"""A model that sees each input in one pose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.conversion.symmetrizing.average import accumulated
from symconv.conversion.symmetrizing.motions import Shifts, Turns
from symconv.conversion.symmetrizing.outputs import (
    Motion,
    Moves,
    check_output,
    each_moved_back,
    joined,
    mapped,
)
from symconv.errors import StructureError

LIMIT = 64  # tied motions of one sample that are averaged at most


class Canonical(nn.Module):
    """f(x) = g^-1 model(g x) for the g that the input decides: made by `symmetrize`."""

    def __init__(
        self,
        model: nn.Module,
        motion: Motion,
        output: str | Moves,
        chunk: int,
        ties: str,
        canonicaliser: nn.Module | None,
    ):
        super().__init__()
        self.model, self.motion, self.output, self.chunk = model, motion, output, chunk
        self.ties, self.canonicaliser = ties, canonicaliser
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        """The output for the canonical pose, moved back."""
        self.motion.check(x)
        owner, number, weight = self._poses(x)
        # A sample that has one pose is not copied: the usual case, and the only one in a graph.
        posed = self.motion.move_each(number, x if owner is None else x[owner])
        if owner is not None and self.output == "scores":
            owner, number, weight, posed = _without_repeats(owner, number, posed)
        soft = None
        if self.canonicaliser is not None:
            soft, posed, number = self._refined(posed, number)
        y = self._called(posed, None if owner is None else self.chunk * x.shape[0])
        check_output(y, posed.shape[0], self.output, self.motion, x)
        if soft is not None and self.output == "map":
            y, number = _mixed_back(self.motion, soft, y), self._first(number, soft)
        y = each_moved_back(y, number, self.output, self.motion, x)
        if owner is None or weight is None:
            return y
        return mapped(lambda t: _averaged(t, owner, weight, x.shape[0]), y)

    def picture(self, x: Tensor) -> Tensor:
        """The input in its canonical pose (the first, where several tie)."""
        self.motion.check(x)
        with torch.no_grad():
            number = self._tied(x).int().argmax(1)
        return self.motion.move_each(number, x)

    def _tied(self, x: Tensor) -> Tensor:
        """Which poses tie for the best: (N, motions)."""
        if isinstance(self.motion, Turns):
            return self.motion.tied(x, self._inner())
        return self.motion.tied(x)

    def _inner(self) -> Callable[[Tensor], Tensor] | None:
        """What the model makes of shifts: the pose must not depend on them either."""
        inner: Any = self.model
        shifted = isinstance(inner, Canonical) and isinstance(inner.motion, Shifts)
        return inner.picture if shifted else None

    def _poses(self, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Sample, motion and weight of every pose; no samples and weights where each has one."""
        with torch.no_grad():
            tied = self._tied(x)
            if self.ties == "first":
                return None, tied.int().argmax(1), None
            if torch.compiler.is_exporting():
                raise StructureError(
                    'ties="first" in an exported graph',
                    'ties="average"',
                    "how many poses tie decides how often the model runs",
                )
            tied = tied & (tied.cumsum(1) <= LIMIT)
            owner, number = tied.nonzero(as_tuple=True)
            if owner.shape[0] == x.shape[0]:
                return None, number, None
            return owner, number, torch.ones(len(owner), device=x.device)

    def _refined(self, posed: Tensor, number: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Poses by the learned canonicaliser, which sees the canonical ones."""
        turns: Any = self.motion
        canonicaliser: Any = self.canonicaliser
        inner = self._inner()
        seen = posed.detach()  # the choice has no slope in the picture
        scores = canonicaliser(seen if inner is None else inner(seen))
        if not isinstance(scores, Tensor) or scores.shape != (posed.shape[0], turns.group.order):
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise StructureError(
                f"{turns.group.order} scores a sample from the canonicaliser, one per element of "
                f"{turns.group}",
                came,
            )
        chosen = scores.argmax(1)
        number = turns.product[chosen, number]
        if not (torch.is_grad_enabled() and scores.requires_grad):
            return None, turns.move_each(chosen, posed), number
        likely = scores.softmax(1)
        # The value is one pose, to the bit; the gradient is that of the mixture.
        hard = F.one_hot(chosen, turns.group.order).to(likely.dtype)
        soft = hard + (likely - likely.detach())
        moved = (turns.move(k, posed) for k in range(turns.group.order))
        return soft, _mixture(soft, moved), number

    def _first(self, number: Tensor, soft: Tensor) -> Tensor:
        """The pose before the learned one: number = learned * first."""
        turns: Any = self.motion
        return turns.product[turns.inverse[soft.argmax(1)], number]

    def _called(self, posed: Tensor, most: int | None) -> Any:
        if most is None or len(posed) <= most:
            return self.model(posed)
        return joined([self.model(part) for part in posed.split(most)])

    def extra_repr(self) -> str:
        """The arguments."""
        return f'how="canonical", output={self.output!r}, chunk={self.chunk}, ties={self.ties!r}'


def _mixture(soft: Tensor, moved: Any) -> Tensor:
    total: Any = 0
    for k, each in enumerate(moved):
        total = total + each * soft[:, k].to(each.dtype).view(-1, *(1,) * (each.ndim - 1))
    return total


def _mixed_back(turns: Any, soft: Tensor, y: Tensor) -> Tensor:
    """A map moved back by the learned pose, with a gradient to its scores."""
    return _mixture(soft, (turns.back(k, y) for k in range(turns.group.order)))


def _without_repeats(
    owner: Tensor, number: Tensor, posed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Poses that differ from their sample's first, which counts for those that do not.

    Scores of equal pictures are equal: a symmetric picture costs one call.
    """
    starts = torch.ones_like(owner, dtype=torch.bool)
    starts[1:] = owner[1:] != owner[:-1]
    first = starts.nonzero()[:, 0]
    group = starts.cumsum(0) - 1
    same = starts | (posed == posed[first[group]]).flatten(1).all(1)
    weight = torch.zeros(len(first), device=posed.device).index_add(0, group, same.float())
    kept = starts | ~same
    weights = torch.where(starts, weight[group], 1.0)[kept]
    return owner[kept], number[kept], weights, posed[kept]


def _averaged(t: Tensor, owner: Tensor, weight: Tensor, samples: int) -> Tensor:
    """The weighted mean of each sample's poses."""
    wide = accumulated(t)
    weight = weight.to(wide.real.dtype)
    total = torch.zeros(samples, device=t.device, dtype=weight.dtype).index_add(0, owner, weight)
    share = weight.view(-1, *(1,) * (t.ndim - 1))
    summed = torch.zeros(samples, *t.shape[1:], device=t.device, dtype=wide.dtype)
    summed = summed.index_add(0, owner, wide * share)
    return (summed / total.view(-1, *(1,) * (t.ndim - 1))).to(t.dtype)
