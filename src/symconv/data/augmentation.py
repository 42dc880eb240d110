"""What may be done to a training batch: moved, turned, rescaled, anew for each picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shifts(
    pictures: Tensor, reach: int, full_frame: bool, generator: torch.Generator
) -> Tensor:
    """Displace each picture of a batch (N, C, H, W) by its own random whole offset.

    What comes in at the edge is the canvas (zero), or for full-frame pictures the reflection.

    Args:
        pictures: The batch.
        reach: Largest displacement along each axis, in pixels.
        full_frame: The pictures fill the canvas.
        generator: Source of the offsets.
    """
    count, _, height, width = pictures.shape
    padded = F.pad(pictures, [reach] * 4, mode="reflect" if full_frame else "constant")
    draw = torch.randint(0, 2 * reach + 1, (2, count, 1, 1), generator=generator)
    y, x = draw.to(pictures.device)
    rows = y + torch.arange(height, device=pictures.device).view(1, -1, 1)
    columns = x + torch.arange(width, device=pictures.device).view(1, 1, -1)
    item = torch.arange(count, device=pictures.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[item, rows, columns].permute(0, 3, 1, 2).contiguous()


def random_turns(pictures: Tensor, full_frame: bool, generator: torch.Generator) -> Tensor:
    """Turn each picture of a batch (N, C, S, S) by its own angle, uniform over the circle.

    Bilinear resampling about the centre. What comes in at the corners is the canvas (zero), or for
    full-frame pictures the reflection.

    Args:
        pictures: The batch.
        full_frame: The pictures fill the canvas.
        generator: Source of the angles.
    """
    angles = 2 * math.pi * torch.rand(len(pictures), generator=generator)
    return turned_bilinearly(pictures, angles.to(pictures.device), full_frame)


def turned_bilinearly(pictures: Tensor, angles: Tensor, full_frame: bool) -> Tensor:
    """Turn pictures (N, C, S, S) by angles (N,) in radians, counter-clockwise as `torch.rot90`.

    Example:
        >>> x = torch.arange(9.0).view(1, 1, 3, 3)
        >>> turned = turned_bilinearly(x, torch.tensor([math.pi / 2]), full_frame=False)
        >>> torch.allclose(turned, x.rot90(1, (-2, -1)), atol=1e-5)
        True
    """
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    beyond = "reflection" if full_frame else "zeros"
    grid = grid.to(pictures.dtype)
    return F.grid_sample(pictures, grid, padding_mode=beyond, align_corners=False)


def random_scales(
    pictures: Tensor,
    largest: float,
    full_frame: bool,
    generator: torch.Generator,
    smallest: float = 0.5,
) -> Tensor:
    """Rescale each picture of a batch (N, C, S, S) by its own factor, log-uniform.

    Bilinear resampling about the centre, without a filter before it, as usual in training. What
    comes in around a smaller picture is the canvas (zero), or for full-frame pictures the
    reflection.

    Args:
        pictures: The batch.
        largest: Largest factor.
        full_frame: The pictures fill the canvas.
        generator: Source of the factors.
        smallest: Smallest factor.
    """
    low, high = math.log(smallest), math.log(largest)
    factors = (low + (high - low) * torch.rand(len(pictures), generator=generator)).exp()
    return rescaled_bilinearly(pictures, factors.to(pictures.device), full_frame)


def rescaled_bilinearly(pictures: Tensor, factors: Tensor, full_frame: bool) -> Tensor:
    """Rescale pictures (N, C, S, S) by factors (N,) about their centre: above 1 is larger.

    Example:
        >>> x = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
        >>> rescaled_bilinearly(x, torch.tensor([2.0]), full_frame=False)[0, 0, 0]
        tensor([0.7500, 1.2500, 1.7500, 2.2500])
    """
    zero, scale = torch.zeros_like(factors), 1 / factors
    rows = torch.stack([scale, zero, zero], 1), torch.stack([zero, scale, zero], 1)
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    beyond = "reflection" if full_frame else "zeros"
    grid = grid.to(pictures.dtype)
    return F.grid_sample(pictures, grid, padding_mode=beyond, align_corners=False)
