"""The receptive field by recursion: rules followed along the operations of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from symconv.auditing.call import Call, tensors_of
from symconv.auditing.receptive import reach
from symconv.auditing.receptive.moves import written_back
from symconv.auditing.receptive.rules import applied
from symconv.auditing.receptive.seen import Seen, fresh
from symconv.auditing.receptive.steps import Step, channels_replaced, tensors
from symconv.lattice.windows import Window

# Where torch takes a function apart, its meaning is lost: circular padding becomes writes into
# slices, a recurrent layer a loop over steps. These are taken whole.
WHOLE = ("pad", "lstm", "gru", "rnn_tanh", "rnn_relu")
Place = tuple[tuple[int, ...], tuple[int, ...], int]  # shape, strides, offset: a view of a memory


class _Memory:
    """What the views of one storage see; a write through one makes the others stale."""

    def __init__(self, storage: Any):
        self.reference = StorageWeakRef(storage)  # so that its address is not given out again
        self.seen: dict[Place, Seen] = {}
        self.origins: dict[Place, tuple[Place, str, dict[str, Any]]] = {}


class Follow(TorchDispatchMode):
    """Follows what every tensor of a run sees of the input, until it is left.

    Args:
        model: The model; its modules are called by their names in it.
        source: The input tensor.
        space: The axes of it that are space.

    Attributes:
        modules: Name of a module -> what its output sees (of its last call).
        remarks: What could not be followed.
    """

    def __init__(self, model: nn.Module, source: Tensor, space: tuple[int, ...]):
        super().__init__()
        self.names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self.modules: dict[str, Seen] = {}
        self.remarks: dict[str, None] = {}
        self.scope: list[str] = []
        self._space = space
        self._memories: dict[int, _Memory] = {}
        self._quiet = False
        self._inputs: dict[int, Seen] = {}
        self._set(source, Seen.input(source.shape, space))

    def __enter__(self):
        self._hooks = [
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, always_call=True),
        ]
        self._functions = _Functions(self)
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *problem: Any):
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*problem)
        return self._functions.__exit__(*problem)

    def _begin(self, module: nn.Module, args: Any) -> None:
        if isinstance(getattr(module, "window", None), Window) and hasattr(module, "tile"):
            self._inputs[id(module)] = self.of(args[0])
        self.scope.append(self.names.get(id(module), self.scope[-1] if self.scope else ""))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.scope:
            self.scope.pop()
        if isinstance(output, Tensor) and id(module) in self._inputs:
            self._set(output, self._tiled(module, self._inputs.pop(id(module)), output))
        name = self.names.get(id(module))
        if name is not None:
            self.note(name, output)

    def _tiled(self, module: Any, x: Seen, output: Tensor) -> Seen:
        """A tiled layer interleaves convolutions; its window says what that comes to."""
        window = module.window
        first = output.dim() - len(window.stride)
        x = channels_replaced(x, first - 1, output.shape[first - 1])
        rows = zip(window.kernel_size, window.stride, window.padding, window.dilation, strict=True)
        for axis, (k, s, (before, _), d) in enumerate(rows, first):
            x = x.moved(axis, reach.window(k, s, before, d), output.shape[axis])
        return x

    def note(self, name: str, output: Any) -> None:
        """Remember what a module's first output tensor that sees the input sees."""
        for _, tensor in tensors_of(output):
            seen = self.of(tensor)
            if any(seen.views):
                self.modules[name] = seen
                return

    # Memory

    def _memory(self, tensor: Tensor) -> tuple[_Memory, Place]:
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None:
            memory = self._memories[storage._cdata] = _Memory(storage)
        return memory, (tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))

    def of(self, tensor: Tensor) -> Seen:
        """What a tensor sees."""
        nothing = Seen(fresh(tensor.shape), tuple({} for _ in self._space))
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):
            return nothing.unknown(tensor.shape, "a tensor that is not dense")
        if storage._cdata not in self._memories:
            return nothing
        memory, place = self._memory(tensor)
        if place in memory.seen:
            return memory.seen[place]
        known = any(any(seen.views) for seen in memory.seen.values())
        return nothing.unknown(tensor.shape, "memory seen in a new way") if known else nothing

    def _set(self, tensor: Tensor, seen: Seen) -> None:
        memory, place = self._memory(tensor)
        memory.seen[place] = seen

    def _write(self, tensor: Tensor, seen: Seen) -> None:
        """A tensor is changed in place: through a view this changes what it is a view of."""
        memory, place = self._memory(tensor)
        old = dict(memory.seen)
        views = [p for p in old if p != place]
        memory.seen = {place: seen}
        origin = memory.origins.get(place)
        while origin is not None:
            above, name, args = origin
            base = old.get(above) or Seen(fresh(above[0]), tuple({} for _ in self._space))
            seen = written_back(name, args, base, seen)
            memory.seen[above] = seen
            origin = memory.origins.get(above)
        for view in views:
            if view not in memory.seen:
                memory.seen[view] = old[view].lost("memory was written to through another view")

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quiet:
            return func(*args, **kwargs)
        given = [self.of(t) for t in tensors((args, tuple(kwargs.values())))]
        if not any(any(s.views) for s in given):
            result = func(*args, **kwargs)
            if any(r.alias_info and not r.alias_info.is_write for r in _returns(func)):
                named = _named(func, args, kwargs)
                for tensor in tensors(result):
                    self._view(tensor, _name(func), named)
            return result
        named = _named(func, args, kwargs)
        before = {id(t): self.of(t) for t in tensors((args, tuple(kwargs.values())))}
        result = func(*args, **kwargs)
        self.take(_name(func), named, result, before, func)
        return result

    def take(
        self, name: str, named: dict[str, Any], result: Any, before: Mapping[int, Seen], func: Any
    ) -> None:
        """Apply the rule of one operation to what comes out of it."""
        out = list(tensors(result))
        if not out and name == "_local_scalar_dense":
            where = self.scope[-1] if self.scope else ""
            self.remarks[f"numbers are read into Python in {where!r}"] = None
        tags = getattr(func, "tags", ())
        step = Step(
            name,
            named,
            lambda t: before[id(t)] if id(t) in before else self.of(t),
            [tuple(t.shape) for t in out],
        )
        schema = getattr(func, "_schema", None)
        writes = bool(schema and schema.is_mutable)
        for tensor, seen in zip(out, applied(step, torch.Tag.pointwise in tags), strict=True):
            if seen.shape != tuple(tensor.shape):
                seen = seen.lost(f"the operation {name}").arranged(fresh(tensor.shape))
            if writes:
                self._write(tensor, seen)
                continue
            self._view(tensor, name, named)
            self._set(tensor, seen)

    def _view(self, tensor: Tensor, name: str, named: dict[str, Any]) -> None:
        """Remember of which tensor a new one is a view, for writes through it."""
        first = next(iter(tensors(tuple(named.values()))), None)
        if first is None:
            return
        (memory, place), (owner, above) = self._memory(tensor), self._memory(first)
        if owner is memory and above != place:
            memory.origins.setdefault(place, (above, name, named))


class _Functions(TorchFunctionMode):
    """Takes some of torch's functions whole."""

    def __init__(self, follow: Follow):
        super().__init__()
        self.follow = follow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "_opname", None) or getattr(func, "__name__", "")
        follow = self.follow
        given = list(tensors((args, tuple(kwargs.values()))))
        if name not in WHOLE or follow._quiet or not any(any(follow.of(t).views) for t in given):
            return func(*args, **kwargs)
        follow._quiet = True
        try:
            result = func(*args, **kwargs)
        finally:
            follow._quiet = False
        named = dict(enumerate(args)) | kwargs
        if name == "pad":
            pads = kwargs["pad"] if "pad" in kwargs else args[1]
            named = {"input": kwargs.get("input", args[0] if args else None), "pad": pads}
        follow.take(name, named, result, {id(t): follow.of(t) for t in given}, func)  # type: ignore[arg-type]
        return result


def _returns(func: Any) -> list[Any]:
    schema = getattr(func, "_schema", None)
    return list(schema.returns) if schema else []


def _name(func: Any) -> str:
    """The operation's name; in place is as out of place."""
    name = getattr(func, "_opname", None) or getattr(func, "__name__", str(func))
    return name.removesuffix("_") if not name.endswith("__") else name


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by their names in the schema; those left out at their defaults."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return {str(i): a for i, a in enumerate(args)} | kwargs
    named = {a.name: v for a, v in zip(schema.arguments, args, strict=False)}
    for argument in schema.arguments[len(args) :]:
        if argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def followed(call: Call, source: Tensor, space: tuple[int, ...]) -> tuple[Follow, Any]:
    """Run a call and follow what its tensors see."""
    with Follow(call.model, source, space) as follow:
        if call.program is None:
            output = call.run()
        else:
            output = _Program(call.model, follow).run(*call.args, **call.kwargs)
        follow.note("", output)
    return follow, output


class _Program(torch.fx.Interpreter):
    """Runs an exported program; what is a module's output is known from its nodes' metadata."""

    def __init__(self, module: Any, follow: Follow):
        super().__init__(module)
        self.follow = follow

    def run_node(self, n: torch.fx.Node) -> Any:
        stack = [path for path, _ in n.meta.get("nn_module_stack", {}).values()]
        result = super().run_node(n)
        for path in stack:
            self.follow.note(_plain_path(path), result)
        return result


def _plain_path(path: str) -> str:
    """A module's name as in `named_modules`.

    Example:
        >>> _plain_path("L['self'].layer1[0].conv"), _plain_path("layer1.0@1")
        ('layer1.0.conv', 'layer1.0')
    """
    path = path.removeprefix("L['self']").replace("[", ".").replace("]", "").replace("'", "")
    return ".".join(part.split("@")[0] for part in path.split(".") if part)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Transformer layers by their parts rather than as one fused operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
