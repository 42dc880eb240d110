"""One small layer of every kind, with an input it takes: what the tests of this folder run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import symconv as sc

HALVES = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 1]])
SCATTERED = torch.arange(12).view(4, 3) % 4  # its boxes overlap: runs on the local kernel


@dataclass
class Layer:
    """A constructor (it takes device and dtype) and the shape of one example."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...]

    def pair(self, batch: int = 3, **factory) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return self.make(**factory), torch.randn(batch, *self.shape, **factory)


def _bind(make, *args, **options) -> Callable[..., nn.Module]:
    return lambda **factory: make(*args, **options, **factory)


LAYERS = {
    "sparse": Layer(_bind(sc.nn.SparseLinear, 10, 6, 4), (10,)),
    "local-1d-reflect": Layer(
        _bind(sc.nn.LocallyConnected1d, 2, 4, 2, 8, padding="same", padding_mode="reflect"), (2, 8)
    ),
    "local-2d-groups": Layer(
        _bind(sc.nn.LocallyConnected2d, 2, 4, 3, (6, 5), stride=2, padding=1, groups=2), (2, 6, 5)
    ),
    "local-3d": Layer(_bind(sc.nn.LocallyConnected3d, 1, 2, 2, 3, bias=False), (1, 3, 3, 3)),
    "transpose-2d": Layer(
        _bind(
            sc.nn.LocallyConnectedTranspose2d,
            *(4, 2, 3, (4, 3)),
            **dict(stride=2, padding=1, output_padding=1, groups=2),
        ),
        (4, 4, 3),
    ),
    "region-boxes": Layer(
        _bind(sc.nn.RegionConv2d, 2, 4, 3, HALVES, padding=1, padding_mode="circular"), (2, 4, 3)
    ),
    "region-kernel": Layer(
        _bind(sc.nn.RegionConv2d, 2, 4, 3, SCATTERED, padding=1, groups=2), (2, 4, 3)
    ),
    "tiled-1d-stride": Layer(
        _bind(sc.nn.TiledConv1d, 2, 4, 3, 2, stride=2, padding=1, padding_mode="circular"), (2, 9)
    ),
    "tiled-2d": Layer(_bind(sc.nn.TiledConv2d, 2, 4, 3, (2, 3), padding=1), (2, 7, 8)),
    "bias-map": Layer(_bind(sc.nn.BiasMap, 2, (4, 3)), (2, 4, 3)),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
