"""Strided networks made to commute with shifts, their weights kept."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx, nn

from symconv.conversion.antialiasing.blur import blur
from symconv.conversion.antialiasing.circular import circularise
from symconv.conversion.antialiasing.dense import dense
from symconv.conversion.antialiasing.grids import Grids
from symconv.conversion.antialiasing.moves import Call
from symconv.conversion.antialiasing.notes import Note, Notes
from symconv.conversion.antialiasing.polyphase import polyphase
from symconv.conversion.antialiasing.trace import add, measure, traced
from symconv.errors import StructureError

_WAYS = {"polyphase": polyphase, "blur": blur, "dense": dense}


def antialias(
    model: nn.Module,
    method: str = "blur",
    *,
    padding: str | None = None,
    sample: Tensor | None = None,
) -> tuple[fx.GraphModule, Notes]:
    r"""Rewrite a strided network so that it commutes with shifts, or nearly; weights are kept.

    The model is traced by torch.fx. Layers keep their names and weights, `state_dict` its keys;
    the given model is not touched.

    - "polyphase": each strided layer reads its input from the phase that holds most
      (`sc.functional.polyphase`). Layers that stride on one grid share one phase, chosen where
      the first of them reads: residual branches stay together. An upsampling that returns to a
      grid moves its map back. No weight needs to be trained again.
    - "blur": strides become 1, and a `BlurPool` follows the activation (for a maximum, the pool;
      for a 1x1 convolution without activation it comes before; a mean becomes one). Always
      approximate; train afterwards.
    - "dense": strides become 1, later layers are dilated. Every size; costly; upsampling is
      refused.

    Exactness: said per layer and for the whole by the notes. Exact for every whole circular shift
    where each layer's padding is circular or there is none to need, windows fit, and (polyphase)
    sizes are multiples of `notes.divisor`; zeros beyond the border, cropping windows and heads
    that flatten positions make it approximate. Maps of stride s then move by whole positions.

    Args:
        model: A network of one input (N, C, \*S).
        method: "blur", "polyphase" or "dense".
        padding: "circular" replaces all zero padding: borders then see the opposite side.
        sample: An input that the model takes; by default usual sizes are tried, without storage.

    Returns:
        The new model and its notes.

    Raises:
        StructureError: The model cannot be traced, a layer is not known, has a weight per
            position, or maps of unlike grids meet. Nothing is converted then.

    Example:
        >>> import torch
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="circular"), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> shifted, notes = antialias(model, "polyphase")
        >>> notes.guarantee, notes.divisor
        ('exact', (2, 2))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> bool((shifted(x) - shifted(x.roll(1, -1))).abs().max() < 1e-6)
        True

    References:
        R. Zhang, Making convolutional networks shift-invariant again (2019), section 3.
        A. Chaman, I. Dokmanic, Truly shift-invariant convolutional neural networks (2021).
    """
    if method not in _WAYS:
        raise StructureError('method "polyphase", "blur" or "dense"', repr(method))
    if padding not in (None, "circular"):
        raise StructureError('padding None or "circular"', repr(padding))
    made = traced(model)
    n = measure(made, sample)
    grids = Grids(made, n, set()).read()
    rounded: list[str] = []
    if padding == "circular":
        rounded = circularise(made, grids)
        made.recompile()
        measure(made, sample)
        grids = Grids(made, n, grids.wrapped).read()
    rows = _WAYS[method](made, grids)
    touched = {row.layer for row in rows}
    rows += [
        Note(name, "zero padding", "circular padding", "exact", "")
        for name in rounded
        if name not in touched
    ]
    _as_layers(made)
    made.graph.lint()
    made.recompile()
    for node in made.graph.nodes:
        node.meta.pop("value", None)
    reasons = [(fault.layer, fault.why) for fault in grids.faults]
    if method == "blur" and grids.steps:
        reasons.append(("", "blurring lets some aliasing through"))
    return made, Notes(
        method,
        "approximate" if reasons else "exact",
        _divisor(grids) if method == "polyphase" else (1,) * n,
        tuple(reasons),
        tuple(rows),
    )


def _as_layers(made: fx.GraphModule) -> None:
    """Calls of our functions become calls of layers, one a function, so that the graph pickles."""
    names: dict[Any, str] = {}
    for node in made.graph.nodes:
        home = getattr(node.target, "__module__", None) or ""
        if node.op == "call_function" and home.startswith("symconv."):
            if node.target not in names:
                names[node.target] = add(made, node.target.__name__, Call(node.target))
            node.op, node.target = "call_module", names[node.target]


def _divisor(grids: Grids) -> tuple[int, ...]:
    totals = [grid.total() for _, _, grid in grids.steps] or [(1,) * grids.n]
    return tuple(math.lcm(*each) for each in zip(*totals, strict=True))
