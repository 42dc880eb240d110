"""What the benchmarks share: calls timed in turn, a training step, a table."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import symconv as sc
from symconv.report.html import write_atomically

Clock = Callable[[], float]


def clock(threads: int) -> Clock:
    """Processor time, which leaves out waiting for it; of several threads elapsed time."""
    return time.process_time if threads == 1 else time.perf_counter


def milliseconds(
    call: Callable[[], Any], rounds: int, clock: Clock = time.process_time
) -> list[float]:
    """Time of each call."""
    times = []
    for _ in range(rounds):
        start = clock()
        call()
        times.append(1e3 * (clock() - start))
    return times


def interleaved(
    calls: dict[str, Callable[[], Any]], rounds: int, warm: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of several calls, taken in turn so that all meet the same disturbances."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        milliseconds(call, warm)
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += milliseconds(call, 1)
    return times


def bursts(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Clock, seconds: float = math.inf
) -> dict[str, list[float]]:
    """As `interleaved`, for calls of all lengths: short ones are repeated within their turn.

    A turn lasts 2 ms or more where 20 calls do, and counts as the mean of its calls. Every second
    round goes backwards, so that nobody always follows the same neighbour. After `seconds` no
    further round begins, three at least.
    """
    repeats = {}
    for name, call in calls.items():
        first, again = milliseconds(call, 2, clock)
        repeats[name] = min(20, max(1, math.ceil(2 / max(min(first, again), 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begun > seconds:
            break
        for name in list(calls)[:: 1 if number % 2 else -1]:
            times[name].append(statistics.fmean(milliseconds(calls[name], repeats[name], clock)))
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median of each call's times."""
    return {name: statistics.median(found) for name, found in times.items()}


def step(layer: nn.Module, x: torch.Tensor, back: torch.Tensor) -> None:
    """One forward and backward pass, gradients fresh as after `zero_grad()`."""
    x.grad = None
    layer.zero_grad()
    layer(x).backward(back)


def against_plain(layer: nn.Module, batch: int, size: int, rounds: int) -> dict[str, float]:
    """Training step and inference of a layer with `to_conv()`, as ratios to that convolution.

    Small cases are timed in four times as many rounds.
    """
    plain, shape = layer.to_conv(), (batch, layer.in_channels, size, size)
    x = torch.randn(shape, requires_grad=True)
    back = torch.randn_like(layer(x))
    rounds = rounds if size > 16 else 4 * rounds
    row: dict[str, float] = {}
    both = {"ours": layer, "plain": plain}
    times = interleaved({k: lambda f=f: step(f, x, back) for k, f in both.items()}, rounds)
    for statistic in (statistics.median, min):
        ours, theirs = (statistic(times[key]) for key in both)
        row |= {f"{statistic.__name__} ms": ours, f"{statistic.__name__} ratio": ours / theirs}
    layer.eval()
    with torch.no_grad():
        found = medians(interleaved({k: lambda f=f: f(x) for k, f in both.items()}, rounds))
    return row | {"inference ratio": found["ours"] / found["plain"]}


def resident(name: str) -> float:
    """MiB that this process holds now (VmRSS) or held at its peak (VmHWM); Linux."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024


def conditions() -> dict[str, Any]:
    """Versions, device and threads: what a result is worth nothing without."""
    return {
        "versions": {"torch": torch.__version__, "symconv": sc.__version__,
                     "python": platform.python_version()},
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def save(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    write_atomically(path, json.dumps(report, indent=2) + "\n")


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    names = list(rows[0])
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
