"""Sparse products by the compiled kernels; arguments as in `symconv.kernels.plain.sparse`.

Memory: one copy of the input or of its gradient with the batch last (up to 16 MB more for parts of
that gradient), and the connections as 16-bit integers where they fit, kept as long as they are
unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels import native
from symconv.kernels.indices import check, kept, narrowed

_FORWARD, _ADJOINT, _WEIGHT_GRADIENT = range(3)
_INDICES = {torch.uint16: 0, torch.int32: 1, torch.int64: 2}


def forward(x: Tensor, weight: Tensor, connections: Tensor, bias: Tensor | None = None) -> Tensor:
    """The output (B, n)."""
    index = _index(connections, x.shape[1])
    y = native.empty(x, (x.shape[0], weight.shape[0]))
    bias = None if bias is None else bias.contiguous()
    _run(_FORWARD, index, x, y, x, weight.contiguous(), None, bias, y)
    return y


def adjoint(y: Tensor, weight: Tensor, connections: Tensor, inputs: int) -> Tensor:
    """The gradient to the input (B, inputs)."""
    index = _index(connections, inputs)
    x = native.empty(y, (y.shape[0], inputs))
    _run(_ADJOINT, index, x, y, None, weight.contiguous(), y, None, x)
    return x


def weight_gradient(x: Tensor, y: Tensor, connections: Tensor) -> Tensor:
    """The gradient to the weight (n, k)."""
    index = _index(connections, x.shape[1])
    weight = native.empty(x, connections.shape)
    _run(_WEIGHT_GRADIENT, index, x, y, x, None, y, None, weight)
    return weight


def _index(connections: Tensor, inputs: int) -> Tensor:
    index, most = kept(connections, narrowed)
    check(most, inputs)
    return index


def _run(
    which: int,
    index: Tensor,
    like_x: Tensor,
    like_y: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    result: Tensor,
) -> None:
    """Sizes and strides, what is read, and what is written, in the order of bindings.cpp.

    Raises:
        StructureError: The operands are not of one type, or byte counts do not fit 64 bits.
    """
    native.check(result, x, weight, y, bias)
    elements = max(like_x.numel(), like_y.numel())  # of expanded tensors: more than memory holds
    if elements >= native.MOST:
        raise StructureError(f"fewer than {native.MOST} inputs and outputs of a batch", elements)
    sizes = *like_x.shape, *index.shape, *like_x.stride(), *like_y.stride()
    where = map(native.address, (x, weight, y, bias, index, result))
    types = native.TYPES[result.dtype], _INDICES[index.dtype]
    native._cpu.run_sparse(which, native.SET, *types, *sizes, *where, torch.get_num_threads())
