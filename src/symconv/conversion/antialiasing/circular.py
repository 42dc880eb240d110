"""Zeros beyond the border replaced by the map's other side, in every layer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from symconv.conversion.antialiasing import layers
from symconv.conversion.antialiasing.grids import Grid, Grids, Map, spill
from symconv.conversion.antialiasing.layers import Window, module_of, window
from symconv.conversion.antialiasing.moves import WrappedUpsample, cropped, wrapped
from symconv.conversion.antialiasing.nodes import name_of, pads
from symconv.conversion.antialiasing.trace import add


def circularise(made: fx.GraphModule, grids: Grids) -> list[str]:
    """Make all padding circular, in place; the layers that changed."""
    done: list[str] = []
    unknown = Map(Grid(None, ()), (), ())  # what this pass has put in
    for node in list(made.graph.nodes):
        if not any(isinstance(grids.labels.get(n, unknown), Map) for n in node.all_input_nodes):
            continue
        module = module_of(made, node)
        found = window(module, grids.n) if module is not None else None
        if found is not None and module is not None:
            changed = _window(made, node, module, found)
        elif isinstance(module, layers.TRANSPOSED):
            changed = _transposed(made, node, module, grids)
        elif isinstance(module, layers.UPSAMPLES):
            changed = _upsample(made, node, module, grids)
        else:
            changed = _pad(made, node)
        if changed:
            done.append(name_of(node))
    return done


def _window(made: fx.GraphModule, node: fx.Node, module: Any, found: Window) -> bool:
    round_ = found.circled()
    if round_ == found:
        return False
    if isinstance(module, (*layers.CONVS, *layers.BLURS)):
        module.padding_mode = "circular"
    elif isinstance(module, layers.GROUPED):
        module.window = replace(module.window, padding_mode="circular")
        module.padding_mode = "circular"
    else:
        bare = copy.copy(module)
        bare.padding, bare.ceil_mode = 0, False
        sides = [
            s
            for b, a in zip(reversed(round_.before), reversed(round_.after), strict=True)
            for s in (b, a)
        ]
        if any(sides):
            with made.graph.inserting_before(node):
                node.args = (
                    made.graph.call_function(
                        F.pad, (node.all_input_nodes[0], tuple(sides), "circular")
                    ),
                )
        node.target = add(made, type(module).__name__.lower(), bare)
    return True


def _transposed(made: fx.GraphModule, node: fx.Node, module: Any, grids: Grids) -> bool:
    wide = any(module.padding) or any(
        k > s for k, s in zip(module.kernel_size, module.stride, strict=True)
    )
    if spill(module) != (0,) * grids.n or not wide:
        return False
    terms = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    margins = tuple(-(-d * (k - 1) // s) + 1 for k, s, d in terms)
    sides = tuple(m for m in reversed(margins) for _ in range(2))
    with made.graph.inserting_before(node):
        node.args = (made.graph.call_function(wrapped, (node.all_input_nodes[0], sides)),)
    edges = tuple(m * s for m, s in zip(margins, module.stride, strict=True))
    with made.graph.inserting_after(node):
        crop = made.graph.call_function(cropped, (node, edges))
    node.replace_all_uses_with(crop, lambda user: user is not crop)
    grids.wrapped.add(node)
    return True


def _upsample(made: fx.GraphModule, node: fx.Node, module: nn.Module, grids: Grids) -> bool:
    mode = str(getattr(module, "mode", "nearest"))
    if "nearest" in mode or getattr(module, "align_corners", False):
        return False
    source, value = node.all_input_nodes[0].meta["value"], node.meta["value"]
    ratio = [b / a for a, b in zip(source.shape[2:], value.shape[2:], strict=True)]
    if any(r != int(r) for r in ratio):
        return False
    node.target = add(made, "upsample", WrappedUpsample(tuple(int(r) for r in ratio), mode))
    return True


def _pad(made: fx.GraphModule, node: fx.Node) -> bool:
    found = pads(made, node)
    if found is None or found[1] != "constant" or min(found[0]) < 0:
        return False
    node.op, node.target = "call_function", F.pad
    node.args, node.kwargs = (node.all_input_nodes[0], found[0], "circular"), {}
    return True
