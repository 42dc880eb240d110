"""How far a network is from commuting with shifts and turns, on held-out pictures."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from symconv.data import Split
from symconv.models import SmallNetwork
from symconv.train.loop import scores
from symconv.transforms import rotate, translate

BLUR = 1.0
PICTURES = 100


@torch.no_grad()
def equivariance_errors(network: SmallNetwork, split: Split) -> dict[str, float]:
    """The error of each transform, by the names of `TRANSFORMS`, over the first 100 pictures."""
    pictures = split.first(PICTURES).pictures
    smooth = smooth_discs(pictures)
    return {
        "shift": shift_error(network, pictures),
        "turn 90": turn_error(network, smooth, 90),
        "turn 45": turn_error(network, smooth, 45),
    }


def shift_error(network: SmallNetwork, pictures: Tensor) -> float:
    """||f(g x) - g f(x)|| / ||g f(x)|| for the last feature map f before its pooling.

    g shifts by one site of that map along both axes (in pixels: the map's stride), from half a
    site before the centre to half a site behind it, so that what lies on the canvas stays there.
    The sites that g brings in are left out. On features without positions g does nothing, which
    asks for invariance.
    """
    step = network.map_stride
    before = network.features(translate(pictures, (-(step // 2),) * 2))
    after = network.features(translate(pictures, (step - step // 2,) * 2))
    if before.ndim == 4:
        before, after = before[..., :-1, :-1], after[..., 1:, 1:]
    return _relative(after - before, before)


def turn_error(network: SmallNetwork, pictures: Tensor, degrees: float) -> float:
    """||s(g x) - s(x)|| / ||s(x) - mean s|| for the class scores s, which should not change.

    The mean is over the pictures: what all of them have in common says nothing of a turn.

    Args:
        network: Maps pictures to scores.
        pictures: Band-limited ones, empty outside the inscribed disc.
        degrees: Quarter turns move values; other angles use `sc.rotate`.
    """
    upright = scores(network, pictures)
    turned = scores(network, rotate(pictures, degrees))
    return _relative(turned - upright, upright - upright.mean(0))


def smooth_discs(pictures: Tensor) -> Tensor:
    """The pictures (N, C, S, S) blurred by a Gaussian of one pixel inside the inscribed disc.

    Turning them loses nothing in the corners and hardly anything to the pixel grid.
    """
    size = pictures.shape[-1]
    axis = torch.arange(size) - (size - 1) / 2
    radius = torch.hypot(axis[:, None], axis[None, :])
    disc = (size / 2 - 1 - radius).clamp(0, 2) / 2
    blurred = ndimage.gaussian_filter(pictures.numpy(), (0, 0, BLUR, BLUR), mode="nearest")
    return torch.from_numpy(blurred) * disc


def feature_maps(network: SmallNetwork, split: Split) -> dict | None:
    """f(g x) beside g f(x) for the first feature map, in the channel that responds most.

    g shifts one site less than the last map's stride (by one at least): an odd number of sites, so
    that filters which repeat every second site are told from filters that are the same everywhere.
    Shown are the sites whose windows lie on the canvas, before and after.
    """
    last = int(split.labels.max())
    chosen = int((split.labels == last).nonzero()[0])
    picture = split.pictures[chosen : chosen + 1]
    size = picture.shape[-1]
    first = network.first_features(picture)
    if first.ndim != 4:
        return None
    stride = size // first.shape[-1]
    sites = max(1, network.map_stride // stride - 1)
    here = translate(picture, (-(sites // 2) * stride,) * 2)
    there = translate(here, (sites * stride,) * 2)
    edge = -(-(network.reach // 2) // stride)
    count = first.shape[-1] - 2 * edge - sites
    expected = network.first_features(here)[..., edge : edge + count, edge : edge + count]
    low = edge + sites
    found = network.first_features(there)[..., low : low + count, low : low + count]
    channel = int(expected[0].var((1, 2)).argmax())
    shown = {
        "picture": here[0].mean(0),
        "moved": there[0].mean(0),
        "of_moved": found[0, channel],
        "moved_of": expected[0, channel],
    }
    lists = {name: np.round(values.numpy(), 3).tolist() for name, values in shown.items()}
    return lists | {"error": _relative(found - expected, expected), "pixels": sites * stride}


def _relative(difference: Tensor, reference: Tensor) -> float:
    return float(difference.norm() / reference.norm().clamp_min(1e-12))
