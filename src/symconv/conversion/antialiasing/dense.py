"""Strides taken out, later layers dilated: the network at every position (a trous)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from symconv.conversion.antialiasing import layers
from symconv.conversion.antialiasing.grids import Grids, Map
from symconv.conversion.antialiasing.layers import Window, module_of, window
from symconv.conversion.antialiasing.moves import dilated_mean, wrapped
from symconv.conversion.antialiasing.nodes import name_of, pads
from symconv.conversion.antialiasing.notes import Note, described
from symconv.conversion.antialiasing.trace import add
from symconv.errors import StructureError


def dense(made: fx.GraphModule, grids: Grids) -> list[Note]:
    """Rewrite a graph in place; a note for each layer."""
    if grids.rises:
        raise _refused("upsampling", grids.rises[0][0])
    strided = {node for node, _, _ in grids.steps}
    settled: dict[str, tuple[int, ...]] = {}
    notes = []
    for node in list(made.graph.nodes):
        sources = [grids.labels[n] for n in node.all_input_nodes if n in grids.labels]
        map_ = next((label for label in sources if isinstance(label, Map)), None)
        if map_ is None:
            continue
        at = map_.grid.total()
        module: Any = module_of(made, node)
        found = window(module, grids.n) if module is not None else None
        if found is None or not isinstance(grids.labels[node], Map):
            if pads(made, node) is not None and at != (1,) * grids.n:
                _widen(made, node, at)
            continue
        if node not in strided and at == (1,) * grids.n:
            continue
        if isinstance(module, (*layers.BLURS, *layers.GROUPED)):
            raise _refused(type(module).__name__, node)
        if settled.setdefault(str(node.target), at) != at and _weighted(module):
            raise _refused("a layer called at two strides", node)
        was = described(made, node)
        _dilate(made, node, module, found, at)
        step = at[0] if len(set(at)) == 1 else at
        why = "; ".join(f.why for f in grids.faults if f.layer == name_of(node))
        verdict = "approximate" if why else "exact"
        notes.append(Note(name_of(node), was, f"stride 1, dilated by {step}", verdict, why))
    return notes


def _refused(what: str, node: fx.Node) -> StructureError:
    return StructureError(
        "a network that only goes down, of torch's layers",
        f"{what} at {name_of(node)!r}",
        'take method="polyphase"',
    )


def _widen(made: fx.GraphModule, node: fx.Node, at: tuple[int, ...]) -> None:
    """Padding at a stride becomes padding by as many strides."""
    found = pads(made, node)
    if found is None:
        return
    sides = tuple(s * at[-1 - i // 2] for i, s in enumerate(found[0]))
    source = node.all_input_nodes[0]
    node.op, node.kwargs = "call_function", {}
    if found[1] == "circular":
        node.target, node.args = wrapped, (source, sides)
    else:
        node.target, node.args = F.pad, (source, sides, found[1])


def _weighted(module: nn.Module | None) -> bool:
    """Whether a layer holds weights, so that two of its calls cannot be changed apart."""
    return module is not None and any(True for _ in module.parameters())


def _dilate(
    made: fx.GraphModule, node: fx.Node, module: Any, found: Window, at: tuple[int, ...]
) -> None:
    reach = [r * a for r, a in zip(found.reach, at, strict=True)]
    before = [b * a for b, a in zip(found.before, at, strict=True)]
    sides: list[int] = []
    # beyond the last of its windows a strided layer needs less than the dense one: made up after
    extended = node.all_input_nodes[0]
    padded = pads(made, extended) is not None or extended.target is wrapped
    for axis in reversed(range(len(at))):
        whole = max(0, reach[axis] - before[axis])
        sides += [before[axis], 0 if padded and not before[axis] else whole]
    circular = found.mode == "circular" or not (any(found.before) or any(found.after))
    value = -torch.inf if isinstance(module, layers.MAXES) else 0.0
    source = node.all_input_nodes[0]
    with made.graph.inserting_before(node):
        if any(sides):
            if circular:
                source = made.graph.call_function(wrapped, (source, tuple(sides)))
            else:
                source = made.graph.call_function(F.pad, (source, tuple(sides), "constant", value))
    dilation = tuple(d * a for d, a in zip(found.dilation, at, strict=True))
    if isinstance(module, layers.CONVS):
        one = (1,) * len(at)
        module.stride, module.dilation = one, dilation
        module.padding, module.padding_mode = (0,) * len(at), "zeros"
        module._reversed_padding_repeated_twice = [0] * (2 * len(at))
        node.args = (source,)
    elif isinstance(module, layers.MAXES):
        one: Any = copy.copy(module)
        one.stride, one.dilation, one.padding, one.ceil_mode = 1, dilation, 0, False
        node.target, node.args = add(made, "maxpool", one), (source,)
    else:
        node.op, node.target = "call_function", dilated_mean
        node.args, node.kwargs = (source, found.size, dilation), {}
