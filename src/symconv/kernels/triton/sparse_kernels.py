"""The Triton kernels of sparse layers: gathers over blocks of batch rows, which lie together.

Names: b batch row, n output, j connection of an output, i input, e connection of an input. Each
entry of a result belongs to one program, which sums it in a fixed order.
"""

# Triton's own types know neither tuples of constants nor literals for constants.
# pyright: reportArgumentType=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(
    y, x, weight, connections, batch, outputs, fan_in, steps,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    BB: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """y[b, n] = sum over j of x[b, connections[n, j]] W[n, j]."""
    blocks = tl.cdiv(batch, BB)
    program = tl.program_id(0)
    b = (program % blocks) * BB + tl.arange(0, BB)[None, None, :]
    n = (program // blocks) * BN + tl.arange(0, BN)[:, None, None]
    row = n.to(INDEX) * fan_in
    x += b.to(INDEX) * steps[0]
    sums = tl.zeros((BN, BJ, BB), SUM)
    for start in range(0, fan_in, BJ):
        j = start + tl.arange(0, BJ)[None, :, None]
        exists = (n < outputs) & (j < fan_in)
        i = tl.load(connections + row + j, mask=exists, other=0).to(INDEX)
        used = tl.load(weight + row + j, mask=exists, other=0).to(SUM)
        seen = tl.load(x + i * steps[1], mask=exists & (b < batch), other=0)
        sums += seen.to(SUM) * used
    total = tl.sum(sums, axis=1)[:, None, :]
    y += b.to(INDEX) * outputs + n
    tl.store(y, total.to(y.dtype.element_ty), mask=(n < outputs) & (b < batch))


@triton.jit
def adjoint(
    x, y, weight, order, starts, batch, inputs, fan_in, steps,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    BB: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """x[b, i] = sum over connections (n, j) to i of y[b, n] W[n, j]. BN counts inputs, BJ e."""
    blocks = tl.cdiv(batch, BB)
    program = tl.program_id(0)
    b = (program % blocks) * BB + tl.arange(0, BB)[None, None, :]
    i = (program // blocks) * BN + tl.arange(0, BN)[:, None, None]
    first = tl.load(starts + i, mask=i < inputs, other=0)
    count = tl.load(starts + i + 1, mask=i < inputs, other=0) - first
    most = tl.max(tl.ravel(count), axis=0)
    y += b.to(INDEX) * steps[0]
    sums = tl.zeros((BN, BJ, BB), SUM)
    for start in range(0, most, BJ):
        e = start + tl.arange(0, BJ)[None, :, None]
        connection = tl.load(order + first + e, mask=e < count, other=0).to(INDEX)
        used = tl.load(weight + connection, mask=e < count, other=0).to(SUM)
        n = connection // fan_in
        seen = tl.load(y + n * steps[1], mask=(e < count) & (b < batch), other=0)
        sums += seen.to(SUM) * used
    total = tl.sum(sums, axis=1)[:, None, :]
    x += b.to(INDEX) * inputs + i
    tl.store(x, total.to(x.dtype.element_ty), mask=(i < inputs) & (b < batch))


@triton.jit
def weight_gradient(
    gradient, x, y, connections, batch, outputs, fan_in, x_steps, y_steps,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    BB: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """dW[n, j] = sum over b of x[b, connections[n, j]] y[b, n], at the connections only."""
    blocks = tl.cdiv(fan_in, BJ)
    program = tl.program_id(0)
    n = (program // blocks) * BN + tl.arange(0, BN)[:, None, None]
    j = (program % blocks) * BJ + tl.arange(0, BJ)[None, :, None]
    exists = (n < outputs) & (j < fan_in)
    at = n.to(INDEX) * fan_in + j
    i = tl.load(connections + at, mask=exists, other=0).to(INDEX)
    sums = tl.zeros((BN, BJ, BB), SUM)
    for start in range(0, batch, BB):
        b = start + tl.arange(0, BB)[None, None, :]
        row = b.to(INDEX)
        seen = tl.load(
            x + row * x_steps[0] + i * x_steps[1], mask=exists & (b < batch), other=0
        ).to(SUM)
        back = tl.load(
            y + row * y_steps[0] + n.to(INDEX) * y_steps[1],
            mask=(n < outputs) & (b < batch),
            other=0,
        ).to(SUM)
        sums += seen * back
    total = tl.sum(sums, axis=2)[:, :, None]
    tl.store(gradient + at, total.to(gradient.dtype.element_ty), mask=exists)
