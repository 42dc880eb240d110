"""Networks of plain torch layers, for use where this package is not installed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from symconv.errors import StructureError

_METHODS = ("to_conv", "to_linear", "to_plain")  # the first two only of layers of this package


def plain(model: nn.Module) -> nn.Module:
    """An equal network of plain torch layers, in evaluation; the model itself is not changed.

    Every layer that has a plain equal is replaced by it: group convolutions by convolutions with
    the filter written out, sparse layers by linear ones, pools and upsampling by torch's, dropout
    by the identity; norms, group pooling and the nonlinearities of signed fields by graphs of
    torch's functions (`torch.fx.GraphModule`). What
    comes out of `nn.Sequential` and the like then pickles, exports and loads without this
    package. Exact: the same operations on the same numbers.

    It predicts; it is not meant to be trained further: nothing ties the weights together any more
    and batch norm keeps its statistics. A layer that occurs twice stays one layer. Layers
    without a plain equal stay as they are, and still export: unshared, tiled and region filters
    that differ, and layers with `align=True`, whose padding depends on the size.

    Args:
        model: Any module; layers of other packages are kept (a copy of them), and those that have
            a method `to_plain` are replaced by what it returns. Their `to_conv` and `to_linear`
            mean something of their own, and are not called.

    Example:
        >>> import torch
        >>> from symconv.lattice.groups import parse
        >>> from symconv.nn import FieldMaxPool2d, GroupConv2d
        >>> C4 = parse("C4")
        >>> net = nn.Sequential(GroupConv2d(C4.trivial(1), C4.regular(2), 3),
        ...                     FieldMaxPool2d(C4.regular(2), 2), nn.ReLU())
        >>> [type(layer).__name__ for layer in plain(net)]
        ['Conv2d', 'MaxPool2d', 'ReLU']
        >>> program = torch.export.export(plain(net), (torch.zeros(2, 1, 8, 8),))
    """
    return _replaced(deepcopy(model).eval(), {}).eval()


def _replaced(layer: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """The plain equal of a layer, or the layer with its children replaced."""
    if id(layer) in done:
        return done[id(layer)]
    done[id(layer)] = layer  # a module may hold itself
    own = type(layer).__module__.split(".")[0] == "symconv"
    for method in _METHODS if own else ("to_plain",):
        convert: Any = getattr(type(layer), method, None)
        if convert is not None:
            try:
                done[id(layer)] = convert(layer)
            except StructureError:
                continue  # it has no plain equal
            return done[id(layer)]
    for name, child in list(layer._modules.items()):
        if child is not None:
            layer._modules[name] = _replaced(child, done)
    return layer
