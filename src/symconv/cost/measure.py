"""Measures what `symconv.cost.table` counts, on the real layers: forward time and peak memory."""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import symconv.nn
from symconv.cost.counts import Cost, Table
from symconv.errors import StructureError

ROUNDS = 15
FEWEST_ROUNDS = 3
SECONDS = 3.0  # after which no further round begins
HOMES = {"local": "LocallyConnected", "tiled": "TiledConv", "conv": "Conv"}
SHARE = 4  # layers may take this part of the free memory: to make one takes more for a moment


@dataclass(frozen=True)
class Measured:
    """What one structure took for one item, forward, without gradients.

    Attributes:
        kind: The structure.
        seconds: Median over the passes.
        fastest: Shortest pass, in seconds.
        passes: Passes that were timed.
        layer_bytes: Weights and buffers.
        input_bytes: The input.
        forward_bytes: The most that a pass held beyond these: its output and its workspace.
        threads: Threads torch ran on.
        skipped: Why it was not run; None if it was.
    """

    kind: str
    seconds: float
    fastest: float
    passes: int
    layer_bytes: int
    input_bytes: int
    forward_bytes: int
    threads: int
    skipped: str | None = None

    @property
    def peak_bytes(self) -> int:
        """Layer, input and the most that the pass added."""
        return self.layer_bytes + self.input_bytes + self.forward_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every figure by name; of a structure that did not run, its name and why."""
        if self.skipped is not None:
            return {"kind": self.kind, "threads": self.threads, "skipped": self.skipped}
        return asdict(self) | {"peak_bytes": self.peak_bytes}


def measure(costs: Table, limit: int | None = None, seconds: float = SECONDS) -> list[Measured]:
    """Run every structure of the table that fits into memory, in interleaved passes on the CPU.

    Memory is what torch's allocator gave out, exactly; what a library keeps for itself is not
    seen. Times are of this machine, at torch's current number of threads.

    Args:
        costs: What to build.
        limit: Bytes that all layers together may take; a quarter of the free memory if left out.
        seconds: When this time is over no further round of passes begins.

    Returns:
        One entry a structure, in the table's order; those that did not run say why.

    Raises:
        StructureError: `limit` or `seconds` is negative.

    Example:
        >>> from symconv.cost import table
        >>> dense, *_, conv = measure(table((1, 8, 8), 3), seconds=0)
        >>> dense.layer_bytes, conv.layer_bytes, conv.passes
        (9216, 36, 3)
    """
    if min(seconds, limit or 0) < 0:
        raise StructureError("seconds and limit of at least 0", f"{seconds} and {limit}")
    limit = free_memory() // SHARE if limit is None else limit
    passes: dict[str, Callable[[], Tensor]] = {}
    held: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    left = limit
    for cost in sorted(costs.costs, key=lambda c: c.total_bytes):
        if cost.total_bytes > left:
            skipped[cost.kind] = (
                f"it takes {cost.total_bytes:,} bytes; {left:,} are left of {limit:,} allowed"
            )
            continue
        if cost.kind in HOMES and costs.window.dimension > 3:
            skipped[cost.kind] = "layers exist in 1-D to 3-D"
            continue
        try:
            layer, x = _build(costs, cost)
            passes[cost.kind] = _pass(layer, x)
            passes[cost.kind]()
        except (
            RuntimeError
        ) as error:  # a type that the CPU has no kernel for, or no memory after all
            passes.pop(cost.kind, None)
            skipped[cost.kind] = str(error).splitlines()[0]
            continue
        left -= cost.total_bytes
        held[cost.kind] = _bytes([*layer.parameters(), *layer.buffers()]), _bytes([x])
    times = _time(passes, seconds)
    return [_row(cost.kind, skipped, times, held, passes) for cost in costs.costs]


def _row(
    kind: str,
    skipped: dict[str, str],
    times: dict[str, list[float]],
    held: dict[str, tuple[int, int]],
    passes: dict[str, Callable[[], Tensor]],
) -> Measured:
    threads = torch.get_num_threads()
    if kind in skipped:
        return Measured(kind, 0.0, 0.0, 0, 0, 0, 0, threads, skipped[kind])
    took = times[kind]
    peak = peak_bytes(passes[kind])
    median = statistics.median(took)
    return Measured(kind, median, min(took), len(took), *held[kind], peak, threads)


def _build(costs: Table, cost: Cost) -> tuple[nn.Module, Tensor]:
    """The real layer of one structure, and an input for it."""
    window, size = costs.window, costs.input_shape[1:]
    uneven = any(before != after for before, after in window.padding)
    options: dict[str, Any] = {
        "stride": window.stride,
        "padding": "same" if uneven else tuple(before for before, _ in window.padding),
        "dilation": window.dilation,
        "groups": costs.groups,
        "padding_mode": window.padding_mode,
    }
    shape = costs.input_shape[0], costs.output_shape[0], window.kernel_size
    rest: dict[str, Any] = {"bias": False, "dtype": getattr(torch, costs.dtype)}
    x = torch.randn(1, *costs.input_shape).to(rest["dtype"])
    if cost.kind == "dense":
        return nn.Linear(cost.inputs, cost.outputs, **rest), x.flatten(1)
    if cost.kind == "sparse":
        layer = symconv.nn.SparseLinear(cost.inputs, cost.outputs, cost.fan_in, **rest)
        return layer, x.flatten(1)
    home = nn if cost.kind == "conv" else symconv.nn
    make = getattr(home, f"{HOMES[cost.kind]}{window.dimension}d")
    own = {"local": {"input_size": size}, "tiled": {"tile": costs.tile}}.get(cost.kind, {})
    return make(*shape, **own, **options, **rest), x


def _pass(layer: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return layer(x)

    return run


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _time(passes: dict[str, Callable[[], Tensor]], seconds: float) -> dict[str, list[float]]:
    """Time of every pass, the structures taking turns so that a slow moment meets them all."""
    times: dict[str, list[float]] = {kind: [] for kind in passes}
    begin = time.perf_counter()
    for done in range(ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for kind, run in passes.items():
            start = time.perf_counter()
            run()
            times[kind].append(time.perf_counter() - start)
    return times


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that torch's CPU allocator held during a call beyond what was there before.

    Example:
        >>> peak_bytes(lambda: torch.ones(1000, dtype=torch.float64))
        8000
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        trace = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            result = run()
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    del result  # until here, so that the result counts
    steps = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == 0]
    held = peak = 0
    for step in sorted(steps, key=lambda e: e["args"]["Ev Idx"]):
        held += step["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler's log lines, which it writes past Python, off the terminal."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def free_memory() -> int:
    """Bytes that this process can still take, as far as the system tells: a container's too."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found is None:  # no Linux: half of what the machine has
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = int(found[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        most, now = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return free
    return max(0, min(free, most - now))
