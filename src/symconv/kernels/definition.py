"""The kernels once more, slowly and obviously right: one output at a time, from the definition."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def local_conv_reference(
    x: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    stride: Sequence[int] = (1,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """`symconv.kernels.local.local_correlation`, position by position and channel by channel."""
    n = len(stride)
    kernel, (c, channels) = weight.shape[1 : n + 1], weight.shape[n + 1 :]
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    out = [(x.shape[2 + a] - extent[a]) // stride[a] + 1 for a in range(n)]
    values = []
    for flat, place in enumerate(itertools.product(*map(range, out))):
        filters = weight[flat if labels is None else int(labels[flat])]
        for o in range(channels):
            group = o // (channels // groups)
            total = x.new_zeros(x.shape[0])
            for tap in itertools.product(*map(range, kernel)):
                at = tuple(stride[a] * place[a] + dilation[a] * tap[a] for a in range(n))
                for i in range(c):
                    total = total + x[(slice(None), group * c + i, *at)] * filters[(*tap, i, o)]
            values.append(total)
    return torch.stack(values, -1).reshape(len(x), *out, channels).movedim(-1, 1)


def sparse_linear_reference(x: Tensor, weight: Tensor, connections: Tensor) -> Tensor:
    """`symconv.kernels.sparse.sparse_product`, connection by connection."""
    rows = []
    for chosen, values in zip(connections.tolist(), weight, strict=True):
        terms = [x[..., i] * value for i, value in zip(chosen, values, strict=True)]
        rows.append(torch.stack(terms).sum(0))
    return torch.stack(rows, -1)
