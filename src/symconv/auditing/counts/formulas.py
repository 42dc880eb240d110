"""Multiply-accumulates and connections of each operation that contracts, by formula.

An operation of torch is known by the name of its packet in `torch.ops.aten`, ours by its full
name. Numbers here are those of one call of the operation, all items of the batch. A product of
complex numbers is four real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symconv.auditing.counts import convolutions
from symconv.auditing.counts.contraction import Contraction, Named, Pairs, real_products
from symconv.auditing.counts.provenance import size
from symconv.errors import StructureError


def matrix_product(a: Tensor, b: Tensor) -> list[Contraction]:
    """(..., r, k) times (..., k, c): r c k for each of the batch; only stored numbers if sparse."""
    terms, columns = a.shape[-1], 1 if b.dim() == 1 else b.shape[-1]
    if a.layout != torch.strided:
        pairs = size(a) * columns
    elif b.layout != torch.strided:
        pairs = size(b) * math.prod(a.shape[:-1])
    else:
        pairs = a.numel() * columns
    outputs = math.prod(a.shape[:-1]) * columns
    macs = pairs * real_products(a, b)
    return [Contraction("matmul", a, b, macs, outputs, terms, connections=pairs)]


def attention(name: str, query: Tensor, key: Tensor, value: Tensor) -> list[Contraction]:
    """Queries times keys, then weights times values, of (..., length, width), all pairs."""
    heads, length = math.prod(query.shape[:-2]), query.shape[-2]
    width, other, out = query.shape[-1], key.shape[-2], value.shape[-1]
    macs = heads * length * other * (width + out)
    inputs = query.numel() + key.numel() + value.numel()
    outputs = heads * length * out
    return [Contraction(name, query, key, macs, outputs, 0, inputs=inputs)]


def _heads_first(a: Named, result: Any) -> list[Contraction]:
    return attention("scaled_dot_product_attention", a["query"], a["key"], a["value"])


def _length_first(a: Named, result: Any) -> list[Contraction] | str:
    """Attention of (batch, length, heads, width); packed sequences of unknown lengths are not."""
    if any(a.get(name) is not None for name in ("cum_seq_q", "cu_seqlens_q")):
        return "attention over packed sequences"
    q, k, v = (a[name].transpose(1, 2) for name in ("query", "key", "value"))
    return attention("scaled_dot_product_attention", q, k, v)


def _multi_head(a: Named, result: Any) -> list[Contraction] | str:
    """The fused multi-head attention: projections, attention, projection."""
    query, key, value = a["query"], a["key"], a["value"]
    if any(t.is_nested for t in (query, key, value)):
        return "attention over nested tensors"
    width = a["embed_dim"]
    if query is key is value:
        found = [_linear(query, a["qkv_weight"], 3 * width)]
    else:
        found = [_linear(t, a["qkv_weight"], width) for t in (query, key, value)]
    found += attention("scaled_dot_product_attention", query, key, value)
    return [*found, _linear(query, a["proj_weight"], width)]


def _linear(x: Tensor, weight: Tensor, outputs: int) -> Contraction:
    """Vectors x (..., k) through a weight with this many rows in use."""
    macs = x.numel() * outputs
    rows = x.numel() // max(1, x.shape[-1])
    return Contraction("linear", x, weight, macs, rows * outputs, x.shape[-1], connections=macs)


def _encoder_layer(a: Named, result: Any) -> list[Contraction] | str:
    """The fused transformer encoder layer."""
    x, width = a["src"], a["embed_dim"]
    if x.is_nested:
        return "attention over nested tensors"
    first, second = a["ffn_weight_1"], a["ffn_weight_2"]
    hidden = x.new_empty((*x.shape[:-1], first.shape[0]), device="meta")
    found = [_linear(x, a["qkv_weight"], 3 * width)]
    found += attention("scaled_dot_product_attention", x, x, x)
    found += [_linear(x, a["proj_weight"], width), _linear(x, first, first.shape[0])]
    return [*found, _linear(hidden, second, width)]


def _recurrent_layer(a: Named, result: Any) -> list[Contraction]:
    """One direction of one layer: the input's and the state's weights at every step."""
    x, into, again = a["input"], a["weight0"], a["weight1"]
    rows = x.numel() // max(1, x.shape[-1])
    state = x.new_empty((rows, again.shape[1]), device="meta")
    return [_linear(x, into, into.shape[0]), _linear(state, again, again.shape[0])]


def _recurrent_stack(a: Named, result: Any) -> list[Contraction]:
    """All layers at once: every matrix of weights is used at every step."""
    x = a["input"]
    rows = x.numel() // max(1, x.shape[-1])
    matrices = [w for w in a["weight"] if w.dim() == 2]
    states = [x.new_empty((rows, w.shape[1]), device="meta") for w in matrices]
    return [_linear(s, w, w.shape[0]) for s, w in zip(states, matrices, strict=True)]


def _trilinear(a: Named, result: Any) -> list[Contraction]:
    """x1 W x2 (bilinear): two products a weight and item, of which the accumulating one counts."""
    x1, weight, x2 = a["i1"], a["i2"], a["i3"]
    rows = x1.numel() // max(1, x1.shape[-1])
    inputs = x1.numel() + x2.numel()
    pairs = rows * weight.shape[0] * (x1.shape[-1] + x2.shape[-1])
    macs, outputs = rows * weight.numel(), rows * weight.shape[0]
    terms = x1.shape[-1] + x2.shape[-1]
    return [
        Contraction("bilinear", x1, weight, macs, outputs, terms, connections=pairs, inputs=inputs)
    ]


def _distances(a: Named, result: Tensor) -> list[Contraction]:
    """Distances between two sets of vectors: one term a coordinate and pair."""
    x1, x2 = a["x1"], a["x2"]
    macs, terms = result.numel() * x1.shape[-1], x1.shape[-1]
    return [Contraction("cdist", x1, x2, macs, result.numel(), terms, connections=macs)]


def _bag(a: Named, result: Any) -> list[Contraction]:
    """Sums of rows of a table; products only where the rows are weighted."""
    table, scale = a["weight"], a.get("per_sample_weights")
    if scale is None:
        return []
    macs, outputs = scale.numel() * table.shape[1], result[0].numel()
    return [Contraction("embedding_bag", scale, table, macs, outputs, 0)]


def _sparse(a: Named, result: Any) -> list[Contraction]:
    """Our sparse layer or its transpose: one product a connection and row."""
    x, weight = a["x"] if "x" in a else a["y"], a["weight"]
    macs, terms = x.shape[0] * weight.numel(), weight.shape[1]
    return [Contraction("sparse_linear", x, weight, macs, result.numel(), terms, connections=macs)]


def _of(first: str, second: str) -> Callable[[Named, Any], list[Contraction]]:
    return lambda a, result: matrix_product(a[first], a[second])


def _turned(first: str, second: str) -> Callable[[Named, Any], list[Contraction]]:
    """A product with the transpose of a weight (out, in)."""

    def formula(a: Named, result: Any) -> list[Contraction]:
        x, weight = a[first], a[second]
        return [_linear(x, weight, weight.shape[0] if weight.dim() > 1 else 1)]

    return formula


def _vectors(a: Named, result: Any) -> list[Contraction]:
    x, y = a["self"], a["tensor"] if "tensor" in a else a["other"]
    macs = x.numel() * real_products(x)
    return [Contraction("matmul", x, y, macs, 1, x.numel(), connections=x.numel())]


def _matrix_vector(a: Named, result: Any) -> list[Contraction]:
    matrix, vector = (a["mat"], a["vec"]) if "mat" in a else (a["self"], a["vec"])
    return matrix_product(matrix, vector)


FORMULAS: dict[str, Callable[[Named, Any], list[Contraction] | str]] = {
    "_addmm_activation": _of("mat1", "mat2"),
    "_cdist_forward": _distances,
    "_conv_depthwise2d": convolutions.convolution,
    "_convolution": convolutions.convolution,
    "_cudnn_attention_forward": _heads_first,
    "_cudnn_rnn": _recurrent_stack,
    "_efficient_attention_forward": _length_first,
    "_embedding_bag": _bag,
    "_embedding_bag_forward_only": _bag,
    "_euclidean_dist": _distances,
    "_flash_attention_forward": _length_first,
    "_int_mm": _of("self", "mat2"),
    "_native_multi_head_attention": _multi_head,
    "_scaled_dot_product_cudnn_attention": _heads_first,
    "_scaled_dot_product_efficient_attention": _heads_first,
    "_scaled_dot_product_flash_attention": _heads_first,
    "_scaled_dot_product_flash_attention_for_cpu": _heads_first,
    "_scaled_dot_product_fused_attention_overrideable": _heads_first,
    "_scaled_dot_product_attention_math_for_mps": _heads_first,
    "_scaled_mm": _of("self", "mat2"),
    "_slow_conv2d_forward": convolutions.convolution,
    "_sparse_addmm": _of("mat1", "mat2"),
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_trilinear": _trilinear,
    "addbmm": _of("batch1", "batch2"),
    "addmm": _of("mat1", "mat2"),
    "addmv": _matrix_vector,
    "baddbmm": _of("batch1", "batch2"),
    "bmm": _of("self", "mat2"),
    "conv_depthwise3d": convolutions.convolution,
    "convolution": convolutions.convolution,
    "convolution_backward": convolutions.convolution_backward,
    "convolution_overrideable": convolutions.convolution,
    "cudnn_convolution": convolutions.convolution,
    "dot": _vectors,
    "linear": _turned("input", "weight"),
    "miopen_convolution": convolutions.convolution,
    "miopen_depthwise_convolution": convolutions.convolution,
    "miopen_rnn": _recurrent_stack,
    "mkldnn_convolution": convolutions.convolution,
    "mkldnn_linear": _turned("self", "weight"),
    "mkldnn_rnn_layer": _recurrent_layer,
    "mm": _of("self", "mat2"),
    "mv": _matrix_vector,
    "slow_conv3d_forward": convolutions.convolution,
    "slow_conv_dilated2d": convolutions.convolution,
    "slow_conv_dilated3d": convolutions.convolution,
    "symconv::local_adjoint": convolutions.local_adjoint,
    "symconv::local_forward": convolutions.local_forward,
    "symconv::sparse_adjoint": _sparse,
    "symconv::sparse_forward": _sparse,
    "vdot": _vectors,
}


def title(operation: Any) -> str:
    """An operation as torch's schemas call it: "aten::mm"."""
    schema = getattr(operation, "_schema", None)
    return schema.name if schema is not None else operation.name()


def contractions(
    operation: Any,
    args: Any,
    kwargs: Any,
    result: Any,
    zeros: Callable[[Tensor, int], Pairs | None] = lambda x, axes: None,
) -> list[Contraction] | str:
    """What an operation contracts; a text if that is unknown, or none of it could be read.

    Args:
        operation: An operator overload, or the higher-order `flex_attention`.
        args: Its positional arguments.
        kwargs: Its arguments by name.
        result: What it returned.
        zeros: The zeros that an operation before put around the last axes of a tensor.
    """
    if getattr(operation, "namespace", None) == "higher_order":
        if operation.name() == "flex_attention":
            return attention("flex_attention", *args[:3])
        return title(operation)
    plain = operation.namespace == "aten"
    formula = FORMULAS.get(operation._opname.removesuffix("_") if plain else title(operation))
    if operation._opname.startswith("_fft_"):
        return "a Fourier transform (its operations depend on the library)"
    if formula is None:
        return title(operation)
    names = (argument.name for argument in operation._schema.arguments)
    named = dict(zip(names, args, strict=False)) | kwargs | {"zeros": zeros}
    try:
        return formula(named, result)
    except (KeyError, StructureError, AttributeError, RuntimeError):
        return title(operation)
