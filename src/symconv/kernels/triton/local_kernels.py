"""The Triton kernels of local layers: three maps, each as a vector and as a matrix kernel.

A *vector* kernel serves few batch rows, or few channels a group: a tile of the weights, coalesced
over output channels, is read once, multiplied entry by entry and summed at the end; it is bound by
memory. A *matrix* kernel serves larger batches: `tl.dot` over (batch, terms) and (terms, channels)
of one position. Each entry of a result belongs to one program, which sums it in a fixed order.

Names: b batch row, o output channel, c input channel of a group, t tap, u output position, p input
position, f filter; k runs over (t, c), j over (t, o), q over (member of a filter, b).
"""

# Triton's own types know neither tuples of constants nor literals for constants.
# pyright: reportArgumentType=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _unravel(flat, SIZE):
    """The place of a flat index in a lattice of three axes."""
    rest = flat // SIZE[2]
    return rest // SIZE[1], rest % SIZE[1], flat % SIZE[2]


@triton.jit
def _offset(channel, i1, i2, i3, steps, INDEX: tl.constexpr):
    """Where a channel at a place lies, within a batch row of strides `steps`."""
    row = channel.to(INDEX) * steps[1] + i1.to(INDEX) * steps[2]
    return row + i2.to(INDEX) * steps[3] + i3.to(INDEX) * steps[4]


@triton.jit
def _filter(labels, at, exists):
    """The filter of output positions, as 64-bit offsets are made of it."""
    found = at if labels is None else tl.load(labels + at, mask=exists, other=0)
    return found.to(tl.int64)


@triton.jit
def _seen(u, t, size, STRIDE, DILATION, BEFORE, a: tl.constexpr):
    """Along axis a: the input position that tap t of output u sees, and whether it exists."""
    p = u * STRIDE[a] + t * DILATION[a] - BEFORE[a]
    return p, (p >= 0) & (p < size[a])


@triton.jit
def _seer(p, i, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, a: tl.constexpr):
    """Along axis a: the i-th tap that sees input p, its output position, and whether both exist."""
    n = p + BEFORE[a]
    t = n // (STRIDE[a] // STEP[a]) * TURN[a] % STEP[a] + i * STEP[a]
    reach = n - t * DILATION[a]
    u = reach // STRIDE[a]
    return t, u, (t < KERNEL[a]) & (reach >= 0) & (u * STRIDE[a] == reach) & (u < out[a])


@triton.jit
def _product(a, b, sums, WIDEN: tl.constexpr):
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee", out_dtype=sums.dtype)


@triton.jit
def forward_vector(
    y, x, weight, bias, labels, batch, bias_steps, y_steps, steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Outputs (B, O, *out): a few batch rows and neighbours in a row of positions a program."""
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    CHANNELS: tl.constexpr = GROUPS * COUT
    program = tl.program_id(0)
    blocks = tl.cdiv(batch, BB)
    b = (program % blocks) * BB + tl.arange(0, BB)[:, None, None, None]
    program //= blocks
    o = (program % tl.cdiv(CHANNELS, BO)) * BO + tl.arange(0, BO)[None, None, None, :]
    program //= tl.cdiv(CHANNELS, BO)
    row = program // tl.cdiv(out[2], BU)
    u3 = (program % tl.cdiv(out[2], BU)) * BU + tl.arange(0, BU)[None, :, None, None]
    u1, u2 = row // out[1], row % out[1]
    at = row * out[2] + u3
    valid = (o < CHANNELS) & (u3 < out[2])
    filters = weight + _filter(labels, at, u3 < out[2]) * (K * CHANNELS)
    x += b.to(INDEX) * steps[0]
    sums = tl.zeros((BB, BU, BK, BO), SUM)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)[None, None, :, None]
        t1, t2, t3 = _unravel(k // CIN, KERNEL)
        p1, in1 = _seen(u1, t1, size, STRIDE, DILATION, BEFORE, 0)
        p2, in2 = _seen(u2, t2, size, STRIDE, DILATION, BEFORE, 1)
        p3, in3 = _seen(u3, t3, size, STRIDE, DILATION, BEFORE, 2)
        c = k % CIN
        inside = in1 & in2 & in3 & (b < batch) & (k < K) & (u3 < out[2])
        if GROUPS > 1:
            c += o // COUT * CIN
            inside &= o < CHANNELS
        offset = _offset(c, p1, p2, p3, steps, INDEX)
        seen = tl.load(x + offset, mask=inside, other=0).to(SUM)
        used = tl.load(filters + (k * CHANNELS + o), mask=valid & (k < K), other=0,
                       eviction_policy="evict_first").to(SUM)  # fmt: skip
        sums += seen * used
    total = tl.sum(sums, axis=2)[:, :, None, :]
    if bias is not None:
        bias += _offset(o, u1, u2, u3, bias_steps, INDEX)
        total += tl.load(bias, mask=valid, other=0).to(SUM)
    y += b.to(INDEX) * y_steps[0] + _offset(o, u1, u2, u3, y_steps, INDEX)
    tl.store(y, total.to(y.dtype.element_ty), mask=valid & (b < batch))


@triton.jit
def forward_matrix(
    y, x, weight, bias, labels, batch, bias_steps, y_steps, steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Outputs of one position a program: (batch, k) times (k, o)."""
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    program = tl.program_id(0)
    blocks = tl.cdiv(batch, BM)
    b = (program % blocks) * BM + tl.arange(0, BM)[:, None]
    program //= blocks
    o = (program % tl.cdiv(COUT, BO)) * BO + tl.arange(0, BO)[None, :]
    program //= tl.cdiv(COUT, BO)
    group = program % GROUPS
    at = program // GROUPS
    u1, u2, u3 = _unravel(at, out)
    filters = weight + _filter(labels, at, True) * (K * GROUPS * COUT) + (group * COUT + o)
    x += b.to(INDEX) * steps[0] + group.to(INDEX) * CIN * steps[1]
    sums = tl.zeros((BM, BO), SUM)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        t1, t2, t3 = _unravel(k // CIN, KERNEL)
        p1, in1 = _seen(u1, t1, size, STRIDE, DILATION, BEFORE, 0)
        p2, in2 = _seen(u2, t2, size, STRIDE, DILATION, BEFORE, 1)
        p3, in3 = _seen(u3, t3, size, STRIDE, DILATION, BEFORE, 2)
        inside = (in1 & in2 & in3 & (k < K))[None, :] & (b < batch)
        offset = _offset(k % CIN, p1, p2, p3, steps, INDEX)
        seen = tl.load(x + offset[None, :], mask=inside, other=0)
        exists = (k < K)[:, None] & (o < COUT)
        used = tl.load(filters + k[:, None] * (GROUPS * COUT), mask=exists, other=0)
        sums = _product(seen, used, sums, WIDEN)
    o += group * COUT
    exists = o < (group + 1) * COUT
    if bias is not None:
        bias += _offset(o, u1, u2, u3, bias_steps, INDEX)
        sums += tl.load(bias, mask=exists, other=0).to(SUM)
    y += b.to(INDEX) * y_steps[0] + _offset(o, u1, u2, u3, y_steps, INDEX)
    tl.store(y, sums.to(y.dtype.element_ty), mask=(b < batch) & exists)


@triton.jit
def adjoint_vector(
    x, y, weight, labels, batch, x_steps, steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    STEP: tl.constexpr, TURN: tl.constexpr, COUNT: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Inputs (B, C, *S): a few batch rows and neighbours in a row of positions a program.

    Here BO counts input channels, and BK the terms j = (tap that sees the position, o).
    """
    J: tl.constexpr = COUNT[0] * COUNT[1] * COUNT[2] * COUT
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    CHANNELS: tl.constexpr = GROUPS * CIN
    program = tl.program_id(0)
    blocks = tl.cdiv(batch, BB)
    b = (program % blocks) * BB + tl.arange(0, BB)[:, None, None, None]
    program //= blocks
    c = (program % tl.cdiv(CHANNELS, BO)) * BO + tl.arange(0, BO)[None, None, :, None]
    program //= tl.cdiv(CHANNELS, BO)
    row = program // tl.cdiv(size[2], BU)
    p3 = (program % tl.cdiv(size[2], BU)) * BU + tl.arange(0, BU)[None, :, None, None]
    p1, p2 = row // size[1], row % size[1]
    y += b.to(INDEX) * steps[0]
    sums = tl.zeros((BB, BU, BO, BK), SUM)
    for start in range(0, J, BK):
        j = start + tl.arange(0, BK)[None, None, None, :]
        i1, i2, i3 = _unravel(j // COUT, COUNT)
        t1, u1, in1 = _seer(p1, i1, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 0)
        t2, u2, in2 = _seer(p2, i2, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 1)
        t3, u3, in3 = _seer(p3, i3, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 2)
        inside = in1 & in2 & in3 & (p3 < size[2]) & (j < J)
        o = j % COUT
        if GROUPS > 1:
            o += c // CIN * COUT
            inside &= c < CHANNELS
        offset = _offset(o, u1, u2, u3, steps, INDEX)
        seen = tl.load(y + offset, mask=inside & (b < batch), other=0).to(SUM)
        at = (u1 * out[1] + u2) * out[2] + u3
        t = (t1 * KERNEL[1] + t2) * KERNEL[2] + t3
        filters = weight + _filter(labels, at, inside) * (K * GROUPS * COUT)
        used = tl.load(filters + ((t * CIN + c % CIN) * (GROUPS * COUT) + o),
                       mask=inside & (c < CHANNELS), other=0,
                       eviction_policy="evict_first").to(SUM)  # fmt: skip
        sums += seen * used
    total = tl.sum(sums, axis=3)[:, :, :, None]
    x += b.to(INDEX) * x_steps[0] + _offset(c, p1, p2, p3, x_steps, INDEX)
    exists = (b < batch) & (p3 < size[2]) & (c < CHANNELS)
    tl.store(x, total.to(x.dtype.element_ty), mask=exists)


@triton.jit
def adjoint_matrix(
    x, y, weight, labels, batch, x_steps, steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    STEP: tl.constexpr, TURN: tl.constexpr, COUNT: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Inputs of one position a program: (batch, j) times (j, c). BO counts input channels."""
    J: tl.constexpr = COUNT[0] * COUNT[1] * COUNT[2] * COUT
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    program = tl.program_id(0)
    blocks = tl.cdiv(batch, BM)
    b = (program % blocks) * BM + tl.arange(0, BM)[:, None]
    program //= blocks
    c = (program % tl.cdiv(CIN, BO)) * BO + tl.arange(0, BO)[None, :]
    program //= tl.cdiv(CIN, BO)
    group = program % GROUPS
    p1, p2, p3 = _unravel(program // GROUPS, size)
    y += b.to(INDEX) * steps[0]
    sums = tl.zeros((BM, BO), SUM)
    for start in range(0, J, BK):
        j = start + tl.arange(0, BK)
        i1, i2, i3 = _unravel(j // COUT, COUNT)
        t1, u1, in1 = _seer(p1, i1, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 0)
        t2, u2, in2 = _seer(p2, i2, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 1)
        t3, u3, in3 = _seer(p3, i3, out, KERNEL, STRIDE, DILATION, BEFORE, STEP, TURN, 2)
        inside = in1 & in2 & in3 & (j < J)
        o = group * COUT + j % COUT
        offset = _offset(o, u1, u2, u3, steps, INDEX)
        seen = tl.load(y + offset[None, :], mask=inside[None, :] & (b < batch), other=0)
        at = (u1 * out[1] + u2) * out[2] + u3
        t = (t1 * KERNEL[1] + t2) * KERNEL[2] + t3
        filters = weight + _filter(labels, at, inside) * (K * GROUPS * COUT) + o
        used = tl.load(filters[:, None] + (t[:, None] * CIN + c) * (GROUPS * COUT),
                       mask=inside[:, None] & (c < CIN), other=0)  # fmt: skip
        sums = _product(seen, used, sums, WIDEN)
    x += b.to(INDEX) * x_steps[0] + _offset(group * CIN + c, p1, p2, p3, x_steps, INDEX)
    tl.store(x, sums.to(x.dtype.element_ty), mask=(b < batch) & (c < CIN))


@triton.jit
def gradient_vector(
    gradient, x, y, batch, x_steps, y_steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """A filter for each position: outer products of neighbouring positions, batch row by row."""
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    CHANNELS: tl.constexpr = GROUPS * COUT
    program = tl.program_id(0)
    o = (program % tl.cdiv(CHANNELS, BO)) * BO + tl.arange(0, BO)[None, None, :]
    program //= tl.cdiv(CHANNELS, BO)
    k = (program % tl.cdiv(K, BK)) * BK + tl.arange(0, BK)[None, :, None]
    program //= tl.cdiv(K, BK)
    row = program // tl.cdiv(out[2], BU)
    u3 = (program % tl.cdiv(out[2], BU)) * BU + tl.arange(0, BU)[:, None, None]
    u1, u2 = row // out[1], row % out[1]
    t1, t2, t3 = _unravel(k // CIN, KERNEL)
    p1, in1 = _seen(u1, t1, size, STRIDE, DILATION, BEFORE, 0)
    p2, in2 = _seen(u2, t2, size, STRIDE, DILATION, BEFORE, 1)
    p3, in3 = _seen(u3, t3, size, STRIDE, DILATION, BEFORE, 2)
    c = k % CIN
    inside = in1 & in2 & in3 & (k < K) & (u3 < out[2])
    if GROUPS > 1:
        c += o // COUT * CIN
        inside &= o < CHANNELS
    x += _offset(c, p1, p2, p3, x_steps, INDEX)
    y += _offset(o, u1, u2, u3, y_steps, INDEX)
    exists = (o < CHANNELS) & (u3 < out[2])
    sums = tl.zeros((BU, BK, BO), SUM)
    for _ in range(batch):
        seen = tl.load(x, mask=inside, other=0).to(SUM)
        sums += seen * tl.load(y, mask=exists, other=0).to(SUM)
        x += x_steps[0]
        y += y_steps[0]
    gradient += ((row * out[2] + u3).to(tl.int64) * K + k) * CHANNELS + o
    tl.store(gradient, sums.to(gradient.dtype.element_ty), mask=exists & (k < K))


@triton.jit
def gradient_matrix(
    gradient, x, y, order, starts, filters, parts, batch, x_steps, y_steps, size, out,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, BEFORE: tl.constexpr,
    GROUPS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, WIDEN: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One filter's (k, q) times (q, o), or a part of q. BM counts k, BK the terms q."""
    K: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2] * CIN
    program = tl.program_id(0)
    o = (program % tl.cdiv(COUT, BO)) * BO + tl.arange(0, BO)[None, :]
    program //= tl.cdiv(COUT, BO)
    group = program % GROUPS
    program //= GROUPS
    k = (program % tl.cdiv(K, BM)) * BM + tl.arange(0, BM)[:, None]
    program //= tl.cdiv(K, BM)
    f = program % filters
    if order is None:
        first, count = f, 1
    else:
        first = tl.load(starts + f)
        count = tl.load(starts + f + 1) - first
    terms = (count + tl.zeros((), INDEX)) * batch
    share = tl.cdiv(terms, parts)
    begin = program // filters * share
    end = tl.minimum(begin + share, terms)
    t1, t2, t3 = _unravel(k // CIN, KERNEL)
    c = group * CIN + k % CIN
    sums = tl.zeros((BM, BO), SUM)
    for start in range(begin, end, BK):
        q = start + tl.arange(0, BK)
        at = first + (q // batch).to(tl.int32)
        if order is not None:
            at = tl.load(order + at, mask=q < end, other=0)
        b = (q % batch).to(INDEX)
        u1, u2, u3 = _unravel(at, out)
        p1, in1 = _seen(u1[None, :], t1, size, STRIDE, DILATION, BEFORE, 0)
        p2, in2 = _seen(u2[None, :], t2, size, STRIDE, DILATION, BEFORE, 1)
        p3, in3 = _seen(u3[None, :], t3, size, STRIDE, DILATION, BEFORE, 2)
        inside = in1 & in2 & in3 & (q < end)[None, :] & (k < K)
        offset = b[None, :] * x_steps[0] + _offset(c, p1, p2, p3, x_steps, INDEX)
        seen = tl.load(x + offset, mask=inside, other=0)
        places = u1[:, None], u2[:, None], u3[:, None]
        offset = b[:, None] * y_steps[0] + _offset(group * COUT + o, *places, y_steps, INDEX)
        back = tl.load(y + offset, mask=(q < end)[:, None] & (o < COUT), other=0)
        sums = _product(seen, back, sums, WIDEN)
    gradient += (program.to(tl.int64) * K + k) * (GROUPS * COUT) + (group * COUT + o)
    tl.store(gradient, sums.to(gradient.dtype.element_ty), mask=(k < K) & (o < COUT))
