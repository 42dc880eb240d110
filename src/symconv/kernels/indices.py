"""What a layer's integer buffers imply, kept as long as the buffers are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from symconv.errors import StructureError

# Keyed by storage, which the tensors that autograd and compilers make of one buffer have in common.
_KEPT: WeakIdKeyDictionary = WeakIdKeyDictionary()


class Connections(NamedTuple):
    """Connections (n, k), contiguous and in a narrow type.

    Attributes:
        narrow: uint16, int32 or int64.
        most: The largest of them.
    """

    narrow: Tensor
    most: int


def kept(buffer: Tensor, what: Callable[..., Any], *arguments: Any) -> Any:
    """`what(buffer, *arguments)`, computed anew only after the buffer has changed.

    Writes through `.data` or a numpy view are not seen.
    """
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


def narrowed(connections: Tensor, narrowest: torch.dtype = torch.uint16) -> Connections:
    """The connections in the narrowest of uint16, int32 and int64, from `narrowest` on.

    Raises:
        StructureError: One is negative.

    Example:
        >>> narrowed(torch.tensor([[0, 2]]))
        Connections(narrow=tensor([[0, 2]], dtype=torch.uint16), most=2)
    """
    least, most = (int(bound) for bound in connections.aminmax())
    if least < 0:
        raise StructureError("connections of at least 0", least)
    types = [torch.uint16, torch.int32, torch.int64]
    fits = [dtype for dtype in types[types.index(narrowest) :] if most <= torch.iinfo(dtype).max]
    return Connections(connections.to(fits[0], copy=True).contiguous(), most)


def check(most: int, inputs: int) -> None:
    """Refuse connections beyond the inputs."""
    if most >= inputs:
        raise StructureError(f"connections in 0..{inputs - 1}", most)
