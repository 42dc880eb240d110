"""A sparse product in plain torch and scipy: compressed rows, read as columns for the adjoint.

The connections are the column indices of a compressed sparse row matrix, the weights its values,
so no index is sorted: the adjoint reads the same arrays as compressed sparse columns.

Memory: beside the operands and their transposes, the indices as 32-bit integers (kept as long as
the connections live and are not written to: half their size in memory once more); nothing grows
with batch * n * k. Arguments as in `symconv.kernels.sparse`.
"""

from __future__ import annotations

import warnings

import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from symconv.kernels import workspace
from symconv.kernels.indices import check, kept, narrowed

with warnings.catch_warnings():
    # torch says once per process that its compressed layouts are in beta: here, to nobody.
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def _matrix(weight: Tensor, connections: Tensor, inputs: int) -> Tensor:
    rows, columns, most = kept(connections, _compressed)
    check(most, inputs)
    # Checked just now; saying so also silences torch's reminder that it could check.
    shape = len(connections), inputs
    return torch.sparse_csr_tensor(rows, columns, weight.flatten(), shape, check_invariants=False)


def _compressed(connections: Tensor) -> tuple[Tensor, Tensor, int]:
    """Row starts and columns in one narrow type, and the largest column."""
    outputs, fan_in = connections.shape
    index, most = narrowed(connections, torch.int32)
    if connections.numel() > torch.iinfo(index.dtype).max:
        index = index.long()
    rows = torch.arange(outputs + 1, dtype=index.dtype, device=connections.device) * fan_in
    return rows, index.flatten(), most


def _multiply(matrix: Tensor, right: Tensor, transposed: bool = False) -> Tensor:
    if not right.is_cpu or (not transposed and torch.backends.mkl.is_available()):
        matrix = matrix.t() if transposed else matrix
        with torch.autocast(
            right.device.type, enabled=False
        ):  # no sparse product in half precision
            if right.shape[1] == 1:
                return torch.mv(matrix, right[:, 0])[:, None]
            return torch.mm(matrix, right)
    # To transpose, torch sorts the indices at every call; scipy reads them as columns.
    parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
    arrays = tuple(part.detach().numpy() for part in parts)
    if transposed:
        return torch.from_numpy(csc_array(arrays, matrix.shape[::-1]) @ right.detach().numpy())
    return torch.from_numpy(csr_array(arrays, matrix.shape) @ right.detach().numpy())


def _batch_last(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).t().contiguous()


def forward(x: Tensor, weight: Tensor, connections: Tensor) -> Tensor:
    """The output (B, n)."""
    dtype = workspace.accumulator(x.dtype)
    matrix = _matrix(weight.to(dtype), connections, x.shape[1])
    return _multiply(matrix, _batch_last(x, dtype)).t().to(x.dtype).contiguous()


def adjoint(y: Tensor, weight: Tensor, connections: Tensor, inputs: int) -> Tensor:
    """The gradient to the input (B, m)."""
    dtype = workspace.accumulator(y.dtype)
    matrix = _matrix(weight.to(dtype), connections, inputs)
    product = _multiply(matrix, _batch_last(y, dtype), transposed=True)
    return product.t().to(y.dtype).contiguous()


def weight_gradient(x: Tensor, y: Tensor, connections: Tensor) -> Tensor:
    """The gradient to the weight (n, k)."""
    dtype = workspace.accumulator(x.dtype)
    zeros = torch.zeros(connections.shape, dtype=dtype, device=x.device)
    where = _matrix(zeros, connections, x.shape[1])
    left, right = _batch_last(y, dtype), _batch_last(x, dtype).t()
    sampled = torch.sparse.sampled_addmm(where, left, right, beta=0.0)
    return sampled.values().view(connections.shape).to(x.dtype)


def exported_forward(x: Tensor, weight: Tensor, connections: Tensor) -> Tensor:
    """`forward` in operators that every runtime has: gathers within the workspace per row."""
    outputs, fan_in = connections.shape
    rows = max(1, workspace.BYTES // (fan_in * x.element_size()))
    parts = []
    for start in range(0, outputs, rows):
        chosen, values = connections[start : start + rows], weight[start : start + rows]
        seen = x.index_select(1, chosen.flatten()).unflatten(1, tuple(chosen.shape))
        parts.append((seen * values).sum(-1))
    return torch.cat(parts, 1)
