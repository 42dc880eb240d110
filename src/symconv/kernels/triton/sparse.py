"""The operators of sparse layers in Triton; see `symconv.kernels.triton`.

Shapes: x (B, m); weight and connections (n, k); y (B, n).
"""

from __future__ import annotations

from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels.indices import kept
from symconv.kernels.triton import sparse_kernels as kernels
from symconv.kernels.triton.geometry import TILE, ceil, launch, power, types
from symconv.kernels.triton.index import connections as narrowed
from symconv.kernels.triton.index import members


def forward(x: Tensor, weight: Tensor, connections: Tensor) -> Tensor:
    """y[b, n] = sum over j of x[b, connections[n, j]] W[n, j]."""
    (batch, inputs), (outputs, fan_in) = x.shape, connections.shape
    if not (x.numel() and weight.numel()):
        return x.new_zeros(batch, outputs)
    narrow = _checked(connections, inputs)
    x, y, weight = _batch_last(x), x.new_empty(batch, outputs), weight.contiguous()
    blocks = sparse_blocks(batch, fan_in)
    launch(
        kernels.forward, ceil(batch, blocks["BB"]) * ceil(outputs, blocks["BN"]), y, x, weight,
        narrow, batch, outputs, fan_in, x.stride(), **_types(x, y, weight), **blocks,
    )  # fmt: skip
    return y


def adjoint(y: Tensor, weight: Tensor, connections: Tensor, inputs: int) -> Tensor:
    """x[b, i] = sum over the connections (n, j) to i of y[b, n] W[n, j].

    Each input gathers from its connections, sorted once by input and kept.
    """
    batch, fan_in = y.shape[0], connections.shape[1]
    if not (y.numel() and weight.numel()):
        return y.new_zeros(batch, inputs)
    _checked(connections, inputs)
    order, starts = kept(connections, members, inputs)
    y, x, weight = _batch_last(y), y.new_empty(batch, inputs), weight.contiguous()
    blocks = sparse_blocks(batch, ceil(connections.numel(), inputs))
    launch(
        kernels.adjoint, ceil(batch, blocks["BB"]) * ceil(inputs, blocks["BN"]), x, y, weight,
        order, starts, batch, inputs, fan_in, y.stride(), **_types(y, x, weight), **blocks,
    )  # fmt: skip
    return x


def weight_gradient(x: Tensor, y: Tensor, connections: Tensor) -> Tensor:
    """dW[n, j] = sum over b of x[b, connections[n, j]] y[b, n]."""
    (batch, inputs), (outputs, fan_in) = x.shape, connections.shape
    if not (x.numel() and y.numel() and connections.numel()):
        return x.new_zeros(connections.shape)
    narrow = _checked(connections, inputs)
    x, y, gradient = _batch_last(x), _batch_last(y), x.new_empty(connections.shape)
    blocks = sparse_blocks(batch, fan_in)
    launch(
        kernels.weight_gradient, ceil(outputs, blocks["BN"]) * ceil(fan_in, blocks["BJ"]),
        gradient, x, y, narrow, batch, outputs, fan_in, x.stride(), y.stride(),
        **_types(x, y, gradient), **blocks,
    )  # fmt: skip
    return gradient


def sparse_blocks(batch: int, terms: int) -> dict[str, int]:
    """Blocks of batch rows, of terms of a sum, and of sums.

    A warp reads the batch rows of one gathered input; at batch 1, the terms of one sum.

    Example:
        >>> sparse_blocks(1, 41), sparse_blocks(64, 410)
        ({'BB': 1, 'BJ': 64, 'BN': 16}, {'BB': 64, 'BJ': 16, 'BN': 1})
    """
    rows = power(batch, 64)
    together = power(terms, max(1, TILE // 4 // rows))
    return dict(BB=rows, BJ=together, BN=max(1, TILE // 4 // (rows * together)))


def _checked(connections: Tensor, inputs: int) -> Tensor:
    narrow, most = kept(connections, narrowed)
    if most >= inputs:
        raise StructureError(f"connections in 0..{inputs - 1}", most)
    return narrow


def _batch_last(x: Tensor) -> Tensor:
    """The same (B, m), with the batch rows of an input side by side."""
    return x.t().contiguous().t()


def _types(*tensors: Tensor) -> dict:
    found = types(*tensors)
    del found["WIDEN"]
    return found
