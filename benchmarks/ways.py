"""Ways to compute a locally connected layer without symconv: what benchmarks/local.py races.

Weights come as (L, taps, C / groups, groups, O / groups) for the L output positions, the bias as
(groups, O / groups, L); `pack` puts both into the layout that suits the way, `call` computes.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from contest import Problem
from limits import copies
from torch import Tensor
from torch.nn import functional as F


class Case(NamedTuple):
    """A locally connected layer and its batch; kernels, strides and paddings alike on all axes."""

    batch: int
    size: tuple[int, ...]
    into: int
    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        text = f"{self.batch} of {size} {self.into}>{self.out} k{self.kernel}"
        extras = ("stride", "s", 1), ("dilation", "d", 1), ("groups", "g", 1)
        return text + "".join(
            f" {short}{getattr(self, name)}"
            for name, short, usual in extras
            if getattr(self, name) != usual
        )

    @property
    def dimension(self) -> int:
        """Axes of space."""
        return len(self.size)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Output positions per axis."""
        reach = self.dilation * (self.kernel - 1)
        return tuple((s + 2 * self.padding - reach - 1) // self.stride + 1 for s in self.size)

    @property
    def positions(self) -> int:
        """Output positions."""
        return math.prod(self.outputs)

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return self.kernel**self.dimension

    @property
    def weights(self) -> int:
        """Weights of the layer, as many as products of one example."""
        return self.positions * self.taps * (self.into // self.groups) * self.out

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Those of our layer."""
        return (self.into, self.out, self.kernel, self.size, self.stride, self.padding,
                self.dilation, self.groups)  # fmt: skip


class Way(NamedTuple):
    """A layout of the parameters, and the layer computed with them."""

    pack: Callable[[Case, Tensor, Tensor], tuple[Tensor, Tensor]]
    call: Callable[[Case, Tensor, Tensor, Tensor], Tensor]


def canonical(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Our layer's parameters as every `pack` takes them."""
    blocks = case.groups, case.out // case.groups
    weight = weight.reshape(case.positions, case.taps, case.into // case.groups, *blocks)
    return weight, bias.reshape(*blocks, case.positions)


def padded(case: Case, x: Tensor) -> Tensor:
    """An input with zeros around its last axes."""
    return F.pad(x, [case.padding] * 2 * case.dimension) if case.padding else x


def windows(case: Case, x: Tensor, first: int) -> Tensor:
    """All windows of a padded input, as a view with the taps as last axes."""
    for axis in range(first, first + case.dimension):
        x = x.unfold(axis, case.dilation * (case.kernel - 1) + 1, case.stride)
        x = x[..., :: case.dilation]
    return x


def columns(case: Case, x: Tensor) -> Tensor:
    """Unfolded input (batch, groups, C / groups * taps, L), the taps fastest."""
    geometry = case.dilation, case.padding, case.stride
    if case.dimension == 2:
        unfolded = F.unfold(x, case.kernel, *geometry)
    elif case.dimension == 1:
        flat = [(one, g) for one, g in zip((1, 0, 1), geometry, strict=True)]
        unfolded = F.unfold(x.unsqueeze(2), (1, case.kernel), *flat)
    else:
        seen = windows(case, padded(case, x), 2)
        unfolded = seen.permute(0, 1, 5, 6, 7, 2, 3, 4).flatten(1, 4).flatten(2)
    return unfolded.unflatten(1, (case.groups, -1))


def outputs_last(case: Case, y: Tensor) -> Tensor:
    """Products (L * groups, batch, O / groups) as the layer's output."""
    y = y.view(*case.outputs, case.groups, case.batch, -1)
    n = case.dimension
    return y.permute(n + 1, n, n + 2, *range(n)).flatten(1, 2)


def shifted(case: Case, x: Tensor, first: int) -> Iterator[Tensor]:
    """A padded input as each tap sees it."""
    for tap in itertools.product(range(case.kernel), repeat=case.dimension):
        at = [slice(None)] * first
        for t, n in zip(tap, case.outputs, strict=True):
            start = case.dilation * t
            at.append(slice(start, start + case.stride * (n - 1) + 1, case.stride))
        yield x[tuple(at)]


# unfold + einsum


def einsum_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.permute(0, 3, 2, 1, 4).flatten(2, 3).contiguous(), bias.clone()


def einsum_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = torch.einsum("bgkl,lgko->bgol", columns(case, x), weight) + bias
    return y.reshape(case.batch, case.out, *case.outputs)


# unfold + bmm


def bias_rows(bias: Tensor) -> Tensor:
    """A bias (groups, O / groups, L) as (L * groups, 1, O / groups), for `baddbmm`."""
    return bias.permute(2, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()


def bmm_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return einsum_pack(case, weight, bias)[0].flatten(0, 1), bias_rows(bias)


def bmm_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = columns(case, x).permute(3, 1, 0, 2).flatten(0, 1)
    return outputs_last(case, torch.baddbmm(bias, rows, weight))


# windows + bmm: channels last, one copy of the windows, filters contiguous


def windows_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    filters = weight.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
    return filters.contiguous(), bias_rows(bias)


def channels_last(case: Case, x: Tensor) -> Tensor:
    """A padded input (*size, batch, groups, C / groups); batch and size remain where they lay."""
    last = x.movedim(1, -1).contiguous()
    if case.padding:
        last = F.pad(last, [0, 0, *[case.padding] * 2 * case.dimension])
    return last.movedim(0, -2).unflatten(-1, (case.groups, -1))


def windows_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    n = case.dimension
    seen = windows(case, channels_last(case, x), 0)  # *outputs, batch, groups, channels, *taps
    rows = seen.permute(*range(n), n + 1, n, *range(n + 3, 2 * n + 3), n + 2)
    rows = rows.reshape(case.positions * case.groups, case.batch, -1)
    return outputs_last(case, torch.baddbmm(bias, rows, weight))


def windows_einsum_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    filters = weight.unflatten(1, (case.kernel,) * case.dimension).unflatten(0, case.outputs)
    return filters.clone(), bias.clone()


def windows_einsum_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    at, taps = "xyz"[: case.dimension], "ijk"[: case.dimension]
    seen = windows(case, channels_last(case, x), 0)
    y = torch.einsum(f"{at}bgc{taps},{at}{taps}cgo->bgo{at}", seen, weight)
    return (y + bias.unflatten(-1, case.outputs)).flatten(1, 2)


# loop over offsets


def loop_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.permute(1, 0, 3, 2, 4).flatten(1, 2).contiguous(), bias_rows(bias)


def loop_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    n, y = case.dimension, bias
    each = shifted(case, channels_last(case, x), 0)
    for seen, filters in zip(each, weight.unbind(0), strict=True):
        rows = seen.transpose(n, n + 1).reshape(-1, case.batch, case.into // case.groups)
        y = torch.baddbmm(y, rows, filters)
    return outputs_last(case, y)


def lanes_pack(case: Case, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Positions fastest: no product of matrices, neighbours in lanes."""
    filters = weight.permute(1, 2, 3, 4, 0).contiguous()
    return filters.unflatten(-1, case.outputs), bias.clone().unflatten(-1, case.outputs)


def lanes_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = padded(case, x).unflatten(1, (case.groups, -1))
    y = bias.expand(case.batch, *bias.shape).clone()
    for seen, filters in zip(shifted(case, x, 3), weight.unbind(0), strict=True):
        for channel, filter_ in zip(seen.unbind(2), filters.unbind(0), strict=True):
            y.addcmul_(channel.unsqueeze(2), filter_)
    return y.flatten(1, 2)


def sum_call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition as one expression, for a compiler to fuse."""
    n = case.dimension
    seen = windows(case, padded(case, x), 2).unflatten(1, (case.groups, 1, -1))
    last = [*range(n + 4, 2 * n + 4)]
    seen = seen.permute(0, *last, 3, 1, 2, *range(4, n + 4)).flatten(1, n)
    return ((seen * weight).sum((1, 2)) + bias).flatten(1, 2)


WAYS = {
    "unfold + einsum": Way(einsum_pack, einsum_call),
    "unfold + bmm": Way(bmm_pack, bmm_call),
    "windows + einsum": Way(windows_einsum_pack, windows_einsum_call),
    "windows + bmm": Way(windows_pack, windows_call),
    "loop, bmm": Way(loop_pack, loop_call),
    "loop, lanes": Way(lanes_pack, lanes_call),
}
COMPILED = WAYS | {"sum": Way(lanes_pack, sum_call)}
del COMPILED["loop, lanes"]  # thousands of operations: minutes to compile, and "sum" is the same


class InJax:
    """`jax.lax.conv_general_dilated_local`, which has no groups, channels first or last.

    Raises:
        ImportError: There is no JAX.
    """

    def __init__(self, case: Case, problem: Problem, last: bool):
        self.jax = importlib.import_module("jax")
        self.case, self.last = case, last
        put = self.jax.numpy.array
        self.x, self.back = (put(self.moved(t)) for t in (problem.x, problem.back))
        layer = problem.layer
        packed = [t.numpy() for t in self.pack(layer.weight, layer.bias)]
        count = copies(sum(array.nbytes for array in packed))
        self.turn = itertools.cycle([[put(a) for a in packed] for _ in range(count)])
        self.compiled = self.jax.jit(self.call)
        self.stepped = self.jax.jit(self.step)

    def moved(self, x: Tensor) -> np.ndarray:
        """An activation in the layout of this contender."""
        x = x.detach()
        return np.ascontiguousarray(x.movedim(1, -1) if self.last else x)

    def pack(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """JAX wants (*outputs, C * taps, O), the channel slowest."""
        case = self.case
        filters, _ = canonical(case, weight.detach(), bias)
        filters = filters.transpose(1, 2).reshape(*case.outputs, -1, case.out).contiguous()
        bias = bias.detach()
        return filters, bias.movedim(0, -1).contiguous() if self.last else bias

    def call(self, x: Any, weight: Any, bias: Any) -> Any:
        """The layer."""
        case, n = self.case, self.case.dimension
        space = "DHW"[-n:]
        layout = f"N{space}C" if self.last else f"NC{space}"
        y = self.jax.lax.conv_general_dilated_local(
            x, weight, (case.stride,) * n, [(case.padding,) * 2] * n, (case.kernel,) * n,
            rhs_dilation=(case.dilation,) * n, dimension_numbers=(layout, f"{space}IO", layout),
        )  # fmt: skip
        return y + bias

    def step(self, x: Any, weight: Any, bias: Any, back: Any) -> Any:
        """Output and gradients; the output too, which a training step computes for its loss."""
        y, pull = self.jax.vjp(self.call, x, weight, bias)
        return y, *pull(back)

    def forward(self) -> Any:
        """The output, waited for."""
        return self.jax.block_until_ready(self.compiled(self.x, *next(self.turn)))

    def training(self) -> Any:
        """Output and gradients, waited for."""
        return self.jax.block_until_ready(self.stepped(self.x, *next(self.turn), self.back))

    def answers(self) -> tuple[Tensor, ...]:
        """The same as tensors, activations channels first."""
        y, to_x, to_weight, to_bias = (torch.from_numpy(np.array(a)) for a in self.training())
        if self.last:
            y, to_x = (t.movedim(-1, 1) for t in (y, to_x))
        return y, to_x, to_weight, to_bias


class InNumba:
    """The loop of the definition in numba, two axes of space, forward; x is padded before.

    Raises:
        ImportError: There is no numba.
    """

    def __init__(self, case: Case, problem: Problem):
        numba = importlib.import_module("numba")
        self.case = case
        self.loop = numba.njit(fastmath=True, parallel=True)(simple_loop(numba.prange))
        x = padded(case, problem.x.detach()).movedim(1, -1)
        self.x = np.ascontiguousarray(x)
        weight = problem.layer.weight.detach().numpy()
        bias = np.ascontiguousarray(problem.layer.bias.detach().movedim(0, -1))
        count = copies(weight.nbytes)
        self.turn = itertools.cycle([(weight.copy(), bias.copy()) for _ in range(count)])

    def forward(self) -> Tensor:
        """The output, channels first."""
        y = self.loop(self.x, *next(self.turn), self.case.stride, self.case.dilation)
        return torch.from_numpy(y).movedim(-1, 1)


def simple_loop(prange: Any) -> Callable[..., np.ndarray]:
    """The function that numba compiles."""

    def loop(x, weight, bias, stride, dilation):
        height, width, rows, columns, channels, outputs = weight.shape
        y = np.empty((x.shape[0], height, width, outputs), x.dtype)
        for i in prange(height):
            for j in range(width):
                for b in range(x.shape[0]):
                    y[b, i, j] = bias[i, j]
                    for p in range(rows):
                        for q in range(columns):
                            for c in range(channels):
                                value = x[
                                    b, i * stride + p * dilation, j * stride + q * dilation, c
                                ]
                                for o in range(outputs):
                                    y[b, i, j, o] += value * weight[i, j, p, q, c, o]
        return y

    return loop
