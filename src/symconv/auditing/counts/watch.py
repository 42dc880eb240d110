"""Watch a model run: which operation contracts what, inside which module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from symconv.auditing.counts.contraction import Contraction, Pairs, real_products
from symconv.auditing.counts.fake import NumbersNeededError
from symconv.auditing.counts.formulas import contractions
from symconv.auditing.counts.free import is_free
from symconv.auditing.counts.provenance import KEPT, MADE, Provenance, tensors
from symconv.auditing.counts.visits import FOREIGN, Use, Visits


class Watch(TorchDispatchMode):
    """Sees every operation until it is left, and hands the contractions to the visit they are in.

    Args:
        visits: The calls of modules.
        provenance: What is a weight; the model's parameters must be known to it.
        numbers: The run is a real one.
    """

    supports_higher_order_operators = True  # flex_attention comes as one

    def __init__(self, visits: Visits, provenance: Provenance, numbers: bool):
        super().__init__()
        self.visits, self.provenance, self.numbers = visits, provenance, numbers
        self._zeros: dict[int, tuple[tuple[int, ...], Pairs]] = {}
        self._products: dict[int, Use] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.numbers and any(t.layout != torch.strided for t in tensors((args, result))):
            raise NumbersNeededError("a sparse tensor has as many connections as it stores numbers")
        if isinstance(func, torch._ops.OpOverload) and is_free(func):
            found: list[Contraction] | str = []
            self._remember(func, args, kwargs, result)
            self._sum(func, args, result)
        else:
            found = contractions(func, args, kwargs, result, self._zeros_around)
        self._note(found, args, kwargs, result)
        self.provenance.follow(func, args, kwargs, result)
        if self.provenance.foreign:
            self.provenance.foreign = False
            self.visits.cannot_count(FOREIGN)
        return result

    def _note(self, found: list[Contraction] | str, args: Any, kwargs: Any, result: Any) -> None:
        visit = self.visits.now
        if visit is None:
            return
        if isinstance(found, list):
            shape = next((tuple(t.shape) for t in tensors(result)), ())
            visit.uses.extend(self._use(contraction, shape) for contraction in found)
        elif any(t.is_floating_point() or t.is_complex() for t in tensors((args, kwargs, result))):
            self.visits.cannot_count(found)

    def _use(self, c: Contraction, shape: tuple[int, ...]) -> Use:
        left, right = self.provenance.of(c.left), self.provenance.of(c.right)
        if left is not None and right is not None:  # one may be a constant that a layer is fed with
            left, right = (
                s if s != MADE or o == MADE else None for s, o in ((left, right), (right, left))
            )
        one = (left is None) != (right is None)
        weight, active = (c.right, c.left) if left is None else (c.left, c.right)
        neither = left is None and right is None
        direct = one and self.provenance.is_parameter(weight)
        return Use(
            "linear" if direct and c.name == "matmul" else c.name,
            c.macs,
            c.padding_macs,
            active.numel() if c.inputs is None else c.inputs,
            c.outputs,
            c.fan_in,
            c.connections if one else None,
            c.items,
            None if neither else (left or MADE) | (right or MADE),
            self.provenance.weights(weight) if one else frozenset(),
            tuple(active.shape),
            shape,
            self.visits.tick(),
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
            sources = [self.provenance.of(factor) for factor in args]
            constants = [s for s in sources if s is not None and not s - {KEPT}]
            if left is right or min(left.numel(), right.numel()) < 2 or constants or all(sources):
                return  # a square, a scale, a mask, a weight
            size = result.numel()
            macs, name = size * real_products(result), "multiply and sum"
            product = Contraction(name, left, right, macs, size, 1, connections=size)
            self._products[self.provenance.memory(result)] = self._use(product, ())

    def _sum(self, func: Any, args: Any, result: Any) -> None:
        """A product that is summed right after is a contraction written by hand."""
        visit = self.visits.now
        if func._opname != "sum" or visit is None:
            return
        product = self._products.pop(self.provenance.memory(args[0]), None)
        outputs = result.numel()
        if product is not None and product.outputs == args[0].numel() > outputs > 0:
            terms, shape = product.outputs // outputs, tuple(result.shape)
            use = replace(product, outputs=outputs, fan_in=terms, output_shape=shape)
            visit.uses.append(use)

    def _zeros_around(self, x: Tensor, axes: int) -> Pairs | None:
        """The zeros that the operation before put around the last axes of a tensor."""
        shape, pads = self._zeros.get(self.provenance.memory(x), ((), ()))
        if shape != tuple(x.shape) or len(pads) > axes:
            return None
        return ((0, 0),) * (axes - len(pads)) + pads


class Outward(TorchFunctionMode):
    """Notices when numbers are taken out of torch: what is done with them cannot be seen."""

    def __init__(self, visits: Visits):
        super().__init__()
        self.visits = visits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__):
            self.visits.cannot_count(FOREIGN)
        return func(*args, **(kwargs or {}))
