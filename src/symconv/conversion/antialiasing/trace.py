"""A model as a graph of layers: traced, its functional calls made layers, its shapes known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from symconv.errors import StructureError

#: Sizes tried, where no sample is given, until the model takes one.
_SIZES: dict[int, Sequence[tuple[int, ...]]] = {
    1: [(n,) for n in (1536, 1024, 512, 256, 128, 64, 32, 16)],
    2: [(256, 384), *((n, n) for n in (224, 256, 128, 96, 64, 48, 32, 28, 16, 8, 299, 512))],
    3: [(64, 96, 128), *((n, n, n) for n in (64, 96, 32, 16, 8))],
}
_DROPS = ("StochasticDepth", "DropPath")
_DROP = ("p", "training", "inplace")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_UP = ("size", "scale_factor", "mode", "align_corners")
#: Functional calls, the layer that does the same, and the function's arguments in order.
_LAYERS: dict[Any, tuple[Any, tuple[str, ...]]] = {
    F.max_pool1d: (nn.MaxPool1d, _MAX),
    F.max_pool2d: (nn.MaxPool2d, _MAX),
    F.max_pool3d: (nn.MaxPool3d, _MAX),
    F.avg_pool1d: (nn.AvgPool1d, _MEAN[:-1]),
    F.avg_pool2d: (nn.AvgPool2d, _MEAN),
    F.avg_pool3d: (nn.AvgPool3d, _MEAN),
    F.adaptive_avg_pool1d: (nn.AdaptiveAvgPool1d, ("output_size",)),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    F.adaptive_avg_pool3d: (nn.AdaptiveAvgPool3d, ("output_size",)),
    F.adaptive_max_pool1d: (nn.AdaptiveMaxPool1d, ("output_size",)),
    F.adaptive_max_pool2d: (nn.AdaptiveMaxPool2d, ("output_size",)),
    F.adaptive_max_pool3d: (nn.AdaptiveMaxPool3d, ("output_size",)),
    F.dropout: (nn.Dropout, _DROP),
    F.dropout1d: (nn.Dropout1d, _DROP),
    F.dropout2d: (nn.Dropout2d, _DROP),
    F.dropout3d: (nn.Dropout3d, _DROP),
    F.interpolate: (nn.Upsample, _UP),
}


class _Tracer(fx.Tracer):
    """Layers of torch and of this library, and subclasses that call as they do, stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        home = type(m).forward.__module__
        return home.startswith(("torch.nn.", "symconv.nn.")) or type(m).__name__ in _DROPS


def traced(model: nn.Module) -> fx.GraphModule:
    """A copy of the model as a graph, with all its names, its weights and its modes.

    Raises:
        StructureError: torch.fx cannot trace it.
    """
    if not isinstance(model, nn.Module):
        raise StructureError("an nn.Module", type(model).__name__)
    root = copy.deepcopy(model)
    try:
        graph = _Tracer().trace(root)
    except Exception as error:  # whatever the model's own code raises on a proxy
        raise StructureError(
            "a model that torch.fx can trace",
            f"{type(error).__name__} in {type(model).__name__}: {first_line(error)}",
            "take branches on values and shapes out of `forward`, or convert the part without them",
        ) from error
    needed = [n for n in graph.nodes if n.op == "placeholder" and not n.args]
    if len(needed) != 1:
        raise StructureError("a model of one input", f"{len(needed)}: {needed}")
    made = fx.GraphModule(root, graph, type(root).__name__)
    _restore(made, root)
    for node in list(made.graph.nodes):
        _as_layer(made, node)
    made.recompile()
    return made


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [""])[0]


def _restore(made: fx.GraphModule, root: nn.Module) -> None:
    """Give back what the graph does not use, and each module's mode."""
    for name, module in root.named_modules():
        if name and not _has(made, name):
            made.add_submodule(name, module)
    for name, value in [*root.named_parameters(), *root.named_buffers()]:
        path, _, leaf = name.rpartition(".")
        owner, source = made.get_submodule(path), root.get_submodule(path)
        if leaf in owner._parameters or leaf in owner._buffers:
            continue
        if isinstance(value, nn.Parameter):
            owner.register_parameter(leaf, value)
        else:
            kept = leaf not in source._non_persistent_buffers_set
            owner.register_buffer(leaf, value, persistent=kept)
    modes = {name: module.training for name, module in root.named_modules()}
    for name, module in made.named_modules():
        module.training = modes.get(name, root.training)


def _has(made: nn.Module, name: str) -> bool:
    try:
        made.get_submodule(name)
    except AttributeError:
        return False
    return True


def add(made: fx.GraphModule, kind: str, module: nn.Module) -> str:
    """Register a new layer as antialias.<kind><number> and return its name."""
    number = 1
    while _has(made, f"antialias.{kind}{number}"):
        number += 1
    made.add_submodule(f"antialias.{kind}{number}", module)
    for each in (made.get_submodule("antialias"), module):
        each.train(made.training)
    return f"antialias.{kind}{number}"


def _as_layer(made: fx.GraphModule, node: fx.Node) -> None:
    """A functional call of fixed arguments becomes the layer; modes then follow train and eval."""
    if node.op != "call_function" or node.target not in _LAYERS:
        return
    layer, names = _LAYERS[node.target]
    given = dict(zip(("input", *names), node.args, strict=False)) | dict(node.kwargs)
    x = given.pop("input")
    given = {name: value for name, value in given.items() if name in names and name != "training"}
    inputs: list[fx.Node] = []
    map_arg(given, inputs.append)
    if inputs:
        return
    name = add(made, layer.__name__.lower(), layer(**given))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (x,), {}


def measure(made: fx.GraphModule, sample: Tensor | None) -> int:
    """Put each node's value, of no storage, in `node.meta["value"]`; the number of space axes.

    Raises:
        StructureError: The model runs at none of the sizes that are tried.
    """
    kinds = [type(module).__name__[-2:] for module in made.modules()]
    n = next((int(kind[0]) for kind in kinds if kind in ("1d", "2d", "3d")), 2)
    counts = (getattr(m, "in_channels", getattr(m, "num_features", None)) for m in made.modules())
    channels = next((count for count in counts if isinstance(count, int)), 3)
    if sample is not None:
        n, channels = sample.ndim - 2, sample.shape[1] if sample.ndim > 1 else 0
    if n not in _SIZES:
        raise StructureError("a sample (batch, channels, *space)", f"{n + 2} axes")
    sizes = _SIZES[n] if sample is None else [tuple(sample.shape[2:])]
    light = copy.deepcopy(made).to("meta").eval()
    dtype = next((p.dtype for p in made.parameters() if p.is_floating_point()), torch.float32)
    failure: Exception | None = None
    for size in sizes:
        try:
            values = _Recorder(light).record(
                torch.empty(2, channels, *size, device="meta", dtype=dtype)
            )
        except Exception as error:  # whatever a layer raises on a size that does not fit
            failure = failure or error
            continue
        for node, twin in zip(made.graph.nodes, light.graph.nodes, strict=True):
            node.meta["value"] = values.get(twin)
        return n
    said = f"{type(failure).__name__}: {first_line(failure)}" if failure else "nothing"
    raise StructureError(
        f"a model that takes {channels} channels of some usual size",
        said,
        "give an input that it takes as `sample`",
    ) from failure


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node gave."""

    def record(self, x: Tensor) -> dict[fx.Node, Any]:
        """All nodes' values for the input x."""
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(x)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, noted."""
        self.values[n] = super().run_node(n)
        return self.values[n]
