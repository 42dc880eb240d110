"""Local and sparse layers in Triton on a GPU: against copy bandwidth, and against other ways.

    python benchmarks/gpu.py [--rounds 30] [--json gpu.json]

At batch 1 each map is bound by memory: the bytes that it must read and write, per second, as a
share of what a large copy reaches (80 % is the bar). At batch 64, forward passes and training steps
through `sc.nn`, as ratios: how many times as long another way takes (5 is the bar against the best
way in torch). Answers are checked against plain torch before anything is timed. Device time by
events, all in turn, medians; float32, without TensorFloat-32; weights are taken from copies larger
than any cache. Exits with a note where there is no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import conditions, save, show
from torch import Tensor
from ways import WAYS, Case, canonical

import symconv as sc

DEVICE = "cuda"
MIB = 1 << 20
CACHE = 128 * MIB  # more than the last cache of any GPU that we know
BARS = {"share of copying": 0.8, "best torch": 5.0}
ALONE = [
    Case(1, (64, 64), 16, 16, 3, padding=1),
    Case(1, (64, 64), 64, 64, 3, padding=1),
    Case(1, (4096,), 32, 32, 9, padding=4),
    Case(1, (16, 16, 16), 16, 16, 3, padding=1),
]
BATCHES = [
    Case(64, (28, 28), 32, 32, 3, padding=1),
    Case(64, (64, 64), 16, 16, 3, padding=1),
    Case(64, (512,), 32, 32, 5, padding=2),
    Case(64, (12, 12, 12), 16, 16, 3, padding=1),
]
SPARSE = [(features, fan_in, batch) for features, fan_in in ((4096, 41), (4096, 410))
          for batch in (1, 16, 128)]  # fmt: skip


def milliseconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median device time of each call, taken in turn after a warm-up that also compiles."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 3):
        for name, call in calls.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            if turn >= 3:
                times[name].append(start.elapsed_time(stop))
    return {name: statistics.median(found) for name, found in times.items()}


def copy_rate(rounds: int) -> float:
    """Bytes read and written per millisecond by a copy of 1 GiB."""
    source = torch.empty(1024 * MIB, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds({"copy": lambda: target.copy_(source)}, rounds)["copy"]


def rotated(*tensors: Tensor) -> itertools.cycle:
    """Copies of some tensors in turn, so many that none is met in the cache again."""
    size = sum(tensor.nbytes for tensor in tensors)
    count = min(64, -(-CACHE // size) + 1)
    return itertools.cycle([tuple(tensor.clone() for tensor in tensors) for _ in range(count)])


def build(case: Case) -> torch.nn.Module:
    return getattr(sc.nn, f"LocallyConnected{case.dimension}d")(*case.arguments, device=DEVICE)


def maps(layer: torch.nn.Module, x: Tensor, back: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients to the input and the weight."""
    y = torch.func.functional_call(layer, {"weight": weight}, (x,))
    return y, *torch.autograd.grad(y, (x, weight), back)


def check(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], what: str) -> None:
    for one, other in zip(found, wanted, strict=True):
        error = ((one - other).norm() / other.norm()).item()
        if not error < 1e-5:
            raise SystemExit(f"{what}: wrong by {error:.1e}; nothing was timed")


def alone(case: Case, rate: float, rounds: int) -> dict[str, Any]:
    """Each map at batch 1, as a share of the rate of copying."""
    layer, x = build(case), torch.randn(case.batch, case.into, *case.size, device=DEVICE)
    back, weight = torch.randn_like(layer(x)), layer.weight.detach()
    checked = x.requires_grad_(), back, weight.clone().requires_grad_()
    with sc.kernels.use("reference"):
        wanted = maps(layer, *checked)
    check(maps(layer, *checked), wanted, str(case))
    x, n = x.detach(), case.dimension
    geometry = ([case.stride] * n, [case.padding] * 2 * n, [case.dilation] * n, case.groups)
    from symconv.kernels.triton import local  # triton may be absent where this file is only read

    filters = weight.flatten(0, n - 1)
    turn, shape = rotated(filters), filters.shape
    calls = {
        "forward": lambda: local.forward(x, *next(turn), None, None, *geometry),
        "to input": lambda: local.adjoint(back, *next(turn), None, case.size, *geometry),
        "to weight": lambda: local.weight_gradient(x, back, None, shape, *geometry),
    }
    moved = weight.nbytes + x.nbytes + back.nbytes
    times = milliseconds(calls, rounds)
    row = {"case": str(case), "MB": moved / 1e6}
    return row | {f"{name} share": moved / ms / rate for name, ms in times.items()}


def pass_of(function: Callable, turn: itertools.cycle, x: Tensor) -> Callable[[], Tensor]:
    """A forward pass with the next copy of the parameters."""
    return lambda: function(x, *next(turn))


def step_of(function: Callable, turn: itertools.cycle, x: Tensor, back: Tensor) -> Callable:
    """A forward and backward pass with the next copy of the parameters."""

    def step() -> tuple[Tensor, ...]:
        operands = [tensor.detach().requires_grad_() for tensor in (x, *next(turn))]
        return torch.autograd.grad(function(*operands), operands, back)

    return step


def batches(case: Case, rounds: int) -> dict[str, Any]:
    """Forward pass and training step against other ways in torch, as ratios."""
    layer, x = build(case), torch.randn(case.batch, case.into, *case.size, device=DEVICE)
    back, weight = torch.randn_like(layer(x)), layer.weight.detach()

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    parameters = weight, layer.bias.detach()
    functions = {"ours": (ours, rotated(*parameters))}
    for name, way in WAYS.items():
        packed = way.pack(case, *canonical(case, *parameters))
        functions[name] = (lambda x, w, b, f=way.call: f(case, x, w, b), rotated(*packed))
    with sc.kernels.use("reference"):
        wanted = ours(x, *parameters)
        to_x, to_weight, _ = step_of(ours, functions["ours"][1], x, back)()
    for name, (function, turn) in functions.items():
        gradients = step_of(function, turn, x, back)()
        found = function(x, *next(turn)), *gradients[: 2 if name == "ours" else 1]
        check(found, (wanted, to_x, to_weight)[: len(found)], f"{case}, {name}")
    row: dict[str, Any] = {"case": str(case)}
    for title, training in (("forward", False), ("training", True)):
        calls = {
            name: step_of(*function, x, back) if training else pass_of(*function, x)
            for name, function in functions.items()
        }
        with torch.set_grad_enabled(training):
            times = milliseconds(calls, rounds)
        ours = times.pop("ours")
        best = min(times, key=times.__getitem__)
        row |= {
            f"{title} ms": ours,
            f"{title}, best torch": times[best] / ours,
            f"{title} by": best,
        }
    return row


def sparse(features: int, fan_in: int, batch: int, rounds: int) -> dict[str, Any]:
    """Forward pass against torch's compressed rows and the dense product, as ratios."""
    layer = sc.nn.SparseLinear(features, features, fan_in, bias=False, device=DEVICE)
    x, starts = torch.randn(batch, features, device=DEVICE), torch.arange(features + 1) * fan_in
    dense = torch.zeros(features, features, device=DEVICE)
    dense.scatter_(1, layer.connections.long(), layer.weight.detach())
    columns = layer.connections.flatten().int()
    rows = torch.sparse_csr_tensor(
        starts.int().to(DEVICE),
        columns,
        layer.weight.detach().flatten(),
        dense.shape,
        check_invariants=False,
    )
    calls = {
        "ours": lambda: layer(x),
        "torch CSR": lambda: (rows @ x.t()).t(),
        "dense": lambda: x @ dense.t(),
    }
    with torch.no_grad():
        check((calls["ours"](), calls["torch CSR"]()), (calls["dense"](),) * 2, f"sparse {fan_in}")
        times = milliseconds(calls, rounds)
    ours = times.pop("ours")
    row = {"features": features, "fan-in": fan_in, "batch": batch, "ms": ours}
    return row | {name: ms / ours for name, ms in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="local and sparse layers on a GPU")
    parser.add_argument("--rounds", type=int, default=30, help="passes of each call")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use: nothing was measured")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    rate = copy_rate(options.rounds)
    report = {
        "conditions": conditions() | {"gpu": torch.cuda.get_device_name()},
        "bars": BARS,
        "copy GB/s": rate / 1e6,
        "batch 1": [alone(case, rate, options.rounds) for case in ALONE],
        "batch 64": [batches(case, options.rounds) for case in BATCHES],
        "sparse": [sparse(*case, options.rounds) for case in SPARSE],
    }
    print(f"{report['conditions']['gpu']}: copies at {report['copy GB/s']:.0f} GB/s")
    show("batch 1: share of the rate of copying", report["batch 1"])
    show("batch 64: times as long as ours", report["batch 64"])
    show("sparse: times as long as ours", report["sparse"])
    if options.json:
        save(report, options.json)


if __name__ == "__main__":
    main()
