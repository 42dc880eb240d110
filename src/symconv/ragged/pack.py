"""Which items share a canvas: the padding they cost against the steps they save.

A canvas of n items and S cells each takes a network about

    time = per_canvas + per_cell * n * S,

whatever the network, if time is counted in cells: a canvas more costs as much as `CANVAS` cells
more. Items are sorted and cut into runs, each a canvas as large as its largest item on every axis,
so that the sum is least (dynamic programming over the cuts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

# Cells of the input that cost as much time as one more canvas, by device. CPU: ResNet-18 in
# inference, one thread of an AMD EPYC, torch 2.13: 6.7 ms for a canvas and 1.15 us for a cell of
# width 64 (5,800 cells), 1.5 ms and 0.1 to 0.16 us of width 16 (9,500 to 16,000). GPU: not
# measured: an estimate from 60 kernels of 10 us a canvas and 4 ns a cell.
CANVAS = {"cpu": 8_000, "cuda": 150_000}


def canvases(
    sizes: Sequence[tuple[int, ...]], multiple_of: int = 1, device: str = "cpu"
) -> list[tuple[list[int], tuple[int, ...]]]:
    """The items of each canvas, by number, and its size.

    Args:
        sizes: Cells of each item along each axis.
        multiple_of: Canvases are a multiple of this many cells along each axis.
        device: The kind of device, "cpu" or "cuda".

    Example:
        >>> canvases([(200, 200), (20, 24), (24, 20), (200, 190)])
        [([1, 2], (24, 24)), ([3, 0], (200, 200))]
    """
    rounded = [tuple(-(-s // multiple_of) * multiple_of for s in size) for size in sizes]
    kinds = sorted(set(rounded))
    if len(kinds) == 1:
        return [(_sorted(range(len(sizes)), sizes), kinds[0])]
    counts = {kind: rounded.count(kind) for kind in kinds}
    launch = CANVAS.get(device, CANVAS["cuda"])
    largest = tuple(map(max, zip(*kinds, strict=True)))
    if len(sizes) * prod(largest) - sum(prod(kind) * counts[kind] for kind in kinds) <= launch:
        return [(_sorted(range(len(sizes)), sizes), largest)]  # no cut saves as much as it costs
    best: tuple[float, list[list[tuple[int, ...]]]] | None = None
    for order in {tuple(sorted(kinds, key=key)) for key in _keys(len(kinds[0]))}:
        found = _cut(order, [counts[kind] for kind in order], launch)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    made = []
    for run in best[1]:
        inside = set(run)
        items = _sorted([k for k, kind in enumerate(rounded) if kind in inside], sizes)
        made.append((items, tuple(max(axis) for axis in zip(*run, strict=True))))
    return made


def _sorted(items: Iterable[int], sizes: Sequence[tuple[int, ...]]) -> list[int]:
    return sorted(items, key=lambda item: (prod(sizes[item]), sizes[item], item))


def _keys(axes: int) -> list:
    return [
        lambda size: (prod(size), size),
        *(lambda size, a=a: (size[a], size) for a in range(axes)),
    ]


def _cut(
    order: Sequence[tuple[int, ...]], counts: Sequence[int], launch: float
) -> tuple[float, list[list[tuple[int, ...]]]]:
    """The cheapest cuts of a sorted list of sizes, each with so many items."""
    sizes, many = np.array(order, dtype=np.float64), np.array(counts, dtype=np.float64)
    cost, start = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=int)
    for end in range(1, len(order) + 1):
        largest = np.maximum.accumulate(sizes[end - 1 :: -1] if end else sizes[:0], axis=0)
        items = np.cumsum(many[end - 1 :: -1])
        total = cost[end - 1 :: -1][:end] + launch + items * largest.prod(1)
        choice = int(total.argmin())
        cost[end], start[end] = total[choice], end - 1 - choice
    runs, end = [], len(order)
    while end:
        runs.append(list(order[start[end] : end]))
        end = int(start[end])
    return float(cost[-1]), runs[::-1]
