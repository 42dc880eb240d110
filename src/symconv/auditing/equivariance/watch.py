"""Watch a model run layer by layer, with the axes of every feature followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from symconv.auditing.call import tensors_of
from symconv.auditing.equivariance.follow import first_channels, follow, guess
from symconv.auditing.equivariance.layout import CHANNELS, Layout, LostError
from symconv.auditing.equivariance.operations import REARRANGE, Operation, plain_name
from symconv.lattice.representations import Field

_MARK = "_symconv_mark"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_ELEMENTWISE = {"add", "sub", "mul", "div", "truediv", "where", "maximum", "minimum"}
_PADS = {"pad", "constant_pad_nd", "reflection_pad", "replication_pad"}
_WINDOWS = ("conv", "pool", "unfold", "connected")


@dataclass(frozen=True, eq=False)
class Mark:
    """What is known of a feature.

    Attributes:
        layout: Its axes; None where they were lost.
        source: It is this feature, padded: a transform of it is the transformed source, padded.
        pad: Pads a source.
    """

    layout: Layout | None
    source: Tensor | None = None
    pad: Callable[[Tensor], Tensor] | None = None


@dataclass(eq=False)
class Step:
    """One layer at work, or one function between layers.

    Attributes:
        name: "block.conv", or "block:add" for a function called in a module's own forward.
        op: What is called.
        given: Its inputs that are features.
        outputs: What came out, with layouts: floating-point tensors whose axes are known.
        places: Which of its outputs these are.
        writes: It may write to its inputs.
        measured: It is shown to the visitor.
    """

    name: str
    op: Operation
    given: list[tuple[Tensor, Mark]]
    writes: bool
    measured: bool = False
    outputs: list[tuple[Tensor, Layout]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Visitor:
    """What is done at each step; both methods may be overridden."""

    def before(self, step: Step) -> None:
        """Called before a step whose inputs are known."""

    def after(self, step: Step) -> None:
        """Called after it, with its floating-point outputs whose axes are known."""


class Watch(TorchFunctionMode):
    """Shows the steps of a run to a visitor.

    Args:
        model: The model.
        size: Space of its input.
        visitor: Who is shown them.
    """

    def __init__(self, model: nn.Module, size: Sequence[int], visitor: Visitor):
        super().__init__()
        self.size, self.visitor = tuple(size), visitor
        self.names = {id(m): name for name, m in reversed([*model.named_modules()])}
        self.model, self.quiet = model, False
        self.stack: list[str] = []
        self.open: tuple[nn.Module, Step] | None = None

    def __enter__(self) -> Watch:
        self.hooks = [
            hook
            for module in self.model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # what is in it cannot be seen
            for hook in (
                module.register_forward_pre_hook(self._begin, with_kwargs=True),
                module.register_forward_hook(self._end, with_kwargs=True),
            )
        ]
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        for hook in self.hooks:
            hook.remove()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within, nothing is watched, and our own arithmetic is shown to no mode.

        Not even to the one that copies parameters before they are written to: what a layer writes
        when it is called once more, it wrote, and had copied, the first time.
        """
        before, self.quiet = self.quiet, True
        try:
            with _disable_current_modes():
                yield
        finally:
            self.quiet = before

    def layout_of(self, output: Tensor) -> Layout | None:
        """The layout of one of the model's outputs; where it was lost, the usual one."""
        mark = getattr(output, _MARK, None)
        if mark is not None and mark.layout is not None:
            return mark.layout
        return first_channels(output, self.size)

    # Layers

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.quiet or self.open is not None:
            return
        name = self.names.get(id(module), "")
        if not is_layer(module):
            self.stack.append(name)
            return
        kind = type(module).__name__.removeprefix("Parametrized")
        step = self._step(name, Operation(kind, module, args, kwargs, module))
        step.writes |= bool(getattr(module, "inplace", False))
        self.open = module, step
        self._before(step)

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.quiet:
            return
        if self.open is None:
            if not is_layer(module) and self.stack:
                self.stack.pop()
        elif self.open[0] is module:
            _, step = self.open
            with self.aside():
                self._finish(step, output)
            self.open = None

    # Functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet or self.open is not None:
            return func(*args, **kwargs)
        place = self.stack[-1] if self.stack else ""
        name = plain_name(func)
        step = self._step(f"{place}:{name}", Operation(name, func, args, kwargs))
        if not step.given or name.startswith("new_") or name.endswith("_like"):
            return func(*args, **kwargs)
        raw = getattr(func, "__name__", "").split(".")[0]
        step.writes |= raw.endswith("_") or bool(kwargs.get("inplace")) or "out" in kwargs
        self._before(step)
        self.quiet = True
        try:
            output = func(*args, **kwargs)
        finally:
            self.quiet = False
        with self.aside():
            if step.writes or name == "setitem":
                _lose(args[0] if args else None)
            self._finish(step, output)
        return output

    def _step(self, name: str, op: Operation) -> Step:
        leaves = tree_leaves((op.args, op.kwargs))
        given = [(t, getattr(t, _MARK)) for t in leaves if isinstance(t, Tensor) and marked(t)]
        if op.module is not None:
            given = [(t, _as_declared(m, op.module)) for t, m in given]
        return Step(name, op, given, writes=False)

    def _before(self, step: Step) -> None:
        step.measured = _is_measured(step)
        if step.measured:
            with self.aside():
                self.visitor.before(step)

    def _finish(self, step: Step, output: Any) -> None:
        outputs = [t for _, t in tensors_of(output)]
        marks = [self._marked(step, out) for out in outputs]
        for out, mark in zip(outputs, marks, strict=True):
            if not isinstance(out, nn.Parameter):
                setattr(out, _MARK, mark)
        if step.measured and not any(mark.pad for mark in marks):
            for i, (out, mark) in enumerate(zip(outputs, marks, strict=True)):
                if mark.layout is not None and out.is_floating_point():
                    step.outputs.append((out, mark.layout))
                    step.places.append(i)
            if step.outputs:
                self.visitor.after(step)

    def _marked(self, step: Step, out: Tensor) -> Mark:
        try:
            layout = self._followed(step, out)
        except (LostError, ValueError, IndexError, KeyError, TypeError, AttributeError):
            layout = None
        layout = layout or guess(step.op.name, out, self.size)
        if layout is not None and layout.shape != tuple(out.shape):
            layout = None
        if layout is not None and _is_pad(step.op) and len(step.given) == 1:
            source, mark = step.given[0]
            if mark.pad is None and step.op.args and step.op.args[0] is source:
                rest, again = step.op.args[1:], step.op.again
                kwargs = step.op.kwargs
                return Mark(layout, source, lambda x: again(x, *rest, **kwargs))
        return Mark(layout)

    def _followed(self, step: Step, out: Tensor) -> Layout | None:
        """The layout of an output; None where something of it was lost before."""
        op = step.op
        known = [(t, m.layout) for t, m in step.given if m.layout is not None]
        if not known:
            return None
        if len(known) < len(step.given):
            known = [(t, g) for t, g in known if t.shape == out.shape]
            if op.name not in _ELEMENTWISE or not known:
                return None
        layout = follow(op, known, out)
        padded = [m for _, m in step.given if m.pad is not None]
        if padded and not any(w in op.name.lower() for w in _WINDOWS):
            source = padded[0].source
            if source is None or source.shape != out.shape:
                return None
            return getattr(source, _MARK).layout
        return layout


def mark(x: Tensor, layout: Layout | None) -> None:
    """Say what the axes of a feature are."""
    setattr(x, _MARK, Mark(layout))


def marked(x: Tensor) -> bool:
    """Whether a tensor is known to be a feature."""
    return isinstance(getattr(x, _MARK, None), Mark)


def _as_declared(known: Mark, module: nn.Module) -> Mark:
    """An input of a layer that says what its channels mean."""
    field = getattr(module, "in_field", None) or getattr(module, "field", None)
    layout = known.layout
    axis = layout.axis_of(CHANNELS) if layout is not None else None
    if layout is None or axis is None or not isinstance(field, Field):
        return known
    if field.channels != layout.shape[axis]:
        return known
    return replace(known, layout=replace(layout, field=field, sure=True))


def is_layer(module: nn.Module) -> bool:
    """Whether a module is taken as a whole: torch's layers and ours, whatever is inside.

    In a module with a forward of its own each function is looked at.
    """
    if isinstance(module, _CONTAINERS) or hasattr(module, "_orig_mod"):  # one that is compiled
        return False
    home = getattr(type(module).forward, "__module__", "") or ""
    if not home.startswith(("torch.nn.", "symconv.nn.")):
        return False
    stacked = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
    return not isinstance(module, stacked)


def _lose(target: Any) -> None:
    """Features were written into a tensor that was none: its axes are not known."""
    for tensor in (target, getattr(target, "_base", None)):
        if isinstance(tensor, Tensor) and not marked(tensor):
            setattr(tensor, _MARK, Mark(None))


def _into_feature(op: Operation) -> bool:
    """Whether an operation that writes to a tensor writes to a feature."""
    target = op.args[0] if op.args and "out" not in op.kwargs else None
    return isinstance(target, Tensor) and marked(target)


def _is_measured(step: Step) -> bool:
    """Not merely another arrangement of the same numbers, and all its inputs are known."""
    if (step.op.module is None and step.op.name in REARRANGE) or _is_pad(step.op):
        return False
    if step.op.module is None and step.writes and not _into_feature(step.op):
        return False  # it cannot be done again without a trace
    return bool(step.given) and all(m.layout is not None for _, m in step.given)


def _is_pad(op: Operation) -> bool:
    return op.name in _PADS or (op.module is not None and "Pad" in op.name)


def transformed(step: Step, on: Callable[[Tensor, Layout], Tensor]) -> dict[int, Tensor]:
    """The transformed inputs of a step by the identity of the originals.

    Raises:
        LostError: What the transform does to one of them is not known.
    """
    found = {}
    for x, known in step.given:
        if id(x) in found:
            continue
        if known.pad is not None and known.source is not None:
            source = getattr(known.source, _MARK)
            if source.layout is None:
                raise LostError("what was padded")
            found[id(x)] = known.pad(on(known.source, source.layout))
        elif known.layout is not None:
            found[id(x)] = on(x, known.layout)
    return found


def replaced(value: Any, new: dict[int, Tensor]) -> Any:
    """Arguments with some tensors replaced, by identity."""
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    return tree_map(lambda v: new.get(id(v), v), value)
