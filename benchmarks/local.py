"""Locally connected layers against every other way to compute them, and against the machine.

    python benchmarks/local.py [--threads 1] [--rounds 15] [--cases 0 3] [--compile] [--quick]
                               [--json local.json]

Forward passes and training steps (gradients to input, weight and bias, allocated anew) through
`sc.nn.LocallyConnected{1,2,3}d`, in float32, as ratios: how many times as long another way takes.
Every way has the layout of the weights that suits it best, is held to the reference's answers
before it is timed, and reads its weights from memory: copies are used in turn, twice as large as
the last cache. All are interleaved; medians. Processor time on one thread, which leaves out
waiting on a busy machine; elapsed time on more, so keep the machine quiet.

"best torch" is the quickest way in torch that was run; "usual torch" the quicker of unfold with
einsum and unfold with bmm. `--compile` adds `torch.compile` of each way (minutes). JAX and numba
take part where they are installed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from contest import Bar, Contest, InTorch, Packed, Problem, check, raced, shares
from limits import copies
from memory import extra
from torch import Tensor, nn
from ways import COMPILED, WAYS, Case, InJax, InNumba, Way, canonical

import symconv as sc

BARS = [
    Bar("best torch", 8, 6),
    Bar("usual torch", 8, 6),
    Bar("best torch, compiled too", 8, 6),
    Bar("best JAX", 2, 3),
]
CASES = [
    Case(1, (64, 64), 16, 16, 3, padding=1),  # a
    Case(16, (64, 64), 16, 16, 3, padding=1),  # b
    Case(64, (28, 28), 32, 32, 3, padding=1),  # c
    Case(16, (63, 63), 16, 16, 9, padding=4),
    Case(4, (32, 32), 32, 32, 3, padding=1),
    Case(1, (4096,), 16, 16, 9, padding=4),
    Case(64, (512,), 32, 32, 5, padding=2),
    Case(1, (12, 12, 12), 16, 16, 3, padding=1),
    Case(16, (12, 12, 12), 16, 16, 3, padding=1),
    Case(16, (64, 64), 16, 32, 3, stride=2, padding=1),
    Case(1, (64, 64), 3, 5, 5, padding=2),
    Case(64, (64, 64), 3, 5, 5, padding=2),
    Case(16, (32, 32), 20, 20, 3, padding=1),
    Case(16, (32, 32), 32, 32, 3, padding=2, dilation=2),
    Case(16, (32, 32), 32, 32, 3, padding=1, groups=4),
    Case(16, (32, 32), 128, 128, 1),
]
QUICK = [
    Case(1, (8, 8), 4, 4, 3, padding=1),
    Case(2, (9,), 3, 5, 3, stride=2, padding=1),
    Case(2, (4, 5, 6), 4, 6, 2, dilation=2, groups=2),
]


def build(case: Case) -> nn.Module:
    return getattr(sc.nn, f"LocallyConnected{case.dimension}d")(*case.arguments)


def problem_of(case: Case) -> Problem:
    torch.manual_seed(0)
    return Problem.of(build(case), torch.randn(case.batch, case.into, *case.size))


def ours(case: Case, problem: Problem) -> InTorch:
    def copy() -> nn.Module:
        layer = build(case)
        layer.load_state_dict(problem.layer.state_dict())
        return layer

    return InTorch(copy, problem)


def in_torch(case: Case, problem: Problem, way: Way, compiled: bool = False) -> InTorch:
    call = torch.compile(way.call, dynamic=False) if compiled else way.call
    call = functools.partial(call, case)
    with torch.no_grad():
        packed = way.pack(case, *canonical(case, problem.layer.weight, problem.layer.bias))
    return InTorch(lambda: Packed(call, *(t.clone() for t in packed)), problem)


def entrants(case: Case, problem: Problem, compiled: bool) -> Iterator[tuple[str, Any, Way | None]]:
    """Name, contender, and the way whose layout its gradients have."""
    yield "ours", ours(case, problem), None
    for name, way in WAYS.items():
        yield name, in_torch(case, problem, way), way
    for name, way in COMPILED.items() if compiled else ():
        yield f"compiled {name}", in_torch(case, problem, way, compiled=True), way
    if case.groups == 1:
        for name, last in (("JAX first", False), ("JAX last", True)):
            try:
                yield name, InJax(case, problem, last), None
            except ImportError:
                break
    if case.groups == 1 and case.dimension == 2:
        try:
            yield "numba", InNumba(case, problem), None
        except ImportError:
            return


def contenders(case: Case, problem: Problem, compiled: bool) -> dict[str, Any]:
    """Those that take part, their answers checked; one that cannot run is left out, aloud."""
    found = {}
    for name, contender, way in entrants(case, problem, compiled):
        y, to_x, *parameters = problem.answers
        if way is not None:
            parameters = way.pack(case, *canonical(case, *parameters))
        elif name.startswith("JAX"):
            parameters = contender.pack(*parameters)
        try:
            check(f"{case}: {name}", contender, (y, to_x, *parameters))
        except RuntimeError as error:  # of a compiler, or for want of memory
            if name == "ours":
                raise
            print(f"{case}: {name} left out: {str(error).splitlines()[0]}")
            continue
        found[name] = contender
    return found


def race(case: Case, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Forward passes and training steps of everybody."""
    torch._dynamo.reset()  # or its limit of 8 graphs a function turns back to eager mode
    problem = problem_of(case)
    field = contenders(case, problem, options.compile)
    best = {
        "best torch": tuple(WAYS),
        "usual torch": ("unfold",),
        "best JAX": ("JAX",),
    }
    if options.compile:
        best["best torch, compiled too"] = (*WAYS, "compiled")
    return raced(field, best, options)


# The kernel alone


def operators(case: Case) -> dict[str, Any]:
    """The three operators on weights used in turn, without module, padding mode and bias."""
    x = torch.randn(case.batch, case.into, *case.size)
    y = torch.randn(case.batch, case.out, *case.outputs)
    n, ops = case.dimension, torch.ops.symconv
    filters = build(case).weight.detach().flatten(0, n - 1)
    turn = itertools.cycle([filters.clone() for _ in range(copies(4 * case.weights))])
    steps = [case.stride] * n, [case.padding] * 2 * n, [case.dilation] * n, case.groups
    return {
        "forward": lambda: ops.local_forward(x, next(turn), None, None, *steps),
        "to input": lambda: ops.local_adjoint(y, next(turn), None, case.size, *steps),
        "to weight": lambda: ops.local_weight_gradient(x, y, None, filters.shape, *steps),
    }


def alone(
    case: Case, limits: dict[str, float], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Shares of the limits; weights are read (or written, in their gradient) once."""
    products = case.weights * case.batch
    return shares(case, operators(case), limits, 4e-9 * case.weights, products, options)


# Memory

HOLDERS = ("ours", "unfold + bmm", "windows + bmm")


def trainee(case: Case, name: str) -> tuple[nn.Module, Tensor]:
    """A layer computed one way, and an input."""
    layer, x = build(case), torch.randn(case.batch, case.into, *case.size)
    if name == "ours":
        return layer, x
    way = WAYS[name]
    with torch.no_grad():
        parameters = way.pack(case, *canonical(case, layer.weight, layer.bias))
    return Packed(functools.partial(way.call, case), *parameters), x


def held(task: tuple[Case, str]) -> float:
    """MiB that training one way holds beside operands and gradients."""
    case, name = task
    reach = case.dilation * (case.kernel - 1) + 1
    small = case._replace(size=(reach,) * case.dimension, padding=0)
    return extra(lambda: trainee(case, name), trainee(small, name))


def layouts(case: Case) -> int:
    """Bytes of a copy of the input and of the output."""
    return 4 * case.batch * (case.into * math.prod(case.size) + case.out * case.positions)


if __name__ == "__main__":
    Contest(__file__, __doc__, CASES, QUICK, race, alone, held, HOLDERS, layouts, BARS).run()
