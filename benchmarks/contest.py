"""Ways to compute one layer, held to the same answer and then timed in turn.

A contender has `forward()`, which gives the output, and `training()`, which gives output and
gradients to input, weight and bias, all allocated anew; one that cannot train has no `training`.
Both take the next of several copies of the parameters, together twice as large as the last cache,
so that weights come from memory as they do in a network.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from limits import copies, measured, pin
from memory import apart, in_process
from timing import bursts, clock, conditions, save, show, step
from torch import Tensor, nn

import symconv as sc

TOLERANCE = 1e-5  # of the largest entry: float32, sums in another order
LIMITS = {"of read bandwidth": 0.85, "of peak": 0.70}  # at batch 1; from batch 16 on
Arrays = tuple[Tensor, ...]  # output; or output and gradients to input, weight, bias


class Problem(NamedTuple):
    """One case: the layer as users build it, an input, a gradient from behind, the answers."""

    layer: nn.Module
    x: Tensor
    back: Tensor
    answers: Arrays

    @classmethod
    def of(cls, layer: nn.Module, x: Tensor) -> Problem:
        """The answers are those of the reference path."""
        kernels: Any = getattr(sc, "kernels", None)
        use = getattr(kernels, "use", contextlib.nullcontext)
        x = x.detach().requires_grad_()
        with use("reference"):
            y = layer(x)
            back = torch.randn_like(y)
            gradients = torch.autograd.grad(y, (x, layer.weight, layer.bias), back)
        return cls(layer, x, back, (y.detach(), *gradients))


class Packed(nn.Module):
    """A layer that computes `call(x, weight, bias)` with parameters in a layout of its own."""

    def __init__(self, call: Callable[..., Tensor], weight: Tensor, bias: Tensor):
        super().__init__()
        self.call = call
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """What the call gives."""
        return self.call(x, self.weight, self.bias)


class InTorch:
    """A contender made of modules, copies of each other."""

    def __init__(self, build: Callable[[], nn.Module], problem: Problem, extra: int = 0):
        first = build()
        size = sum(parameter_bytes(p) for p in first.parameters()) + extra
        layers = [first, *(build() for _ in range(copies(size) - 1))]
        self.turn, self.copies = itertools.cycle(layers), len(layers)
        self.x, self.back = problem.x, problem.back

    def forward(self) -> Tensor:
        """The output, without a graph."""
        with torch.no_grad():
            return next(self.turn)(self.x)

    def training(self) -> nn.Module:
        """A forward and backward pass of the next copy; its last gradients are freed before."""
        layer = next(self.turn)
        step(layer, self.x, self.back)
        return layer

    def answers(self) -> Arrays:
        """Output and gradients, as `training` leaves them."""
        layer = self.training()
        return self.forward(), self.x.grad, layer.weight.grad, layer.bias.grad


def parameter_bytes(parameter: Tensor) -> int:
    """Bytes of a tensor, of a sparse one with its indices."""
    parts = [parameter]
    if parameter.layout == torch.sparse_csr:
        parts = [parameter.values(), parameter.col_indices(), parameter.crow_indices()]
    return sum(part.numel() * part.element_size() for part in parts)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest entry."""
    if found.shape != expected.shape:
        raise SystemExit(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max())


def check(name: str, contender: Any, expected: Arrays) -> None:
    """Stop the benchmark where a contender's answers are not the expected ones.

    Raises:
        SystemExit: One of them is off by more than the tolerance.
    """
    trains = hasattr(contender, "training")
    found = contender.answers() if trains else (contender.forward(),)
    names = ("output", "to input", "to weight", "to bias")[: len(found)]
    for what, a, b in zip(names, found, expected[: len(found)], strict=True):
        error = relative(torch.as_tensor(a), b)
        if not error <= TOLERANCE:  # not a number is wrong, too
            raise SystemExit(f"{name}: {what} differs by {error:.1e} of its largest entry")


def raced(
    contenders: dict[str, Any], best: dict[str, tuple[str, ...]], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Forward passes and training steps of everybody: milliseconds, and ratios to ours.

    A ratio is how many times as long another takes, by the medians. `best` names the quickest of
    those whose names begin so.
    """
    results = {}
    for kind in ("forward", "training"):
        calls = {n: getattr(c, kind) for n, c in contenders.items() if hasattr(c, kind)}
        for name, call in calls.items():  # what a copy keeps from its first call is not timed
            for _ in range(getattr(contenders[name], "copies", 1)):
                call()
        times = bursts(calls, options.rounds, clock(options.threads), options.seconds)
        medians = {name: statistics.median(found) for name, found in times.items()}
        ratios = {n: found / medians["ours"] for n, found in medians.items() if n != "ours"}
        for title, names in best.items():
            present = [ratio for name, ratio in ratios.items() if name.startswith(names)]
            ratios |= {title: min(present)} if present else {}
        least = {name: min(found) for name, found in times.items()}
        rounds = len(times["ours"])
        results[kind] = {"ms": medians, "least ms": least, "ratio": ratios, "rounds": rounds}
    return results


def shares(
    case: Any, calls: dict[str, Callable[[], Any]], limits: dict[str, float],
    gigabytes: float, products: float, options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The kernel alone: bytes of weights a second, and arithmetic where the batch is large."""
    with torch.no_grad():
        times = bursts(calls, options.rounds, clock(options.threads), options.seconds)
    for kind, found in times.items():
        seconds = statistics.median(found) / 1e3
        read, peak = gigabytes / seconds, 2e-9 * products / seconds
        yield {"case": str(case), "kind": kind, "ms": 1e3 * seconds,
               "of read bandwidth": read / limits["read, GB/s"] if case.batch == 1 else "",
               "of peak": peak / limits["peak, GFLOP/s"] if case.batch >= 16 else ""}  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per case: our milliseconds (median and least), the ratios to the others."""
    names = list(dict.fromkeys(n for result in results.values() for n in result["ratio"]))
    return [
        {"case": case, "ours ms": result["ms"]["ours"], "least": result["least ms"]["ours"]}
        | {name: result["ratio"].get(name, "") for name in names}
        for case, result in results.items()
    ]


class Bar(NamedTuple):
    """Our speed over one contender's: the geometric mean that is asked for, of cases named so."""

    against: str
    forward: float
    training: float
    cases: str = ""


def verdicts(results: dict[str, dict[str, Any]], bars: list[Bar]) -> Iterator[dict[str, Any]]:
    """A row per bar: the mean, and the worst case, which must be at least 1."""
    for bar, kind in itertools.product(bars, results):
        found = {
            case: result["ratio"][bar.against]
            for case, result in results[kind].items()
            if bar.cases in case and bar.against in result["ratio"]
        }
        if not found:
            continue
        mean, worst = statistics.geometric_mean(found.values()), min(found, key=found.__getitem__)
        asked = getattr(bar, kind)
        yield {
            "against": bar.against,
            "cases": len(found),
            "kind": kind,
            "mean": mean,
            "bar": asked,
            "least": found[worst],
            "in": worst,
            "met": "met" if mean >= asked and found[worst] >= 1 else "missed",
        }


def share_verdicts(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The kernel alone against the limits: the geometric mean of the shares, and the least."""
    for limit, asked in LIMITS.items():
        for kind in dict.fromkeys(row["kind"] for row in rows):
            found = {r["case"]: r[limit] for r in rows if r["kind"] == kind and r[limit] != ""}
            if not found:
                continue
            worst = min(found, key=found.__getitem__)
            mean = statistics.geometric_mean(found.values())
            yield {"limit": limit, "kind": kind, "cases": len(found), "mean": mean, "bar": asked,
                   "least": found[worst], "in": worst,
                   "met": "met" if mean >= asked else "missed"}  # fmt: skip


class Contest(NamedTuple):
    """A benchmark: its cases, and what is measured of each."""

    file: str
    text: str  # the module's docstring
    cases: Sequence[Any]
    quick: Sequence[Any]
    race: Callable[[Any, argparse.Namespace], dict[str, dict[str, Any]]]
    alone: Callable[[Any, dict[str, float], argparse.Namespace], Iterator[dict[str, Any]]]
    held: Callable[[tuple[Any, str]], float]  # MiB beside operands and gradients, of one way
    holders: tuple[str, ...]  # the ways of which it is measured
    layouts: Callable[[Any], int]  # bytes of one copy of the input and of the output
    bars: list[Bar]

    def arguments(self) -> argparse.Namespace:
        """The command line."""
        parser = argparse.ArgumentParser(description=self.text.splitlines()[0])
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=15)
        parser.add_argument("--seconds", type=float, default=30, help="of rounds, case and kind")
        parser.add_argument("--cases", type=int, nargs="*", help="numbers from 0; default: all")
        parser.add_argument("--compile", action="store_true", help="torch.compile, too, if it can")
        parser.add_argument("--quick", action="store_true", help="tiny cases: does all of it run?")
        parser.add_argument("--json", type=Path)
        parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
        return parser.parse_args()

    def memory(self, options: argparse.Namespace, cases: Sequence[Any]) -> Iterator[dict]:
        """What training holds, measured in a process of its own, with the bound on ours."""
        told = ["--held", "--threads", str(options.threads), *["--quick"] * options.quick]
        told += [] if options.cases is None else ["--cases", *map(str, options.cases)]
        found = iter(in_process(self.file, *told))
        for case in cases:
            row = {name: next(found) for name in self.holders}
            bound = self.layouts(case) / 2**20 + 16
            met = "met" if row["ours"] <= bound else "missed"
            yield {"case": str(case)} | row | {"bound": bound, "met": met}

    def run(self) -> None:
        """Measure, print the tables, write the file."""
        options = self.arguments()
        pin(options.threads)
        warnings.simplefilter("ignore")
        cases = self.quick if options.quick else self.cases
        if options.cases is not None:
            cases = [cases[number] for number in options.cases]
        if options.held:
            found = apart(self.held, [(case, name) for case in cases for name in self.holders])
            print(json.dumps(found))
            return
        limits = measured(options.quick)
        report: dict[str, Any] = conditions() | {"limits": limits}
        print("\n".join(f"{key}: {value}" for key, value in report.items()))
        results: dict[str, dict[str, Any]] = {"forward": {}, "training": {}}
        for case in cases:
            for kind, result in self.race(case, options).items():
                results[kind][str(case)] = result
                ratios = ", ".join(f"{n} {r:.2f}" for n, r in result["ratio"].items())
                print(f"{case}, {kind}: {result['ms']['ours']:.3g} ms; {ratios}", flush=True)
        rows = [row for case in cases for row in self.alone(case, limits, options)]
        tables: dict[str, list[dict[str, Any]]] = {
            f"{kind}: times as long as ours": table(results[kind]) for kind in results
        }
        tables["the kernel alone"] = rows
        if not options.quick:
            tables["bars"] = list(verdicts(results, self.bars))
            tables["bars of the kernel alone"] = list(share_verdicts(rows))
        for title, found in tables.items():
            show(title, found)
        try:  # last: what was measured is told whatever becomes of other processes
            title = "MiB beside operands and gradients"
            tables[title] = list(self.memory(options, cases))
            show(title, tables[title])
        except subprocess.CalledProcessError as error:
            print(f"memory left out: {error}")
        if options.json:
            save(report | {"times": results} | tables, options.json)
