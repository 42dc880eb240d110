"""Which tensors are weights: computed from parameters and constants, never from the input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Span = tuple[int, int, int]  # memory, and from where to where in it
Sources = frozenset[int]  # numbers of parameters, and KEPT

KEPT = -1  # a buffer, or another tensor that a module keeps
MADE: Sources = frozenset()  # a constant made in the forward


class Provenance:
    """Follows the memory of parameters through a run.

    A tensor whose memory is known here depends on the parameters listed and on no input: a
    parameter, a buffer, a mask made in the forward, a weight that a parametrisation computes. All
    other tensors are activations. Memory is told apart by its storage. Only weak references are
    kept: they hold no data, and yet the identity of a storage that is gone is not given out again.

    Attributes:
        used: Numbers of the parameters that some operation took.
        foreign: Something outside torch's operations wrote to memory since this was last reset.
    """

    def __init__(self):
        self.used: set[int] = set()
        self.foreign = False
        self._sources: dict[int, Sources] = {}
        self._whole: dict[int, frozenset[Span]] = {}  # number of a parameter -> its spans
        self._direct: set[int] = set()
        self._blank: set[int] = set()
        self._references: dict[int, StorageWeakRef] = {}
        self._without: list[Tensor] = []

    def add(self, tensor: Tensor, number: int) -> None:
        """Make a tensor known: the parameter of this number, or `KEPT`."""
        memory = self.memory(tensor)
        self._sources[memory] = self._sources.get(memory, MADE) | {number}
        if number != KEPT:
            self._direct.add(memory)
            self._whole[number] = frozenset(self._span(tensor) or [(-number - 1, 0, size(tensor))])

    def memory(self, tensor: Tensor) -> int:
        """The identity of a tensor's memory."""
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # sparse and nested tensors have none
            self._without.append(tensor)
            return -id(tensor)
        address = storage._cdata
        if address not in self._references:
            self._references[address] = StorageWeakRef(storage)
        return address

    def of(self, tensor: Tensor) -> Sources | None:
        """What is behind a tensor; None for an activation."""
        return self._sources.get(self.memory(tensor))

    def is_parameter(self, tensor: Tensor) -> bool:
        """Is it a parameter, or a view of one?"""
        return self.memory(tensor) in self._direct

    def whole(self, number: int) -> frozenset[Span]:
        """The memory of a parameter."""
        return self._whole[number]

    def weights(self, tensor: Tensor) -> frozenset[Span]:
        """The trained numbers in a weight: its own, or of all parameters it is computed from."""
        if self.is_parameter(tensor) and (span := self._span(tensor)):
            return frozenset(span)
        numbers = (self.of(tensor) or MADE) - {KEPT}
        return frozenset(span for number in numbers for span in self._whole[number])

    def _span(self, tensor: Tensor) -> list[Span]:
        """The memory of a tensor, if it has no holes."""
        if tensor.layout != torch.strided:
            return []
        numbers, reach = _extent(tensor)
        start = int(tensor.storage_offset())
        return [(self.memory(tensor), start, start + numbers)] if reach == numbers else []

    def follow(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Take note of what one operation made of what."""
        name = getattr(operation, "_opname", "")
        given = [self.memory(tensor) for tensor in tensors((args, kwargs))]
        made = [self.memory(tensor) for tensor in tensors(result)]
        self._notice_foreign(operation, name, given, made)
        sources: Sources | None = MADE
        if not name.startswith("lift"):  # a constant written in the forward
            for memory in given:
                known = self._sources.get(memory)
                sources = None if known is None or sources is None else sources | known
                self.used |= known or MADE
        for memory in made:
            if sources is None:
                self._sources.pop(memory, None)
            elif memory not in self._direct:
                self._sources[memory] = self._sources.get(memory, MADE) | sources

    def _notice_foreign(self, operation: Any, name: str, given: list[int], made: list[int]) -> None:
        """Memory that is taken without anything having been written to it, as far as we saw."""
        if name.startswith(("empty", "new_empty")):
            self._blank.update(made)
        elif self._blank:
            taken = self._blank.intersection(given)
            if taken and operation.namespace != "prim" and not getattr(operation, "is_view", True):
                self.foreign |= not operation._schema.is_mutable
                self._blank -= taken

    def is_blank(self, tensor: Tensor) -> bool:
        """Was nothing written to this memory, as far as we saw?"""
        return self.memory(tensor) in self._blank


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def size(tensor: Tensor) -> int:
    """Numbers that a tensor stores: fewer than its shape says if it is sparse or expanded.

    Example:
        >>> size(torch.eye(3)), size(torch.eye(3).to_sparse()), size(torch.ones(1).expand(5))
        (9, 3, 1)
    """
    if tensor.layout == torch.sparse_coo:
        return tensor._values().numel()
    if tensor.layout != torch.strided:
        return tensor.values().numel()
    return _extent(tensor)[0]


def _extent(tensor: Tensor) -> tuple[int, int]:
    """How many numbers a tensor has, and how far apart the first and the last one lie, plus 1."""
    axes = [(int(n), int(s)) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s]
    numbers = math.prod(n for n, _ in axes) if tensor.numel() else 0
    return numbers, 1 + sum((n - 1) * step for n, step in axes) if numbers else 0


class Ledger:
    """Memory that was counted already: each number once.

    Example:
        >>> ledger = Ledger()
        >>> ledger.enter([(7, 0, 10)]), ledger.enter([(7, 5, 12), (8, 0, 3)])
        (10, 5)
    """

    def __init__(self):
        self._entered: dict[int, list[tuple[int, int]]] = {}

    def enter(self, spans: Iterable[Span]) -> int:
        """Count memory, and say how much of it is new."""
        new = 0
        for memory, start, stop in spans:
            before = self._entered.get(memory, [])
            after = _joined([*before, (start, stop)])
            new += sum(e - s for s, e in after) - sum(e - s for s, e in before)
            self._entered[memory] = after
        return new


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A union of intervals as intervals that do not touch."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        elif stop > start:
            joined.append((start, stop))
    return joined
