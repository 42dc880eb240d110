"""Run a model on shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call


@contextmanager
def meta(call: Call) -> Iterator[Call]:
    """The same call on meta tensors: shapes without numbers.

    Quicker than fake tensors, and nothing more has to be loaded; a model that names a device in its
    forward cannot run so.
    """
    stores: list[dict[str, Any]] = [
        s for m in call.model.modules() for s in (m._parameters, m._buffers)
    ]
    found = [dict(store) for store in stores]

    def convert(value: Any) -> Any:
        return value.to("meta") if isinstance(value, Tensor) else value

    try:
        for store in stores:
            for name, tensor in list(store.items()):
                store[name] = convert(tensor)
        args, kwargs = tree_map(convert, (call.args, call.kwargs))
        with torch.device("meta"):
            yield call.replaced(*args, **kwargs)
    finally:
        for store, tensors in zip(stores, found, strict=True):
            store.update(tensors)
