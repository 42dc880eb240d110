"""Sparse layers with a constant fan-in against every other way to compute them.

    python benchmarks/sparse.py [--threads 1] [--rounds 30] [--cases 0 3] [--quick]
                                [--json sparse.json]

Forward passes and training steps (gradients to input, weights and bias, allocated anew) through
`sc.nn.SparseLinear`, 4096 to 4096 in float32, as ratios: how many times as long another way takes.
Every way is held to the reference's answers before it is timed, and reads its weights and indices
from memory: copies are used in turn, twice as large as the last cache. All are interleaved;
medians. Processor time on one thread, which leaves out waiting on a busy machine; elapsed time on
more, so keep the machine quiet.

"torch CSR" has 32-bit indices and trains as torch does it best: the matrix is the parameter, its
gradient sparse (with the values as parameter, torch makes a dense gradient of the matrix first:
5 to 13 times as long at 99 %). "torch CSR by hand" is a backward pass of one's own from torch's
operators, with the transposed pattern kept. Gathering is left out where its copy of the input
exceeds half a GiB. scipy has no gradients.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from contest import Arrays, Bar, Contest, InTorch, Packed, Problem, check, raced, shares
from limits import copies
from memory import extra
from scipy.sparse import csr_array
from torch import Tensor, nn

import symconv as sc

BARS = [
    Bar("torch CSR", 1.5, 4),
    Bar("torch CSR by hand", 1.5, 4),
    Bar("dense", 5, 4, "90 %"),
    Bar("dense", 35, 20, "99 %"),
]
GATHERED = 1 << 29  # bytes


class Case(NamedTuple):
    """A sparse square layer and its batch."""

    features: int
    fan_in: int
    batch: int

    def __str__(self) -> str:
        zeros = 100 - 100 * self.fan_in / self.features
        return f"{self.batch} of {self.features}, {zeros:.0f} %"


CASES = [Case(4096, fan_in, batch) for fan_in in (41, 410) for batch in (1, 16, 128)]
QUICK = [Case(64, 5, 1), Case(64, 7, 3)]


def build(case: Case) -> nn.Module:
    return sc.nn.SparseLinear(case.features, case.features, case.fan_in)


def problem_of(case: Case) -> Problem:
    torch.manual_seed(0)
    return Problem.of(build(case), torch.randn(case.batch, case.features))


def csr(connections: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix with 32-bit indices, all its own."""
    outputs, fan_in = connections.shape
    rows = torch.arange(outputs + 1, dtype=torch.int32) * fan_in
    columns = connections.int().flatten()
    values = values.detach().flatten().clone()
    size = outputs, inputs
    return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False)


class ByHand(torch.autograd.Function):
    """The product with gradients from torch's operators: sampled, and by the kept transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: HandCSR) -> Tensor:
        """The product, without bias."""
        ctx.save_for_backward(x, values)
        ctx.layer = layer
        return torch.mm(layer.matrix(values), x.t()).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients to the input and the values."""
        x, values = ctx.saved_tensors
        layer, gradient = ctx.layer, gradients[0]
        to_x = torch.mm(layer.transpose(values), gradient.t().contiguous()).t()
        where = layer.matrix(torch.zeros_like(values))
        sampled = torch.sparse.sampled_addmm(where, gradient.t().contiguous(), x, beta=0.0)
        return to_x, sampled.values(), None


class HandCSR(nn.Module):
    """A sparse layer as a user of torch's CSR may write it for training."""

    def __init__(self, connections: Tensor, weight: Tensor, bias: Tensor):
        super().__init__()
        n = len(connections)
        matrix = csr(connections, weight, n)
        self.pattern = matrix.crow_indices(), matrix.col_indices()
        self.order = torch.argsort(connections.flatten(), stable=True)
        counts = torch.bincount(connections.flatten(), minlength=n)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).int()
        self.transposed = starts, (self.order // connections.shape[1]).int()
        self.weight = nn.Parameter(matrix.values().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.shape = n, n

    def matrix(self, values: Tensor) -> Tensor:
        """The layer's matrix with some values."""
        return torch.sparse_csr_tensor(*self.pattern, values, self.shape, check_invariants=False)

    def transpose(self, values: Tensor) -> Tensor:
        """Its transpose."""
        values = values[self.order]
        return torch.sparse_csr_tensor(*self.transposed, values, self.shape, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (batch, features)."""
        return ByHand.apply(x, self.weight, self) + self.bias


def csr_call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.sparse.mm(weight, x.t()).t() + bias


def gather_call(connections: Tensor) -> Any:
    return lambda x, weight, bias: (x[:, connections] * weight).sum(-1) + bias


class Sparse(InTorch):
    """A contender in torch whose gradient to the weights has another layout than ours."""

    def __init__(self, unpack: Any, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.unpack = unpack

    def answers(self) -> Arrays:
        """Output and gradients, that to the weights as ours."""
        y, to_x, to_weight, to_bias = super().answers()
        return y, to_x, self.unpack(to_weight), to_bias


class InScipy:
    """`scipy.sparse.csr_array`, forward; the input's transpose, the product, the transpose back."""

    def __init__(self, problem: Problem):
        layer = problem.layer
        matrix = csr(layer.connections, layer.weight, layer.in_features)
        parts = matrix.values(), matrix.col_indices(), matrix.crow_indices()
        arrays = [part.numpy() for part in parts]
        count = copies(sum(array.nbytes for array in arrays))
        made = [csr_array(tuple(a.copy() for a in arrays), matrix.shape) for _ in range(count)]
        self.turn = itertools.cycle(made)
        self.x, self.bias = problem.x.detach().numpy(), layer.bias.detach().numpy()

    def forward(self) -> Any:
        """The output."""
        return (next(self.turn) @ self.x.T).T + self.bias


def entrants(case: Case, problem: Problem) -> Iterator[tuple[str, Any]]:
    layer = problem.layer
    connections, weight, bias = layer.connections, layer.weight.detach(), layer.bias.detach()
    shape, n = connections.shape, case.features

    def ours() -> nn.Module:
        return sc.nn.SparseLinear(n, n, case.fan_in, connections=connections)

    def copy() -> nn.Module:
        made = ours()
        made.load_state_dict(layer.state_dict())
        return made

    def gather() -> nn.Module:
        return Packed(gather_call(connections.clone()), weight.clone(), bias.clone())

    yield "ours", InTorch(copy, problem, 4 * connections.numel())
    yield (
        "torch CSR",
        Sparse(
            lambda g: g.values().view(shape),
            lambda: Packed(csr_call, csr(connections, weight, n), bias.clone()),
            problem,
        ),
    )
    yield (
        "torch CSR by hand",
        Sparse(
            lambda g: g.view(shape),
            lambda: HandCSR(connections, weight, bias),
            problem,
            extra=4 * connections.numel(),
        ),
    )
    yield "scipy CSR", InScipy(problem)
    if 4 * case.batch * connections.numel() <= GATHERED:
        yield "gather", InTorch(gather, problem, 8 * connections.numel())
    yield "dense", Sparse(lambda g: g.gather(1, connections), layer.to_linear, problem)


def contenders(case: Case, problem: Problem) -> dict[str, Any]:
    """All of them, their answers checked."""
    found = dict(entrants(case, problem))
    for name, contender in found.items():
        check(f"{case}: {name}", contender, problem.answers)
    return found


def race(case: Case, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Forward passes and training steps of everybody."""
    field = contenders(case, problem_of(case))
    return raced(field, {"best torch": ("torch", "gather", "dense")}, options)


def alone(
    case: Case, limits: dict[str, float], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The operators' shares of the limits; an index counts as 32 bits read, as a weight does."""
    n, k, batch = case
    x, weight = torch.randn(batch, n), torch.randn(n, k)
    connections = build(case).connections
    made = [(weight.clone(), connections.clone()) for _ in range(copies(8 * n * k))]
    turn, ops = itertools.cycle(made), torch.ops.symconv
    calls = {
        "forward": lambda: ops.sparse_forward(x, *next(turn), None),
        "to input": lambda: ops.sparse_adjoint(x, *next(turn), n),
        "to weight": lambda: ops.sparse_weight_gradient(x, x, next(turn)[1]),
    }
    for call, _ in itertools.product(calls.values(), made):  # what is kept from first calls
        call()
    return shares(case, calls, limits, 8e-9 * n * k, n * k * batch, options)


HOLDERS = ("ours", "torch CSR by hand", "dense")


def trainee(case: Case, name: str) -> tuple[nn.Module, Tensor]:
    """A layer computed one way, and an input."""
    layer, x = build(case), torch.randn(case.batch, case.features)
    if name == "ours":
        return layer, x
    if name == "dense":
        return layer.to_linear(), x
    return HandCSR(layer.connections, layer.weight, layer.bias), x


def held(task: tuple[Case, str]) -> float:
    """MiB that training one way holds beside operands and gradients."""
    case, name = task
    return extra(lambda: trainee(case, name), trainee(Case(64, 8, case.batch), name))


def layouts(case: Case) -> int:
    """Bytes of a copy of the input and of the output."""
    return 8 * case.batch * case.features


if __name__ == "__main__":
    Contest(__file__, __doc__, CASES, QUICK, race, alone, held, HOLDERS, layouts, BARS).run()
