"""Products of matrices and attention: no item looks at cells that it does not have."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.functions.pointwise import homes
from symconv.ragged.packed import FINITE, Packed
from symconv.ragged.valid import BATCH, Valid


def matmul(input: Any, other: Any, **kwargs: Any) -> Any:
    """Matrix products over the last two axes, item by item."""
    if isinstance(input, Packed) and isinstance(other, Packed):
        return _both_ragged(input, other)
    x = input if isinstance(input, Packed) else other
    tensor: Any = other if x is input else input
    inner = x.layout[-1] if x is input else x.layout[-2]
    if inner is not None or tensor.ndim > 2 or tensor.ndim == 0:
        raise refused(
            "a product over an axis without padding, with one matrix for all items",
            f"{x.described()} and a tensor {tuple(tensor.shape)}",
            "sum over space by masked functions: x.mean, softmax and a product of two batches",
        )
    x = x.tame()
    if x is input or tensor.ndim == 1:
        made = [c @ tensor if isinstance(input, Packed) else tensor @ c for c in x.canvases]
    else:
        made = [tensor @ c for c in x.canvases]
    layout = list(x.layout)
    if tensor.ndim == 1:
        del layout[-1 if isinstance(input, Packed) else -2]
    return x.closed(made, tuple(layout))


def _both_ragged(x: Packed, y: Packed) -> Any:
    if x.dim() != y.dim() or x.dim() < 3 or x.batch != y.batch or x.batch > x.dim() - 3:
        raise refused(
            "two batches of matrices (batch, ..., rows, columns) of one rank",
            f"{x.described()} and {y.described()}",
            "add or move axes",
        )
    x, y = x.zeroed(), y.zeroed()
    if len(x.valid) != len(y.valid) or not x.places.same(y.places):
        y = y.repacked(x)
    before = {a: x.layout[a] for a in range(x.dim() - 2)}
    if (
        any(y.layout[a] != label for a, label in before.items() if label != BATCH)
        and x.valid is not y.valid
    ):
        raise refused("batches whose leading axes agree", y.described(), "permute one of them")
    inner = x.layout[-1], y.layout[-2]
    same = x.size_of(x.dim() - 1) == y.size_of(y.dim() - 2)
    if not same or isinstance(inner[0], int) != isinstance(inner[1], int):
        raise refused(f"matrices that fit: {x.described()}", y.described(), "transpose one of them")
    made = []
    for a, b in zip(x.canvases, y.canvases, strict=True):
        common = min(a.shape[-1], b.shape[-2])
        made.append(a[..., :common] @ b[..., :common, :])
    columns = x.valid[0].table.shape[1]
    valid = [
        Valid(torch.cat([v.table, w.table], 1), v.full and w.full)
        for v, w in zip(x.valid, y.valid, strict=True)
    ]
    last = y.layout[-1]
    layout = (*x.layout[:-1], last + columns if isinstance(last, int) else None)
    whole = x.remade(made, valid, layout)
    if any(isinstance(label, int) for label in layout):
        return whole.numbered()
    return x.places.join(made, x.batch)


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot-product attention (batch, ..., positions, features) over valid positions."""
    if not all(isinstance(t, Packed) for t in (query, key, value)):
        raise refused("ragged query, key and value", "a plain tensor", "make all of them ragged")
    if attn_mask is not None:
        raise refused(
            "attention without attn_mask", "a mask of one size", "padding is masked already"
        )
    q, k, v = query.tame(), key.zeroed(), value.zeroed()
    if any(t.batch != 0 or t.dim() < 3 for t in (q, k, v)):
        raise refused("the batch on axis 0", q.described(), "permute the axes")
    made = []
    for a, b, c, valid in zip(q.canvases, k.canvases, v.canvases, k.valid, strict=True):
        mask = None
        label = k.layout[-2]
        if not valid.full and isinstance(label, int) and not is_causal:
            layout = (BATCH, *[None] * (b.ndim - 3), label)
            like = b[..., 0]
            mask = valid.mask(like, layout)
            mask = mask.unsqueeze(-2)
        made.append(
            F.scaled_dot_product_attention(
                a, b, c, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        )
    return q.remade(made, None, (*q.layout[:-1], None), FINITE)


def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """`nn.MultiheadAttention` over valid positions: (positions, batch, features) as torch has it.

    Attention weights are given as None.
    """
    extras = [bias_k, bias_v, key_padding_mask, attn_mask, static_k, static_v]
    if add_zero_attn or any(e is not None for e in extras):
        raise refused(
            "multi-head attention without masks, added keys or static ones",
            "one of them",
            "padding is masked already",
        )
    given = [t.transpose(0, 1) for t in (query, key, value)]
    if in_proj_weight is not None and not use_separate_proj_weight:
        weights = in_proj_weight.chunk(3)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = [
        F.linear(t, w, b).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # pyright: ignore
        for t, w, b in zip(given, weights, biases, strict=True)
    ]
    y = F.scaled_dot_product_attention(*heads, dropout_p=dropout_p if training else 0.0)
    y = F.linear(y.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    return y.transpose(0, 1), None


ATTENTION = {
    F.scaled_dot_product_attention: attention,
    F.multi_head_attention_forward: multi_head_attention,
    **{f: matmul for name in ("matmul", "bmm", "__matmul__", "__rmatmul__") for f in homes(name)},
}
