"""Running a model at other input sizes than it was given."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call, tensors_of
from symconv.auditing.receptive.fields import spatial_input
from symconv.errors import StructureError

Size = tuple[int, ...]


@contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors report every size that does not work as an error; not here."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def replaced(size: Size, axis: int, n: int) -> Size:
    """A size with another length of one axis."""
    return (*size[:axis], n, *size[axis + 1 :])


class Probe:
    """Runs a model at any input size.

    Attributes:
        base: The size of the input given.
        steps: Multiples in which a size can change, per space axis.
        failed_in: The innermost module that was running when the last run failed.
    """

    def __init__(self, call: Call):
        index, self.space = spatial_input(call)
        self.call, self.source = call, call.tensors()[index][1]
        self.base: Size = tuple(self.source.shape[a] for a in self.space)
        self.steps: Size = (1,) * len(self.base)
        self.failed_in: str | None = None
        self._known: dict[Size, Size | None] = {}

    def run(self, x: Tensor) -> list[Tensor]:
        """The output tensors for another input; an exception if it does not work."""
        args, kwargs = tree_map(
            lambda v: x if v is self.source else v, (self.call.args, self.call.kwargs)
        )
        with _scope(self.call.model) as scope:
            try:
                output = self.call.replaced(*args, **kwargs).run()
            except Exception:
                self.failed_in = scope[-1] if scope else None
                raise
        found = [t for _, t in tensors_of(output)]
        if not found:
            raise StructureError("an output that holds tensors", type(output).__name__)
        if any(t.numel() == 0 for t in found):
            self.failed_in = None
            raise ValueError("an empty output")
        return found

    def blank(self, size: Sequence[int]) -> Tensor:
        """Zeros of the input's kind and another size."""
        shape = list(self.source.shape)
        for axis, n in zip(self.space, size, strict=True):
            shape[axis] = n
        return torch.zeros(shape, dtype=self.source.dtype, device=self.source.device)

    def out(self, size: Sequence[int]) -> Size | None:
        """The shape of the first output at a size; None if that size does not work."""
        size = tuple(size)
        if size not in self._known:
            try:
                self._known[size] = tuple(self.run(self.blank(size))[0].shape)
            except Exception:
                self._known[size] = None
        return self._known[size]

    def forget(self) -> None:
        """Run known sizes again."""
        self._known.clear()

    def first_that_works(self, size: Size, steps: Size) -> Size | None:
        """The first size from this one upwards that works."""
        for k in range(17):
            larger = tuple(n + k * s for n, s in zip(size, steps, strict=True))
            if any(n > b for n, b in zip(larger, self.base, strict=True)):
                break
            if self.out(larger):
                return larger
        return None


@contextmanager
def _scope(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running; as they were when a run failed."""
    names = {id(module): name for name, module in reversed([*model.named_modules()])}
    stack: list[str] = []

    def begin(module: nn.Module, args: Any) -> None:
        stack.append(names.get(id(module), type(module).__name__))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    hooks = [register_module_forward_pre_hook(begin), register_module_forward_hook(end)]
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()
