"""What this machine can do: cache, bandwidth, arithmetic and threads, measured in the same run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import clock, milliseconds

from symconv.kernels import native

MIB = 1 << 20
BUFFER = 512 * MIB  # read and copied: larger than any cache
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def pin(threads: int) -> None:
    """Hold torch, and libraries that are loaded later, to this many threads and processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.environ["XLA_FLAGS"] = f"{eigen} intra_op_parallelism_threads={threads}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {"NUMBA_NUM_THREADS": str(threads), "NUMBA_THREADING_LAYER": "workqueue"}
    torch.set_num_threads(threads)


def last_cache() -> int:
    """Bytes of the last cache that the first processor sees; 32 MiB where nobody says."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    if sizes:
        return max(int(size.rstrip("KM")) << (20 if size[-1] == "M" else 10) for size in sizes)
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or 32 * MIB
    except (OSError, ValueError):
        return 32 * MIB


def copies(size: int) -> int:
    """How many weights of `size` bytes, used in turn, are never met in the cache again.

    At most 128: weights below half a MiB are timed for a check of the program only.
    """
    return min(128, max(1, -(-2 * last_cache() // size)))


def rate(call: Callable[[], Any], work: float, rounds: int = 7) -> float:
    """Work per second in the best of some rounds, in thousands of millions."""
    call()
    return 1e-6 * work / min(milliseconds(call, rounds, clock(torch.get_num_threads())))


def measured(quick: bool = False) -> dict[str, float]:
    """Bandwidths in GB/s and arithmetic in GFLOP/s, by our extension where it measures them.

    Otherwise the bandwidth is that of a sum in torch, the arithmetic that of its matrix product;
    the larger figure counts.
    """
    size = BUFFER >> (6 if quick else 0)
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    square = torch.randn(1536, 1536)
    found = {
        "sum, GB/s": rate(source.sum, size),
        "copy (read and written), GB/s": rate(lambda: target.copy_(source), 2 * size),
        "sgemm, GFLOP/s": rate(lambda: torch.mm(square, square), 2 * len(square) ** 3),
    }
    found["read, GB/s"], found["peak, GFLOP/s"] = found["sum, GB/s"], found["sgemm, GFLOP/s"]
    if native.SET:
        threads, rounds = torch.get_num_threads(), 1 << (14 if quick else 20)
        source = native.empty(source, source.shape).fill_(1.0)  # in huge pages, as our weights are
        where = native.SET, source.data_ptr(), source.numel(), threads
        work = native._cpu.multiply_adds(native.SET, 1, threads) * rounds
        read = rate(lambda: native._cpu.read_once(*where), size)
        peak = rate(lambda: native._cpu.multiply_adds(native.SET, rounds, threads), work)
        found["read, GB/s"] = max(found["read, GB/s"], read)
        found["peak, GFLOP/s"] = max(found["peak, GFLOP/s"], peak)
    return found
