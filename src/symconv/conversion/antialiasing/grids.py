"""On which grid each feature map of a graph lies, and what keeps it from moving with its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from torch import Tensor, fx, nn

from symconv.conversion.antialiasing import layers
from symconv.conversion.antialiasing.layers import Window, module_of, window
from symconv.conversion.antialiasing.moves import WrappedUpsample
from symconv.conversion.antialiasing.nodes import (
    REDUCING,
    called,
    dimension,
    name_of,
    pads,
    reduces,
)
from symconv.errors import StructureError

_SHAPING = {"flatten", "view", "reshape", "unsqueeze", "squeeze", "unflatten"}
_JOINING = {"cat", "concat", "concatenate", "stack"}
_ALONG = {"softmax", "log_softmax", "chunk", "split", "unbind", "glu", "cumsum"}
_PLAIN = {
    *("add", "iadd", "add_", "sub", "isub", "mul", "imul", "mul_", "truediv", "div", "div_"),
    *("neg", "abs", "sqrt", "rsqrt", "pow", "square", "exp", "log", "clamp", "clamp_", "where"),
    *("relu", "relu_", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu"),
    *("gelu", "mish", "elu", "selu", "leaky_relu", "prelu", "softplus", "maximum", "minimum"),
    *("batch_norm", "group_norm", "instance_norm", "dropout", "dropout1d", "dropout2d"),
    *("dropout3d", "contiguous", "clone", "detach", "to", "float", "double", "half", "type"),
    *("stochastic_depth", "drop_path", "expand_as", "_assert"),
}


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of positions: the input's, one that a stride left, or one that an upsampling made.

    Attributes:
        parent: The grid that it was made of.
        stride: Steps in the parent's positions, per axis; for a finer grid, parts of a step.
        finer: It has `stride` positions for each of the parent's.
    """

    parent: Grid | None
    stride: tuple[int, ...]
    finer: bool = False

    def total(self) -> tuple[int, ...]:
        """The stride from the grid of the input; finer grids count as their parent."""
        if self.parent is None:
            return self.stride
        above = self.parent.total()
        return (
            above if self.finer else tuple(a * s for a, s in zip(above, self.stride, strict=True))
        )


@dataclass(frozen=True)
class Map:
    """Features on a grid: the axes that hold space, and cells past the grid's size."""

    grid: Grid
    axes: tuple[int, ...]
    beyond: tuple[int, ...]


class Rest(Enum):
    """What is no map: the same at all positions, or tied to them."""

    POOLED = "pooled"
    PLACED = "placed"


Label = Map | Rest | None


@dataclass(frozen=True)
class Fault:
    """Why a layer does not commute with shifts."""

    layer: str
    why: str


@dataclass(eq=False)
class Grids:
    """The labels of a graph; read its nodes once, in order, with `read`."""

    made: fx.GraphModule
    n: int
    wrapped: set[fx.Node]
    labels: dict[fx.Node, Label] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    steps: list[tuple[fx.Node, Window, Grid]] = field(default_factory=list)
    rises: list[tuple[fx.Node, tuple[int, ...], list[Grid]]] = field(default_factory=list)
    made_of: dict[tuple[Grid, tuple[int, ...], bool], Grid] = field(default_factory=dict)

    def read(self) -> Grids:
        """Label every node.

        Raises:
            StructureError: A node mixes grids, has a weight per position, or is not known.
        """
        root = Grid(None, (1,) * self.n)
        for node in self.made.graph.nodes:
            if node.op == "placeholder":
                tensor = isinstance(node.meta["value"], Tensor)
                axes = tuple(range(2, 2 + self.n))
                self.labels[node] = Map(root, axes, (0,) * self.n) if tensor else None
            elif node.op in ("get_attr", "output"):
                self.labels[node] = None
            else:
                self.labels[node] = self._label(node)
        return self

    def child(self, grid: Grid, stride: tuple[int, ...], finer: bool = False) -> Grid:
        """The grid that a stride, or an upsampling, leaves of another: one for all layers."""
        key = (grid, stride, finer)
        return self.made_of.setdefault(key, Grid(grid, stride, finer))

    def fault(self, node: fx.Node, why: str) -> None:
        """Note what is not exact."""
        self.faults.append(Fault(name_of(node), why))

    def _label(self, node: fx.Node) -> Label:
        value = node.meta["value"]
        if not _has_tensor(value):
            return None
        labels = [(each, self.labels[each]) for each in node.all_input_nodes]
        if any(label is Rest.PLACED for _, label in labels):
            return Rest.PLACED
        maps = [(each, label) for each, label in labels if isinstance(label, Map)]
        if not maps:
            pooled = any(label is Rest.POOLED for _, label in labels)
            return Rest.POOLED if pooled else None
        if node.op == "call_module":
            return self._module(node, maps[0][1])
        return self._function(node, maps)

    def _module(self, node: fx.Node, map_: Map) -> Label:
        module = module_of(self.made, node)
        assert module is not None
        if isinstance(module, layers.PLACED):
            raise StructureError(
                "layers that are the same at every position",
                f"{type(module).__name__} {name_of(node)!r}, which has weights for each",
                "convert the part before it, or take a convolution in its place",
            )
        found = window(module, self.n)
        if found is not None:
            return self._window(node, found, map_)
        if isinstance(module, layers.ADAPTIVE):
            return self._adaptive(node, module, map_)
        if isinstance(module, (*layers.TRANSPOSED, *layers.UPSAMPLES, WrappedUpsample)):
            return self._rise(node, map_)
        if hasattr(module, "padding") and "Pad" in type(module).__name__:
            return self._pad(node, map_)
        if isinstance(module, (nn.Flatten, nn.Unflatten)):
            return self._shaped(node, map_)
        if isinstance(module, nn.Linear):
            return self._linear(node, map_)
        if isinstance(module, nn.LayerNorm):
            return self._layer_norm(node, module.normalized_shape, map_)
        if isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle)):
            raise self._unknown(node)
        if isinstance(module, layers.POINTWISE) or type(module).__name__ in (
            "StochasticDepth",
            "DropPath",
        ):
            if isinstance(module, layers.NORMS) and any(map_.beyond):
                self.fault(node, "norms a padded map")
            return map_
        raise self._unknown(node)

    def _window(self, node: fx.Node, found: Window, map_: Map) -> Label:
        self._ordered(node, map_)
        shape = node.all_input_nodes[0].meta["value"].shape
        space = tuple(shape[axis] for axis in map_.axes)
        whole = tuple(node.meta["value"].shape[axis] for axis in map_.axes)
        bare = not any(found.before) and not any(found.after)
        if found.strided and bare and found.size == space and set(whole) == {1}:
            return Rest.POOLED  # a mean, or a maximum, of the whole map
        if (any(found.before) or any(found.after)) and found.mode != "circular":
            self.fault(node, f"{found.mode} beyond the border")
        beyond = found.beyond(map_.beyond)
        if min(beyond) < 0 or beyond != replace(found, ceil=False).beyond(map_.beyond):
            self.fault(node, "windows do not fit the map's size")
            beyond = tuple(max(0, b) for b in beyond)
        if not found.strided:
            return Map(map_.grid, map_.axes, beyond)
        if any(map_.beyond) and not self._padded(node.all_input_nodes[0]):
            self.fault(node, "the padding stands too far before it")
        grid = self.child(map_.grid, found.stride)
        self.steps.append((node, found, grid))
        return Map(grid, map_.axes, beyond)

    def _padded(self, node: fx.Node) -> bool:
        """Whether a map comes right from layers that pad one of the grid's size."""
        while pads(self.made, node) is not None:
            node = node.all_input_nodes[0]
        label = self.labels[node]
        return isinstance(label, Map) and not any(label.beyond)

    def _adaptive(self, node: fx.Node, module: Any, map_: Map) -> Label:
        given = module.output_size
        sizes = given if isinstance(given, (tuple, list)) else (given,) * self.n
        if any(map_.beyond):
            self.fault(node, "pools a padded map")
        if all(size == 1 for size in sizes):
            return Rest.POOLED
        self.fault(node, f"pools to {tuple(sizes)} cells, which lie at fixed places")
        return Rest.PLACED

    def _rise(self, node: fx.Node, map_: Map) -> Label:
        self._ordered(node, map_)
        module, value = module_of(self.made, node), node.meta["value"]
        source = node.all_input_nodes[0].meta["value"]
        if isinstance(module, layers.TRANSPOSED):
            factors = tuple(module.stride)
            if spill(module) != (0,) * self.n:
                self.fault(node, "does not enlarge by its stride alone")
            elif node not in self.wrapped and (
                any(module.padding)
                or any(k > s for k, s in zip(module.kernel_size, factors, strict=True))
            ):
                self.fault(node, "ends at the border")
        else:
            ratio = [value.shape[a] / source.shape[a] for a in map_.axes]
            factors = tuple(max(1, round(r)) for r in ratio)
            if any(r != f for r, f in zip(ratio, factors, strict=True)):
                self.fault(node, "does not enlarge by whole factors")
            elif getattr(module, "align_corners", False):
                self.fault(node, "align_corners=True stretches the map")
            elif "nearest" not in getattr(module, "mode", "nearest") and not isinstance(
                module, WrappedUpsample
            ):
                self.fault(node, "interpolation ends at the border")
        chain, left, grid = [], factors, map_.grid
        while any(f > 1 for f in left):
            if grid.parent is None or grid.finer or any(
                f % s for f, s in zip(left, grid.stride, strict=True)
            ):  # fmt: skip
                grid = self.child(grid, left, True)
                break
            chain.append(grid)
            left = tuple(f // s for f, s in zip(left, grid.stride, strict=True))
            grid = grid.parent
        if any(f > 1 for f in factors):
            self.rises.append((node, factors, chain))
        beyond = tuple(b * f for b, f in zip(map_.beyond, factors, strict=True))
        return Map(grid, map_.axes, beyond)

    def _pad(self, node: fx.Node, map_: Map) -> Label:
        found = pads(self.made, node)
        if found is None or map_.axes != tuple(range(2, 2 + self.n)) or len(found[0]) != 2 * self.n:
            raise self._unknown(node)
        sides, mode = found
        more = tuple(sides[2 * i] + sides[2 * i + 1] for i in reversed(range(self.n)))
        if min(sides) < 0:
            self.fault(node, "crops the map")
        elif any(sides) and mode != "circular":
            self.fault(node, f"{mode} padding")
        return Map(
            map_.grid, map_.axes, tuple(b + m for b, m in zip(map_.beyond, more, strict=True))
        )

    def _linear(self, node: fx.Node, map_: Map) -> Label:
        last = node.meta["value"].ndim - 1
        if last in map_.axes:
            raise StructureError(
                "layers that are the same at every position",
                f"Linear {name_of(node)!r} over positions",
                "pool over space before it, or convert the part before it",
            )
        return map_

    def _layer_norm(self, node: fx.Node, shape: Any, map_: Map) -> Label:
        first = node.meta["value"].ndim - len(tuple(shape))
        if any(axis >= first for axis in map_.axes):
            raise StructureError(
                "layers that are the same at every position",
                f"LayerNorm {name_of(node)!r} over positions",
                "norm over channels alone, as with GroupNorm(1, channels)",
            )
        return map_

    def _function(self, node: fx.Node, maps: list[tuple[fx.Node, Map]]) -> Label:
        name, map_ = called(node), maps[0][1]
        if name in ("size", "dim", "getattr"):
            return None
        if name == "getitem":
            return self._item(node, map_)
        if name in ("pad", "wrapped"):
            return self._pad(node, map_)
        if name == "cropped":
            margins: Any = node.args[1]
            left = tuple(b - 2 * m for b, m in zip(map_.beyond, margins, strict=True))
            return Map(map_.grid, map_.axes, left)
        if name in _SHAPING:
            return self._shaped(node, map_)
        if name in ("permute", "transpose", "swapaxes"):
            return self._permuted(node, map_)
        if name in REDUCING:
            return self._reduced(node, map_)
        if name == "linear":
            return self._linear(node, map_)
        if name == "layer_norm":
            shape = node.kwargs.get("normalized_shape", node.args[1:2] and node.args[1])
            return self._layer_norm(node, shape, map_)
        if name in _ALONG or name in _JOINING:
            ndim = map_.axes[-1] + 1 if name == "stack" else len(maps[0][0].meta["value"].shape)
            dim = dimension(node, name)
            if name == "stack" or dim % ndim in map_.axes:
                raise self._unknown(node)
        elif name not in _PLAIN:
            raise self._unknown(node)
        self._same(node, maps)
        return map_

    def _same(self, node: fx.Node, maps: list[tuple[fx.Node, Map]]) -> None:
        first, map_ = maps[0]
        for other, label in maps[1:]:
            if label.grid is not map_.grid or label.axes != map_.axes:
                raise StructureError(
                    f"maps on one grid at {name_of(node)!r}",
                    f"{name_of(first)!r} at stride {map_.grid.total()} and {name_of(other)!r} at "
                    f"stride {label.grid.total()}, of unlike strides on the way",
                    "reach both by the same strides, and upsample by what a stride took",
                )
        for other in node.all_input_nodes:
            shape = getattr(other.meta["value"], "shape", ())
            if other.op == "get_attr" and len(shape) > 1 and any(
                shape[a - map_.axes[-1] - 1] > 1
                for a in map_.axes
                if len(shape) > map_.axes[-1] - a
            ):  # fmt: skip
                self.fault(node, f"{other.target} holds a number for each position")

    def _item(self, node: fx.Node, map_: Map) -> Label:
        source = node.all_input_nodes[0].meta["value"]
        if not isinstance(source, Tensor):
            return map_
        if node.meta["value"].ndim == source.ndim and all(
            node.meta["value"].shape[a] == source.shape[a] for a in map_.axes
        ):
            return map_
        raise self._unknown(node)

    def _shaped(self, node: fx.Node, map_: Map) -> Label:
        value = node.meta["value"]
        before, after = node.all_input_nodes[0].meta["value"].shape, value.shape
        start, n = map_.axes[0], len(map_.axes)
        if map_.axes == tuple(range(start, start + n)):
            space, ahead = before[start : start + n], math.prod(before[:start])
            for at in range(1, len(after) - n + 1):
                if after[at : at + n] == space and math.prod(after[:at]) == ahead:
                    return Map(map_.grid, tuple(range(at, at + n)), map_.beyond)
        merged = value.ndim == len(before) - n + 1 and after[start:] == (math.prod(before[start:]),)
        if merged and node.users and all(reduces(user, start, value.ndim) for user in node.users):
            if any(map_.beyond):
                self.fault(node, "pools a padded map")
            return Rest.POOLED  # x.flatten(2).mean(2): read by what does not mind the order
        self.fault(node, "lays positions side by side: what follows depends on where things are")
        return Rest.PLACED

    def _permuted(self, node: fx.Node, map_: Map) -> Label:
        source = node.all_input_nodes[0].meta["value"]
        order = list(range(source.ndim))
        given = node.args[1:]
        if called(node) == "permute":
            dims: Any = given[0] if given and isinstance(given[0], (tuple, list)) else given
            dims = dims or node.kwargs.get("dims")
            order = [d % source.ndim for d in dims]
        else:
            a, b = (int(d) % source.ndim for d in (given or tuple(node.kwargs.values())[-2:]))  # pyright: ignore
            order[a], order[b] = order[b], order[a]
        return Map(map_.grid, tuple(order.index(a) for a in map_.axes), map_.beyond)

    def _reduced(self, node: fx.Node, map_: Map) -> Label:
        source, value = node.all_input_nodes[0].meta["value"], node.meta["value"]
        dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims = range(source.ndim) if dims is None else dims
        dims = {d % source.ndim for d in ([dims] if isinstance(dims, int) else dims)}
        if dims >= set(map_.axes):
            if any(map_.beyond):
                self.fault(node, "pools a padded map")
            return Rest.POOLED
        if dims & set(map_.axes):
            raise self._unknown(node)
        if value.ndim == source.ndim:
            return map_
        lower = tuple(a - sum(d < a for d in dims) for a in map_.axes)
        return Map(map_.grid, lower, map_.beyond)

    def _ordered(self, node: fx.Node, map_: Map) -> None:
        if map_.axes != tuple(range(2, 2 + self.n)):
            raise StructureError(
                "maps (batch, channels, *space) where a layer slides over them",
                f"axes {map_.axes} of space at {name_of(node)!r}",
            )

    def _unknown(self, node: fx.Node) -> StructureError:
        module = module_of(self.made, node)
        kind = type(module).__name__ if module is not None else called(node)
        return StructureError(
            "layers of which it is known how they move with their input",
            f"{kind} at {name_of(node)!r}",
            "convert the part before it, or write it with layers of torch.nn",
        )


def spill(module: Any) -> tuple[int, ...]:
    """Cells by which a transposed convolution's output exceeds its stride times the input."""
    terms = zip(
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.output_padding,
        strict=True,
    )
    return tuple(d * (k - 1) + 1 + o - 2 * p - s for k, s, p, d, o in terms)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(isinstance(each, Tensor) for each in value)
    return isinstance(value, Tensor)
