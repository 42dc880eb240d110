"""The mean of a model over a group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symconv.conversion.symmetrizing.outputs import (
    Motion,
    Moves,
    check_output,
    mapped,
    moved_back,
    rows,
)


class Averaged(nn.Module):
    """f(x) = 1 / |G| sum over g of g^-1 model(g x): made by `symmetrize`, which describes it."""

    def __init__(self, model: nn.Module, motion: Motion, output: str | Moves, chunk: int):
        super().__init__()
        self.model, self.motion, self.output, self.chunk = model, motion, output, chunk
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        """The mean of the outputs, moved back."""
        self.motion.check(x)
        count, samples, total, own = self.motion.count(x), x.shape[0], None, None
        for start in range(0, count, self.chunk):
            numbers = range(start, min(start + self.chunk, count))
            y = self.model(_all_moved(self.motion, numbers, x))
            check_output(y, samples * len(numbers), self.output, self.motion, x)
            for place, number in enumerate(numbers):
                part = rows(y, place * samples, (place + 1) * samples)
                own = moved_back(part, number, self.output, self.motion, x)
                part = mapped(accumulated, own)
                total = part if total is None else mapped(torch.add, total, part)
        return mapped(lambda t, like: (t / count).to(like.dtype), total, own)

    def extra_repr(self) -> str:
        """The arguments."""
        return f'how="average", output={self.output!r}, chunk={self.chunk}'


def _all_moved(motion: Motion, numbers: range, x: Tensor) -> Tensor:
    moved = [motion.move(number, x) for number in numbers]
    # A copy, even unmoved: a model that works in place must not change the next ones.
    return moved[0].clone() if len(moved) == 1 else torch.cat(moved)


def accumulated(t: Tensor) -> Tensor:
    """A tensor in a type whose sums hardly depend on their order (where the device has it)."""
    if t.is_complex():
        return t.to(torch.complex128)
    return t.float() if t.device.type == "mps" else t.double()
