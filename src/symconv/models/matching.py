"""Twins: the same network with another group or none, as wide as makes the comparison fair."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from symconv.errors import StructureError
from symconv.lattice.groups import Group, parse
from symconv.models.kit import Kit, convolutions
from symconv.models.network import Network, choice

TOLERANCE = 0.1  # relative difference beyond which a match is refused
_CLOSE = 5e-3  # and below which no better one is looked for

Recipe = partial[Any]  # of a network, by its kit


def _parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters())


def _macs(network: Network) -> int:
    size = max(1, -(-32 // network.stride)) * network.stride + network.remainder
    like = next(network.parameters())
    x = torch.empty(1, network.in_channels, *(size,) * network.kit.dimension, device=like.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval().compute(x)
    return counter.get_total_flops() // 2


def _channels(network: Network) -> int:
    return sum(layer.in_channels for layer in convolutions(network))


COSTS: dict[str, Callable[[Any], int]] = {
    "params": _parameters,
    "macs": _macs,
    "width": _channels,
}


def built(recipe: Recipe, kit: Kit) -> Network:
    """The network of a recipe, which remembers it."""
    network = recipe(kit)
    network.recipe = recipe
    return network


def matched(
    recipe: Recipe, group: Group | str | None, dimension: int | None, match: str | None
) -> Any:
    """A plain network, or a group's that matches it.

    Args:
        recipe: Builds the network from a kit.
        group: A group or its short name; None for the plain network.
        dimension: Axes of space; the group's, or 2, if left out.
        match: What both have in common, a name in `COSTS`; None: scale 1.
    """
    choice(match, "match", (*COSTS, None))
    if group is None:
        n = 2 if dimension is None else dimension
        choice(n, "dimension", (1, 2, 3))
        return built(recipe, Kit(n))
    group = parse(group, dimension)
    kit = Kit(group.dimension, group)
    if match is not None:
        kit = nearest(recipe, Kit(group.dimension), kit, match)
    return built(recipe, kit)


def twin(network: Network, group: Group | str | None = None, match: str = "params") -> Network:
    """The same network with another group or none, as wide as the match asks for.

    Every layer's copies (the plain twin's channels) are those of the original times one common
    factor, rounded: one at which the two costs agree to 0.5 %, or as nearly as whole copies allow.

    Args:
        network: One of `symconv.models`.
        group: The twin's group or its short name; None for torch's own layers.
        match: What both have in common: "params" (all parameters), "macs" (multiply-accumulates,
            at the smallest centred size of at least 32) or "width" (the channels that all
            convolutions read, together).

    Returns:
        A new network with its own initial weights.

    Raises:
        StructureError: The match cannot be met to within 10 %: one copy is too much already, or
            whole copies are too coarse; the group has another dimension.

    Example:
        >>> from symconv.models import resnet, twin
        >>> turned = resnet(20, "C4", classes=10, width=8, match=None)  # 8, 16, 32 copies
        >>> plain = twin(turned)
        >>> [sum(p.numel() for p in net.parameters()) for net in (turned, plain)]
        [289074, 290394]
    """
    if not isinstance(network, Network):
        raise StructureError("a network of symconv.models", type(network).__name__)
    choice(match, "match", tuple(COSTS))
    dimension = network.kit.dimension
    kit = Kit(dimension, None if group is None else parse(group, dimension))
    return built(network.recipe, nearest(network.recipe, network.kit, kit, match))


def _cost(recipe: Recipe, kit: Kit, match: str) -> int:
    with torch.device("meta"):  # shapes alone: nothing is drawn or computed
        return COSTS[match](recipe(kit))


def nearest(recipe: Recipe, model: Kit, kit: Kit, match: str) -> Kit:
    """The kit with the scale at which a recipe costs what it does with another kit.

    Costs grow with the scale, in steps: the scale is searched by following their power law between
    the nearest ones below and above, until the costs agree to `_CLOSE` or steps are left.

    Raises:
        StructureError: The nearest is more than `TOLERANCE` off.
    """
    target, order = _cost(recipe, model, match), _order(kit)
    power = 1.0 if match == "width" else 2.0
    scale = model.scale * (_order(model) / order) ** (0.5 if match == "params" else 1.0)
    low, high = 0.0, math.inf
    best: tuple[float, float, int] = (math.inf, scale, 0)
    for _ in range(16):
        cost = _cost(recipe, replace(kit, scale=scale), match)
        off = math.log(cost / target)
        best = min(best, (abs(off), scale, cost))
        if abs(off) < _CLOSE or high < 1.001 * low:
            break
        low, high = (scale, high) if off < 0 else (low, scale)
        guess = scale * math.exp(-off / power)
        inside = low * 1.0003 < guess < high / 1.0003
        scale = guess if inside else math.sqrt(low * high) if low else high / 2
    if best[0] > math.log1p(TOLERANCE):
        raise StructureError(
            f"{match} within {TOLERANCE:.0%} of {target:,}",
            f"{best[2]:,} with the nearest number of whole copies",
            f"one copy is {order} channels: a larger width, a smaller group or another match",
        )
    return replace(kit, scale=best[1])


def _order(kit: Kit) -> int:
    return kit.group.order if kit.group else 1
