"""Watch a model run: which operation contracts what, inside which module."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from symconv.auditing.call import tensors_of
from symconv.auditing.counts import formulas
from symconv.auditing.counts.formulas import Contraction, contractions
from symconv.auditing.counts.free import is_free
from symconv.auditing.counts.provenance import NOTHING, Provenance, tensors
from symconv.structure import Structure


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
        parameters: Which parameters the weight is made of; None if both are activations.
        input_shape: Shape of the activation.
        output_shape: Shape of the operation's result.
    """

    name: str
    macs: int
    padding_macs: int
    inputs: int
    outputs: int
    fan_in: int
    connections: int | None
    items: int | None
    parameters: frozenset[int] | None
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()


@dataclass
class Visit:
    """One call of one module, with what happened directly in it."""

    name: str
    kind: str
    module: nn.Module
    whole: bool  # one row in all: a module without children, or one that states its structure
    start: int  # where among the visits
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    inputs: int = 0
    outputs: int = 0
    uses: list[Use] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    remarks: set[str] = field(default_factory=set)
    structure: Structure | None = None


class Watch(TorchDispatchMode):
    """Sees every operation, and through hooks every call of a module, until it is left.

    Args:
        model: The model; its modules are called by their names in it.
        provenance: What is a weight; the model's parameters must be known to it.

    Attributes:
        visits: Every call of a module in the order they began.
    """

    supports_higher_order_operators = True  # flex_attention comes as one

    def __init__(self, model: nn.Module, provenance: Provenance):
        super().__init__()
        self.provenance = provenance
        self.names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self.visits: list[Visit] = []
        self._stack: list[Visit] = []
        self._zeros: dict[int, tuple[tuple[int, ...], formulas.Pairs]] = {}
        self._products: dict[int, Use] = {}

    def __enter__(self):
        self._hooks = [
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *problem: Any):
        for hook in self._hooks:
            hook.remove()
        return super().__exit__(*problem)

    # Modules

    def _begin(self, module: nn.Module, args: Any) -> None:
        name = self.names.get(id(module))
        above = self._stack[-1] if self._stack else None
        if above is not None and name is None:
            above.remarks.add("holds layers that are not registered")
            for tensor in [*module.parameters(), *module.buffers()]:
                self.provenance.add(tensor, None)
        if above is not None and (above.whole or name is None or ".parametrizations" in name):
            return  # part of the module above
        kind = type(module).__name__.removeprefix("Parametrized")
        visit = Visit(name or "", kind, module, is_leaf(module), len(self.visits))
        self.visits.append(visit)
        self._stack.append(visit)

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not any(visit.module is module for visit in self._stack):
            return
        while True:  # those that an exception left open are closed, too
            visit = self._stack.pop()
            if visit.module is module:
                break
        given = [t for _, t in tensors_of([*args])] + [t for _, t in tensors_of(kwargs)]
        made = [t for _, t in tensors_of(output)]
        if given:
            visit.input_shape = tuple(given[0].shape)
            unlike = {id(t): t for t in given if t.is_floating_point() or t.is_complex()}
            visit.inputs = sum(t.numel() for t in unlike.values())
        if made:
            visit.output_shape, visit.outputs = tuple(made[0].shape), made[0].numel()
        visit.structure = _structure(module, visit)
        if visit.structure is not None:  # what happened inside is how, not what
            visit.whole, visit.uses, visit.unknown = True, [], []
            del self.visits[visit.start + 1 :]
        elif visit.whole and not all(map(self.provenance.seen, made)):
            visit.unknown.append("something computed outside torch")

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(func, torch._ops.OpOverload) and is_free(func):
            self._remember(func, args, kwargs, result)
            found: list[Contraction] | str = []
            self._sum(func, args, result)
        else:
            found = contractions(func, args, kwargs, result, self._zeros_around)
        self._note(found, args, kwargs, result)
        self.provenance.follow(func, args, kwargs, result)
        return result

    def _note(self, found: list[Contraction] | str, args: Any, kwargs: Any, result: Any) -> None:
        if not self._stack:
            return
        if isinstance(found, list):
            shape = next((tuple(t.shape) for t in tensors(result)), ())
            self._stack[-1].uses.extend(self._use(c, shape) for c in found)
        elif any(t.is_floating_point() or t.is_complex() for t in tensors((args, kwargs, result))):
            self._stack[-1].unknown.append(found)

    def _use(self, c: Contraction, output_shape: tuple[int, ...] = ()) -> Use:
        left, right = self.provenance.of(c.left), self.provenance.of(c.right)
        weights = [s for s in (left, right) if s is not None]
        active = c.right if left is not None else c.left
        name = c.name
        if len(weights) == 1 and name == "matmul":
            name = "linear" if self.provenance.is_parameter(c.left if left else c.right) else name
        return Use(
            name,
            c.macs,
            c.padding_macs,
            active.numel() if c.inputs is None else c.inputs,
            c.outputs,
            c.fan_in,
            c.connections if len(weights) == 1 else None,
            c.items,
            NOTHING.union(*weights) if weights else None,
            input_shape=tuple(active.shape),
            output_shape=output_shape,
        )

    def _remember(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Zeros put around a tensor, and products that may be summed next."""
        if func._opname == "constant_pad_nd":
            value = args[2] if len(args) > 2 else kwargs.get("value", 0)
            pads = tuple((args[1][i], args[1][i + 1]) for i in range(0, len(args[1]), 2))[::-1]
            if not value and min(map(min, pads), default=-1) >= 0:
                self._zeros[self.provenance.memory(result)] = tuple(result.shape), pads
        elif func._opname == "mul" and all(isinstance(factor, Tensor) for factor in args):
            left, right = args
            sources = self.provenance.of(left), self.provenance.of(right)
            if left is right or min(left.numel(), right.numel()) < 2 or NOTHING in sources:
                return  # a square, a scale, a mask
            size, name = result.numel(), "multiply and sum"
            macs = size * formulas.real_products(result)
            product = Contraction(name, left, right, macs, size, 1, connections=size)
            self._products[self.provenance.memory(result)] = self._use(product)

    def _zeros_around(self, x: Tensor, axes: int) -> formulas.Pairs | None:
        """The zeros that the operation before put around the last axes of a tensor."""
        shape, pads = self._zeros.get(self.provenance.memory(x), ((), ()))
        if shape != tuple(x.shape) or len(pads) > axes:
            return None
        return ((0, 0),) * (axes - len(pads)) + pads

    def _sum(self, func: Any, args: Any, result: Any) -> None:
        """A product that is summed right after is a contraction written by hand."""
        if func._opname != "sum" or not self._stack:
            return
        product = self._products.pop(self.provenance.memory(args[0]), None)
        outputs = result.numel()
        if product is not None and product.outputs == args[0].numel() > outputs > 0:
            terms = product.outputs // outputs
            shape = tuple(result.shape)
            use = replace(product, outputs=outputs, fan_in=terms, output_shape=shape)
            self._stack[-1].uses.append(use)


def is_leaf(module: nn.Module) -> bool:
    """Has it no modules inside, its parametrisations aside?"""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _structure(module: nn.Module, visit: Visit) -> Structure | None:
    """What a module says of itself, if that fits what it just did."""
    describe = getattr(module, "structure", None)
    if not inspect.ismethod(describe) or visit.input_shape is None or not visit.outputs:
        return None
    for size in ((), (visit.input_shape[2:],), (visit.input_shape[1:],)):
        try:
            found = describe(*size)
        except Exception:
            continue
        if isinstance(found, Structure) and found.outputs and found.inputs:
            items, rest = divmod(visit.inputs, found.inputs)
            if not rest and items * found.outputs == visit.outputs:
                return found
    return None
