"""Pointwise group convolutions through the group's Fourier transform, where that is quicker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from symconv.kernels.pointwise import Blocks, pays, pointwise, suits
from symconv.lattice.filters import Block
from symconv.lattice.fourier import Fourier, fourier
from symconv.lattice.orbits import Orbits
from symconv.lattice.representations import regular as regular_of

if TYPE_CHECKING:
    from symconv.nn.group_conv import _GroupConv


class Plan(NamedTuple):
    """How a layer goes through the transform.

    Attributes:
        transform: The group's.
        table: `transform.blocks` of the filter's orbits.
        block: The only one of the filter.
    """

    transform: Fourier
    table: np.ndarray
    block: Block

    def blocks(self, weight: Tensor) -> Blocks:
        """The filter in the Fourier domain, from its free weights."""
        block = self.block
        free = weight.view(block.blocks * block.out_copies, block.in_copies, -1)
        return Blocks.of(
            free, torch.from_numpy(self.table).to(weight), self.transform, block.blocks
        )


def plan_of(layer: _GroupConv) -> Plan | None:
    """The plan of a layer whose outputs see one position, between regular fields; None otherwise.

    The group is cyclic or dihedral, at least in the abstract, and has more than one element.
    """
    window, group, rows = layer.window, layer.in_field.group, layer._filter.rows
    padded = any(before or after for before, after in window.padding)
    pointwise = set(window.kernel_size) == set(window.stride) == {1} and not padded
    if not pointwise or not len(rows) == len(rows[0]) == 1 or group.order == 1:
        return None
    regular, parts = regular_of(group), layer.in_field.parts + layer.out_field.parts
    transform, block = fourier(group.product), rows[0][0]
    if transform is None or any(part != regular for part, _ in parts):
        return None
    if not isinstance(block.tie, Orbits):
        return None
    orbits = block.tie.weight.reshape(group.order, group.order)
    return Plan(transform, transform.blocks(orbits), block)


def through_fourier(layers: Sequence[_GroupConv], x: Tensor) -> Tensor | None:
    """Layers one after another in the Fourier domain; None where convolutions do better.

    Args:
        layers: Each takes the field that the one before gives.
        x: An input that the first layer takes.
    """
    first, n = layers[0], layers[0].dimension
    if not suits(x, first.weight):
        return None
    plans = [plan for layer in layers if (plan := layer._fourier) is not None]
    if len(plans) < len(layers) or any(layer.groups != first.groups for layer in layers):
        return None
    transform, blocks = plans[0].transform, first.groups
    samples, pixels = math.prod(x.shape[: -n - 1]), math.prod(x.shape[-n:])
    copies = [first.in_field.copies, *(layer.out_field.copies for layer in layers)]
    if not pays(transform, copies, blocks, samples, pixels, x.element_size()):
        return None
    weights, bias = [], None
    for layer, plan in zip(layers, plans, strict=True):
        made = layer._current("blocks", plan.blocks)
        if weights:
            made, bias = made.after(bias, transform, blocks)
        if layer.bias is not None:
            bias = layer.bias if bias is None else bias + layer.bias
        weights.append(made)
    y = pointwise(x.view(samples, -1, pixels), bias, transform, blocks, *weights)
    return y.view(*x.shape[: -n - 1], layers[-1].out_channels, *x.shape[-n:])
