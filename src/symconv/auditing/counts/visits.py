"""Every call of a module during a run, with the contractions that happened in it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import (
    _global_forward_hooks_with_kwargs,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from symconv.auditing.call import tensors_of
from symconv.auditing.counts.provenance import KEPT, Provenance, Sources, Span
from symconv.structure import Structure

FOREIGN = "something computed outside torch's operations"


@dataclass(frozen=True)
class Use:
    """One contraction as it was met.

    Attributes:
        name: What it is called.
        macs: Multiply-accumulates of the call, all items; likewise the next counts.
        padding_macs: Those of them on zero padding.
        inputs: Numbers of the activation.
        outputs: Numbers that come out.
        fan_in: Terms of an output's sum.
        connections: Pairs that exist; None if both operands are activations, or both weights.
        items: Items of the batch, where the operation knows them.
        sources: What the weight is made of; None if both operands are activations.
        weights: The memory of the trained numbers in the weight.
        input_shape: Shape of the activation.
        output_shape: Shape of the operation's result.
        order: When it happened.
    """

    name: str
    macs: int
    padding_macs: int
    inputs: int
    outputs: int
    fan_in: int
    connections: int | None
    items: int | None
    sources: Sources | None
    weights: frozenset[Span]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    order: int

    @property
    def of_weights_alone(self) -> bool:
        """Does it only compute a weight?"""
        return self.connections is None and self.sources is not None


@dataclass
class Visit:
    """One call of one module, with what happened directly in it.

    Attributes:
        name: The module's name in the model.
        kind: Its class.
        module: The module.
        whole: It is reported as one row: it has no modules inside, or states its structure.
        order: When it began.
        start: The visits inside are those from here
        stop: to here.
        input_shape: Shape of its first input.
        output_shape: Shape of its first output.
        inputs: Numbers of all its inputs.
        outputs: Numbers of its first output.
        uses: The contractions.
        unknown: Operations that could not be counted, and when they were met.
        remarks: For the reader.
        structure: What the module says of itself.
    """

    name: str
    kind: str
    module: nn.Module
    whole: bool
    order: int
    start: int
    stop: int = 0
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    inputs: int = 0
    outputs: int = 0
    uses: list[Use] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)
    structure: Structure | None = None


class Visits:
    """Keeps book of the modules being called, through hooks on all modules; a context manager.

    Args:
        model: The model; its modules are called by their names in it.
        provenance: To which the parameters of unregistered modules are made known.

    Attributes:
        all: Every call in the order they began.
    """

    def __init__(self, model: nn.Module, provenance: Provenance):
        self.all: list[Visit] = []
        self.provenance = provenance
        self._names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self._stack: list[Visit] = []
        self._ticks = 0

    def __enter__(self) -> Visits:
        self._hooks = [
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]
        return self

    def __exit__(self, *problem: Any) -> None:
        for hook in self._hooks:
            hook.remove()
            # Torch forgets the hook, but not that it took arguments by name, and warns of it later.
            _global_forward_hooks_with_kwargs.pop(hook.id, None)

    @property
    def now(self) -> Visit | None:
        """The innermost call in progress."""
        return self._stack[-1] if self._stack else None

    def tick(self) -> int:
        """The number of what happens now."""
        self._ticks += 1
        return self._ticks

    def cannot_count(self, what: str) -> None:
        """Take note of an operation, in the call in progress."""
        if self.now is not None:
            self.now.unknown.setdefault(what, self.tick())

    def _begin(self, module: nn.Module, args: Any) -> None:
        name, above = self._names.get(id(module)), self.now
        if above is not None:
            if name is None:
                above.remarks.add("holds layers that are not registered")
                for tensor in [*module.parameters(), *module.buffers()]:
                    self.provenance.add(tensor, KEPT)
            if above.whole or name is None or ".parametrizations" in name:
                return  # part of the module above
        whole, start = is_leaf(module), len(self.all) + 1
        visit = Visit(name or "", kind_of(module), module, whole, self.tick(), start)
        self.all.append(visit)
        self._stack.append(visit)

    def _end(self, module: nn.Module, args: Any, *rest: Any) -> None:
        if not any(visit.module is module for visit in self._stack):
            return
        while True:  # those that an exception left open are closed, too
            visit = self._stack.pop()
            visit.stop = len(self.all)
            if visit.module is module:
                break
        if len(rest) == 1:  # torch leaves the arguments by name out when the call failed
            del self.all[visit.start - 1 :]
            return
        kwargs, output = rest
        given = [t for _, t in tensors_of([*args])] + [t for _, t in tensors_of(kwargs)]
        made = [t for _, t in tensors_of(output)]
        if given:
            visit.input_shape = tuple(given[0].shape)
            unlike = {id(t): t for t in given if t.is_floating_point() or t.is_complex()}
            visit.inputs = sum(t.numel() for t in unlike.values())
        if made:
            visit.output_shape, visit.outputs = tuple(made[0].shape), made[0].numel()
        if visit.whole and any(map(self.provenance.is_blank, made)):
            visit.unknown.setdefault(FOREIGN, self.tick())

    def settled(self) -> list[Visit]:
        """The visits that are reported; call it when parameters and buffers are real again.

        A module that states its structure is one row, whatever happened inside. One that has no
        modules inside, yet calls several functions that contract, is a row for each of them; but
        not torch's own.
        """
        kept, skip = [], 0
        for index, visit in enumerate(self.all):
            if index < skip:
                continue
            kept.append(visit)
            visit.structure = _structure(visit)
            if visit.structure is not None:
                visit.whole, visit.uses, visit.unknown, skip = True, [], {}, visit.stop
        several = {visit.name for visit in kept if visit.whole and _has_parts(visit)}
        for visit in kept:
            visit.whole &= visit.name not in several
        return kept


def is_leaf(module: nn.Module) -> bool:
    """Has it no modules inside, its parametrisations aside?"""
    return all(name == "parametrizations" for name, _ in module.named_children())


def kind_of(module: nn.Module) -> str:
    """The class of a module, whether or not it is parametrised."""
    return type(module).__name__.removeprefix("Parametrized")


def _has_parts(visit: Visit) -> bool:
    bases = (c for c in type(visit.module).__mro__ if c is not nn.Module)
    ours = any(c.__module__.startswith("torch.nn.modules") for c in bases)
    return not ours and sum(not use.of_weights_alone for use in visit.uses) > 1


def _structure(visit: Visit) -> Structure | None:
    """What a module says of itself, if that fits what it just did."""
    module, shape = visit.module, visit.input_shape
    describe: Any = getattr(module, "structure", None)
    if isinstance(module, _ConvNd) and module.padding_mode != "zeros" and len(visit.uses) == 1:
        describe = partial(Structure.of, module)  # its padding is an operation of its own
    elif not inspect.ismethod(describe):
        return None
    if shape is None or not visit.outputs:
        return None
    for size in ((), (shape[2:],), (shape[1:],)):
        try:
            found = describe(*size)
        except Exception:
            continue
        if isinstance(found, Structure) and found.outputs and found.inputs:
            items, rest = divmod(visit.inputs, found.inputs)
            if not rest and items * found.outputs == visit.outputs:
                return found
    return None
