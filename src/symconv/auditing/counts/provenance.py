"""Which tensors are weights: computed from parameters and constants, never from the input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

NOTHING: frozenset[int] = frozenset()


class Provenance:
    """Follows the memory of parameters through a run.

    A tensor whose memory is known here depends on the parameters listed and on no input: a
    parameter, a buffer, a mask made in the forward, a weight that a parametrisation computes. All
    other tensors are activations. Memory is told apart by its storage. Only weak references are
    kept: they hold no data, and yet the identity of a storage that is gone is not given out again.

    Attributes:
        sources: Memory -> numbers of the parameters behind it.
        direct: Memory of the parameters themselves.
        used: Numbers of the parameters that some operation took.
    """

    def __init__(self):
        self.sources: dict[int, frozenset[int]] = {}
        self.direct: set[int] = set()
        self.used: set[int] = set()
        self._references: dict[int, StorageWeakRef] = {}
        self._without: list[Tensor] = []

    def add(self, tensor: Tensor, parameter: int | None) -> None:
        """Make a tensor known: the parameter of this number, or a constant."""
        memory = self.memory(tensor)
        known = self.sources.get(memory, NOTHING)
        self.sources[memory] = known if parameter is None else known | {parameter}
        if parameter is not None:
            self.direct.add(memory)

    def memory(self, tensor: Tensor) -> int:
        """The identity of a tensor's memory; it is seen from now on."""
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # sparse and nested tensors have none
            self._without.append(tensor)
            return -id(tensor)
        address = storage._cdata
        if address not in self._references:
            self._references[address] = StorageWeakRef(storage)
        return address

    def seen(self, tensor: Tensor) -> bool:
        """Has anything observed made or taken this memory?"""
        try:
            return tensor.untyped_storage()._cdata in self._references
        except (RuntimeError, NotImplementedError):
            return True

    def of(self, tensor: Tensor) -> frozenset[int] | None:
        """The parameters behind a tensor; None for an activation."""
        return self.sources.get(self.memory(tensor))

    def is_parameter(self, tensor: Tensor) -> bool:
        """Is it a parameter, or a view of one?"""
        return self.memory(tensor) in self.direct

    def follow(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Take note of what one operation made of what."""
        sources: frozenset[int] | None = NOTHING
        if operation._opname not in ("lift_fresh", "lift"):  # a constant written in the forward
            for tensor in tensors((args, kwargs)):
                known = self.of(tensor)
                sources = None if known is None or sources is None else sources | known
                self.used |= known or NOTHING
        for tensor in tensors(result):
            memory = self.memory(tensor)
            if sources is None:
                self.sources.pop(memory, None)
            elif memory not in self.direct:
                self.sources[memory] = self.sources.get(memory, NOTHING) | sources


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def distinct(parameters: Iterable[Tensor]) -> int:
    """How many numbers parameters hold, those that share memory once.

    Example:
        >>> import torch
        >>> whole = torch.zeros(4, 3)
        >>> distinct([whole, whole.T, whole[1], torch.zeros(2)])
        14
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    count = 0
    for tensor in parameters:
        if tensor.layout != torch.strided:
            count += stored(tensor)
            continue
        sizes = [
            (int(n), int(step))
            for n, step in zip(tensor.shape, tensor.stride(), strict=True)
            if step
        ]
        numbers = math.prod(n for n, _ in sizes)
        reach = 1 + sum((n - 1) * step for n, step in sizes)
        if reach != numbers:  # no span of memory without holes, or an empty one
            count += numbers
            continue
        start = int(tensor.storage_offset())
        key = tensor.untyped_storage()._cdata
        spans.setdefault(key, []).append((start, start + numbers))
    return count + sum(map(_union, spans.values()))


def stored(tensor: Tensor) -> int:
    """Numbers that a sparse tensor stores."""
    values = tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()
    return values.numel()


def _union(spans: list[tuple[int, int]]) -> int:
    """Length of a union of intervals."""
    total, end = 0, 0
    for start, stop in sorted(spans):
        start = max(start, end)
        if stop > start:
            total, end = total + stop - start, stop
    return total
