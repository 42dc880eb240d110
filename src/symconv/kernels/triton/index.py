"""Indices that a layer's integer buffers imply; see `symconv.kernels.indices.kept`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from symconv.errors import StructureError


class Members(NamedTuple):
    """Positions sorted by what they belong to: those of owner f are order[starts[f]:starts[f + 1]].

    Equal owners keep their order, so that a sum over members has a fixed one.
    """

    order: Tensor
    starts: Tensor


class Connections(NamedTuple):
    """Connections as narrow integers, and the largest of them."""

    narrow: Tensor
    most: int


def members(owners: Tensor, count: int) -> Members:
    """The members of owners 0 to count - 1.

    Example:
        >>> members(torch.tensor([1, 0, 1, 3]), 4)
        Members(order=tensor([1, 0, 2, 3], dtype=torch.int32), \
starts=tensor([0, 1, 3, 3, 4], dtype=torch.int32))
    """
    index = _index(owners.numel())
    ordered, order = owners.flatten().sort(stable=True)
    bounds = torch.arange(count + 1, device=owners.device, dtype=ordered.dtype)
    return Members(order.to(index), torch.searchsorted(ordered, bounds).to(index))


def connections(chosen: Tensor) -> Connections:
    """The connections, checked, in half their size.

    Raises:
        StructureError: One is negative.
    """
    if not chosen.numel():
        return Connections(chosen.to(torch.int32), -1)
    least, most = (int(bound) for bound in chosen.aminmax())
    if least < 0:
        raise StructureError("connections of at least 0", least)
    narrow = chosen.to(_index(max(chosen.numel(), most)), copy=True).contiguous()
    return Connections(narrow, most)


def _index(most: int) -> torch.dtype:
    return torch.int32 if most < 2**31 else torch.int64
