"""Strides taken behind a small low-pass filter, after the activation (Zhang 2019)."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from symconv import nn as ours
from symconv.conversion.antialiasing import layers
from symconv.conversion.antialiasing.grids import Grids
from symconv.conversion.antialiasing.layers import Window, module_of
from symconv.conversion.antialiasing.nodes import name_of
from symconv.conversion.antialiasing.notes import Note, described
from symconv.conversion.antialiasing.trace import add
from symconv.errors import StructureError

_FUNCTIONS = {
    "relu",
    "relu_",
    "relu6",
    "hardtanh",
    "hardswish",
    "silu",
    "gelu",
    "elu",
    "leaky_relu",
}
_WHY = "blurring lets some aliasing through"
_BLUR = {1: ours.BlurPool1d, 2: ours.BlurPool2d, 3: ours.BlurPool3d}


def blur(made: fx.GraphModule, grids: Grids) -> list[Note]:
    """Rewrite a graph in place; a note for each layer."""
    notes = []
    single(made, grids)
    for node, found, _ in grids.steps:
        module: Any = module_of(made, node)
        was = described(made, node)
        if isinstance(module, layers.BLURS):
            continue
        if isinstance(module, layers.GROUPED):
            raise StructureError(
                "strided layers of torch",
                f"{type(module).__name__} {name_of(node)!r}",
                'take method="polyphase"',
            )
        pool = _pool(found, grids.n)
        if isinstance(module, layers.MEANS):
            node.target = add(made, "blur", pool)
            now = "a BlurPool in its place"
        elif isinstance(module, layers.MAXES):
            now = _maximum(made, node, module, found, pool)
        else:
            now = _convolution(made, node, module, found, pool)
        notes.append(Note(name_of(node), was, now, "approximate", _WHY))
    return notes


def single(made: fx.GraphModule, grids: Grids) -> None:
    """Refuse a strided layer of weights that is called more than once."""
    calls = [n.target for n in made.graph.nodes if n.op == "call_module"]
    for node, _, _ in grids.steps:
        if calls.count(node.target) > 1 and list(made.get_submodule(str(node.target)).parameters()):
            raise StructureError(
                "strided layers that are called once",
                f"{name_of(node)!r}, called {calls.count(node.target)} times",
                'take method="polyphase"',
            )


def _pool(found: Window, n: int) -> nn.Module:
    taps = tuple(1 if s == 1 else max(3, 2 * s - 1) for s in found.stride)
    mode = "circular" if found.mode == "circular" else "replicate"
    bare = not any(found.before) and not any(found.after)
    return _BLUR[n](taps, found.stride, "circular" if bare and found.mode == "circular" else mode)


def _insert(made: fx.GraphModule, node: fx.Node, pool: nn.Module) -> None:
    """The pool after a node."""
    name = add(made, "blur", pool)
    with made.graph.inserting_after(node):
        new = made.graph.call_module(name, (node,))
    node.replace_all_uses_with(new, lambda user: user is not new)


def _maximum(
    made: fx.GraphModule, node: fx.Node, module: Any, found: Window, pool: nn.Module
) -> str:
    one = copy.copy(module)
    one.stride, one.ceil_mode = 1, False
    if found.ceil:  # what the last, partial window saw
        sides = [s for k, step in zip(reversed(found.size), reversed(found.stride), strict=True)
                 for s in (0, max(0, k - step))]  # fmt: skip
        with made.graph.inserting_before(node):
            wider = made.graph.call_function(
                F.pad, (node.all_input_nodes[0], tuple(sides), "replicate")
            )
        node.args = (wider,)
    node.target = add(made, "maxpool", one)
    _insert(made, node, pool)
    return "stride 1, then a BlurPool"


def _convolution(
    made: fx.GraphModule, node: fx.Node, module: Any, found: Window, pool: nn.Module
) -> str:
    module.stride = (1,) * len(found.stride)
    last, active = node, False
    while len(last.users) == 1 and not active:
        user = next(iter(last.users))
        layer = module_of(made, user)
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if isinstance(layer, layers.ACTIVATIONS) or name in _FUNCTIONS:
            active = True
        elif not isinstance(layer, (*layers.NORMS, nn.Identity)):
            break
        last = user
    if active:
        _insert(made, last, pool)
        return "stride 1, a BlurPool after its activation"
    if set(found.size) == {1} and not any(found.before):
        name = add(made, "blur", pool)
        with made.graph.inserting_before(node):
            node.args = (made.graph.call_module(name, (node.all_input_nodes[0],)),)
        return "stride 1, a BlurPool before it"
    _insert(made, node, pool)
    return "stride 1, then a BlurPool"
