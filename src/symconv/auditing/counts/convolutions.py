"""Multiply-accumulates and connections of convolutions, torch's and our unshared ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from symconv.auditing.counts.contraction import Contraction, Named, Pairs, real_products
from symconv.lattice.windows import Window
from symconv.structure import Structure


def convolution(a: Named, result: Any) -> list[Contraction]:
    """Convolution and transposed convolution in any dimension, grouped and dilated."""
    return [_conv(a)]


def _conv(a: Named) -> Contraction:
    x, weight = a["input"] if "input" in a else a["self"], a["weight"]
    dimension = weight.dim() - 2
    numbers = {
        name: _spread(a.get(name, default), dimension)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
    }
    around = None if a.get("transposed") else a["zeros"](x, dimension)
    around = around or ((0, 0),) * dimension
    own = a["pairs"] if "pairs" in a else [(p, p) for p in numbers["padding"]]
    pads = [(p + b, q + e) for (p, q), (b, e) in zip(own, around, strict=True)]
    inner = [s - b - e for s, (b, e) in zip(x.shape[2:], around, strict=True)]
    structure = conv_structure(
        (x.shape[1], *inner),
        tuple(weight.shape),
        numbers["stride"],
        tuple(pads),
        numbers["dilation"],
        numbers["output_padding"] if a.get("transposed") else None,
        a.get("groups", 1),
    )
    items, products = x.shape[0], real_products(x, weight)
    return Contraction(
        f"conv{'_transpose' if a.get('transposed') else ''}{dimension}d",
        x,
        weight,
        structure.macs * items * products,
        structure.outputs * items,
        structure.fan_in,
        structure.padding_macs * items * products,
        structure.connections * items,
        items,
        structure.inputs * items,
    )


def _spread(value: Any, dimension: int) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(map(int, entries * dimension if len(entries) == 1 else entries))


@lru_cache(maxsize=4096)
def conv_structure(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...] | None,
    groups: int,
) -> Structure:
    """The structure of a convolution, or of a transposed one if there is an output padding.

    Args:
        shape: (channels, *space) of the input, without explicit padding.
        weight: Shape of the weight in torch's layout.
        stride: Step per axis.
        padding: Zeros (before, after) per axis.
        dilation: Step between taps per axis.
        output_padding: Positions added at the end of each axis of a transposed convolution.
        groups: Blocks of channels.
    """
    kernel, size = weight[2:], shape[1:]
    if output_padding is None:
        window = Window(kernel, stride, padding, dilation, "zeros")
        return Structure.conv(shape[0], weight[0], window, size, groups)
    # the convolution that this is the transpose of: its last taps reach past the output
    pairs = zip(padding, output_padding, strict=True)
    after = tuple((before, end - extra) for (before, end), extra in pairs)
    window = Window(kernel, stride, after, dilation, "zeros")
    rows = zip(size, stride, after, window.extent, strict=True)
    out = tuple((s - 1) * step - sum(p) + e for s, step, p, e in rows)
    return Structure.conv(weight[1] * groups, weight[0], window, out, groups).transpose()


def convolution_backward(a: Named, result: Any) -> list[Contraction]:
    """Gradients of a convolution inside a forward: each costs as much as the convolution."""
    forward = _conv(a)
    found = []
    for wanted, other in zip(a["output_mask"][:2], (a["weight"], a["input"]), strict=True):
        if wanted:
            grad, name = a["grad_output"], "convolution_backward"
            found.append(Contraction(name, grad, other, forward.macs, other.numel(), 0))
    return found


def _pairs(padding: Any) -> Pairs:
    return tuple(zip(padding[::2], padding[1::2], strict=True))


def local_forward(a: Named, result: Any) -> list[Contraction]:
    """Our unshared convolution: the window of a convolution, the filter of each position."""
    x, weight = a["x"], a["weight"]
    kernel, (inside, outside) = weight.shape[1:-2], weight.shape[-2:]
    shared = {"input": x, "weight": weight.new_empty((outside, inside, *kernel), device="meta")}
    forward = _conv({**a, **shared, "padding": 0, "pairs": _pairs(a["padding"])})
    return [replace(forward, name="local_conv", right=weight)]


def local_adjoint(a: Named, result: Any) -> list[Contraction]:
    """Its transpose: every tap of every filter writes to one output."""
    y, weight, groups = a["y"], a["weight"], a["groups"]
    kernel, (inside, outside) = tuple(weight.shape[1:-2]), weight.shape[-2:]
    pairs, steps = _pairs(a["padding"]), (tuple(a["stride"]), tuple(a["dilation"]))
    window = Window(kernel, steps[0], pairs, steps[1], "zeros")
    conv = Structure.conv(inside * groups, outside, window, tuple(a["input_size"]), groups)
    items, outputs, fan_in = y.shape[0], result.numel(), conv.transpose().fan_in
    macs, name = items * conv.macs, "local_conv_transpose"
    return [Contraction(name, y, weight, macs, outputs, fan_in, 0, macs, items)]
