"""Run a model without its memory: parameters, buffers and input as fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call


class NumbersNeededError(Exception):
    """Something that fake tensors cannot stand for."""


@contextmanager
def fake(call: Call) -> Iterator[Call]:
    """The same call with tensors that have shape, type and device but no numbers.

    Parameters and buffers are converted once and put in the modules' places for the time being:
    converted at each use they would lose their identity, and with it who owns a weight.

    Raises:
        NumbersNeededError: Some module keeps its parameters where they cannot be replaced.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in call.model.modules()):
        raise NumbersNeededError("TorchScript keeps its own parameters")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # a compiled kernel that asks for an address gets an error, not an address to crash at
    mode._allow_unsafe_data_ptr_access = False
    stores: list[dict[str, Any]] = [
        store for m in call.model.modules() for store in (m._parameters, m._buffers)
    ]
    found = [dict(store) for store in stores]

    def convert(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        return mode.from_tensor(value, static_shapes=True)

    try:
        for store, tensors in zip(stores, found, strict=True):
            for name, tensor in tensors.items():
                if tensor is not None:
                    store[name] = convert(tensor)
        args, kwargs = tree_map(convert, (call.args, call.kwargs))
        with mode:
            yield call.replaced(*args, **kwargs)
    finally:
        for store, tensors in zip(stores, found, strict=True):
            store.update(tensors)
