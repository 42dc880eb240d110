"""`left_as_found`: measure a person's model and leave no trace in it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def left_as_found(model: nn.Module, guarded: bool = True) -> Iterator[None]:
    """Put a model in evaluation mode, and on leaving make everything as it was before.

    That is: mode, parameters, buffers, gradients, hooks and attributes of every module, and the
    state of the random generators; also when the body raises. Modes are set directly, because
    `eval()` may be overridden to do more (merge adapters, say).

    Inside, torch's fused transformer layers and compiled modules run by their parts.

    Buffers are copied. Parameters are not, they may fill the memory: the first operation that
    would write to one has it copied then.

    Args:
        model: The model.
        guarded: Watch for such operations; not needed where no numbers are computed.
    """
    modules = list(model.modules())
    attributes = [_Attributes(m) for m in modules]
    tensors = [_Kept(t, copy=not isinstance(t, nn.Parameter)) for t in _tensors(modules)]
    generators = _generators()
    for module in modules:
        module.training = False
    for kept in tensors:
        kept.tensor.grad = None
    try:
        with _as_written(), _CopyOnWrite(tensors) if guarded else nullcontext():
            yield
    finally:
        for attribute in attributes:
            attribute.restore()
        for kept in tensors:
            kept.restore()
        _restore_generators(generators)


@contextmanager
def _as_written() -> Iterator[None]:
    """Layers by their parts, as the person wrote them: nothing compiled, nothing fused.

    Torch's fast path of transformers hides the parts and leaves out what padding masks.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    switch = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"  # flex_attention compiles itself otherwise
    compiles = getattr(flex, switch, None)
    # loading torch's compiler takes seconds: without it nothing is compiled
    stance = torch.compiler.set_stance if "torch._dynamo" in sys.modules else nullcontext
    torch.backends.mha.set_fastpath_enabled(False)
    if compiles is not None:
        setattr(flex, switch, True)
    try:
        with stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if compiles is not None:
            setattr(flex, switch, compiles)


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, each once."""
    found: dict[int, Tensor] = {}
    for module in modules:
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                found[id(tensor)] = tensor
    return list(found.values())


class _Kept:
    """A tensor, what it refers to, and, once copied, its values."""

    def __init__(self, tensor: Tensor, copy: bool):
        self.tensor, self.data = tensor, tensor.detach()
        self.requires_grad, self.grad = tensor.requires_grad, tensor.grad
        self.values: Tensor | None = None
        if copy:
            self.copy()

    def copy(self) -> None:
        if self.values is None and not self.data.is_meta:
            self.values = self.data.clone()

    @torch.no_grad()
    def restore(self) -> None:
        plain = self.data.layout == torch.strided
        if self.values is not None and not (plain and torch.equal(self.data, self.values)):
            (self.data if plain else self.tensor).copy_(self.values)
        if plain and self.tensor.data_ptr() != self.data.data_ptr():  # someone set tensor.data
            self.tensor.data = self.data
        if self.tensor.is_leaf:
            self.tensor.requires_grad_(self.requires_grad)
        self.tensor.grad = self.grad


class _CopyOnWrite(TorchDispatchMode):
    """Copies a tensor just before an operation writes to its memory."""

    supports_higher_order_operators = True  # they pass; what they call inside is not seen

    def __init__(self, tensors: list[_Kept]):
        super().__init__()
        self.tensors: dict[int, list[_Kept]] = {}
        for kept in tensors:
            self.tensors.setdefault(_memory(kept.data), []).append(kept)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            names = (argument.name for argument in schema.arguments)
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            for argument in schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._about_to_write(given.get(argument.name))
        return func(*args, **(kwargs or {}))

    def _about_to_write(self, value: Any) -> None:
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor):
                for kept in self.tensors.get(_memory(tensor), ()):
                    kept.copy()


def _memory(tensor: Tensor) -> int:
    """Identity of the memory behind a tensor."""
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # sparse tensors have none of their own
        return id(tensor)


class _Attributes:
    """The attributes of a module, and the contents of its dictionaries, lists and sets."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.found = dict(module.__dict__)
        kept = [v for v in self.found.values() if isinstance(v, (dict, list, set))]
        self.contents: list[tuple[Any, Any]] = [(value, value.copy()) for value in kept]

    def restore(self) -> None:
        state = self.module.__dict__
        for name in [n for n in state if n not in self.found]:
            del state[name]
        state.update(self.found)
        for value, copy in self.contents:
            if isinstance(value, list):
                value[:] = copy
            elif list(value) != list(copy):
                value.clear()
                value.update(copy)
            elif isinstance(value, dict):
                value.update(copy)


def _generators() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _restore_generators(states: tuple[Any, ...]) -> None:
    cpu, cuda, numpy, python = states
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy)
    random.setstate(python)
