"""How a network answers to copies of a picture that lie a few pixels apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from symconv.data import PictureSet
from symconv.data.pictures import FARTHEST, apart
from symconv.models import SmallNetwork
from symconv.train.loop import scores

AROUND_SEED = 70_000

#: What is measured beside the tests of accuracy, and what the tables call it.
MEASURES = {
    "consistency": "same class, shifted",
    "shifted": "right, shifted",
    "circular consistency": "same class, around",
    "rescaled": "right, rescaled",
}


def shifts_and_scales(network: SmallNetwork, data: PictureSet) -> dict[str, float]:
    """Shares of the test pictures, by the names of `MEASURES`.

    - consistency: two copies, 1 to 8 pixels apart along each axis (or as far as the canvas has
      room), get the same class (Zhang 2019). They lie on the canvas as pictures do: nothing of
      them is cut off or wraps around.
    - shifted: such copies get their own class, mean of the two.
    - circular consistency: a picture and its circular shift by 1 to 8 pixels along each axis get
      the same class. Pictures are no tori: this is a check of exactness.
    - rescaled: pictures rescaled by a random factor get their own class.
    """
    one, other = (_classes(network, s.pictures) for s in (data.shifted, data.shifted_back))
    plain = _classes(network, data.test.pictures)
    around = _classes(network, shifted_around(data.test.pictures))
    rescaled = _classes(network, data.rescaled.pictures)
    right = ((one == data.test.labels).float() + (other == data.test.labels).float()) / 2
    found = {
        "consistency": one == other,
        "shifted": right,
        "circular consistency": plain == around,
        "rescaled": rescaled == data.rescaled.labels,
    }
    return {name: float(each.float().mean()) for name, each in found.items()}


def shifted_around(pictures: Tensor) -> Tensor:
    """Each picture (N, C, S, S) rolled by 1 to 8 pixels along each axis, one way or the other."""
    one, other = apart(len(pictures), FARTHEST, np.random.default_rng(AROUND_SEED))
    moved = [
        picture.roll(tuple(map(int, step)), (-2, -1))
        for picture, step in zip(pictures, one - other, strict=True)
    ]
    return torch.stack(moved)


def _classes(network: SmallNetwork, pictures: Tensor) -> Tensor:
    return scores(network, pictures).argmax(1)
