"""Indices that a layer's integer buffers imply, kept as long as the buffers are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from symconv.errors import StructureError

# Keyed by storage, which the tensors that autograd and compilers make of one buffer have in common.
_KEPT: WeakIdKeyDictionary = WeakIdKeyDictionary()


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


def kept(buffer: Tensor, what: Callable, *arguments: int):
    """`what(buffer, *arguments)`, computed anew only after the buffer has changed."""
    if buffer.is_inference():  # such tensors do not count their changes
        return what(buffer, *arguments)
    part = buffer.storage_offset(), buffer.shape, buffer.stride(), what, arguments
    storage = buffer.untyped_storage()
    version, found = _KEPT.get(storage) or (None, {})
    if version != buffer._version:
        found = {}
        _KEPT[storage] = buffer._version, found
    if part not in found:
        found[part] = what(buffer, *arguments)
    return found[part]


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
