"""Group convolution against torch's plain convolution of equal width, and escnn where it is.

    python benchmarks/group.py [--rounds 30] [--json group.json]

Construction of a ResNet of 3 stages, training steps (forward and backward), inference with the kept
filter, and peak memory. Answers are checked first: the layer must equal its plain twin to the last
bit and be equivariant. Steps of both are interleaved, and the ratio is that of their medians (of
their minima beside it: less moved by other work on the machine). One thread; processor time, which
equals elapsed time on a quiet machine and leaves out waiting on a busy one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import warnings

import torch
from timing import (
    against_plain,
    conditions,
    interleaved,
    medians,
    milliseconds,
    resident,
    show,
    step,
)
from torch import nn

import symconv as sc
from symconv.testing import assert_equivariant

BARS = {"construct": 20.0, "step": 1.05, "tiny step": 1.2, "memory": 1.1}
CASES = [  # group, channels, batch, size, bar
    ("C4", 64, 16, 64, "step"),
    ("D4", 64, 16, 64, "step"),
    ("D4", 256, 2, 8, "tiny step"),
    ("C4", 256, 2, 8, "tiny step"),
]


def resnet(layer, blocks: int = 1) -> nn.ModuleList:
    """The convolutions of a residual network: 64, 128, 256 channels, some blocks a stage."""
    made, before = [layer(None, 64, 3)], 64
    for width in (64, 128, 256):
        for _ in range(blocks):
            made += [layer(before, width, 3), layer(width, width, 3)]
            if before != width:
                made.append(layer(before, width, 1))
            before = width
    return nn.ModuleList(made)


def plain_layer(into: int | None, out: int, kernel: int) -> nn.Module:
    return nn.Conv2d(into or 3, out, kernel, padding=kernel // 2)


def group_layer(name: str):
    group = sc.groups.parse(name)

    def layer(into: int | None, out: int, kernel: int) -> nn.Module:
        before = group.trivial(3) if into is None else group.regular(into // group.order)
        after = group.regular(out // group.order)
        return sc.nn.GroupConv2d(before, after, kernel, padding=kernel // 2)

    return layer


def escnn_layer(name: str):
    """The same layers by escnn.

    Raises:
        ImportError: It is not installed.
    """
    from escnn import gspaces
    from escnn import nn as enn

    space = gspaces.rot2dOnR2(4) if name == "C4" else gspaces.flipRot2dOnR2(4)
    order = 4 if name == "C4" else 8

    def layer(into: int | None, out: int, kernel: int) -> nn.Module:
        first = [space.trivial_repr] * 3
        before = first if into is None else [space.regular_repr] * (into // order)
        fields = (enn.FieldType(space, f) for f in (before, [space.regular_repr] * (out // order)))
        return enn.R2Conv(*fields, kernel, padding=kernel // 2)

    return layer


def check(layer: nn.Module, group, size: int) -> None:
    """The layer is equivariant to the last bit and equals its plain twin."""
    field = layer.in_field
    assert_equivariant(layer, field, layer.out_field, min(size, 8), batch=1, integers=True)
    x = torch.randn(1, field.channels, size, size)
    assert torch.equal(layer(x), layer.to_conv()(x)), "the plain twin gives another answer"


def construction(name: str, blocks: int, rounds: int) -> dict:
    """Milliseconds to construct the network, in a new process (nothing remembered) and again."""
    code = (
        "import sys, time; sys.path.insert(0, 'benchmarks'); import group; "
        "group.torch.set_num_threads(1); group.resnet(group.plain_layer); "
        "import symconv.nn; start = time.process_time(); "
        f"group.resnet(group.group_layer({name!r}), {blocks}); "
        "print(1e3 * (time.process_time() - start))"
    )
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    calls = {
        "ours": lambda: resnet(group_layer(name), blocks),
        "plain": lambda: resnet(plain_layer, blocks),
    }
    times = medians(interleaved(calls, rounds))
    row = {"group": name, "blocks": blocks, "first": statistics.median(runs), **times}
    try:
        row["escnn"] = milliseconds(lambda: resnet(escnn_layer(name), blocks), 1)[0]
    except ImportError:
        row["escnn"] = None
    row["first, quickest"] = min(runs)
    bar = BARS["construct"]
    return row | {"bar": bar, "met": max(row["first"], row["ours"]) <= bar}


def training(name: str, channels: int, batch: int, size: int, bar: str, rounds: int) -> dict:
    """Training step and inference of one layer, as ratios to the plain convolution."""
    layer = group_layer(name)(channels, channels, 3)
    check(layer, sc.groups.parse(name), size)
    row = {"group": name, "channels": channels, "batch": batch, "size": size}
    row |= against_plain(layer, batch, size, rounds)
    return row | {"bar": BARS[bar], "met": row["median ratio"] <= BARS[bar]}


def peak(kind: str) -> float:
    """MiB that training steps of one kind of layer add to this process at their peak."""
    torch.set_num_threads(1)
    name, case = kind.split()
    channels, batch, size = (64, 16, 64) if case == "large" else (256, 2, 8)
    tiny = torch.randn(1, 8, 8, 8, requires_grad=True)
    step(plain_layer(8, 8, 3), tiny, torch.zeros(1, 8, 8, 8))
    make = plain_layer if name == "plain" else group_layer(name)
    step(make(8, 8, 3), tiny, torch.zeros(1, 8, 8, 8))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from here
    before = resident("VmRSS")
    layer = make(channels, channels, 3)
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    for _ in range(3):
        step(layer, x, torch.randn(batch, channels, size, size))
    return resident("VmHWM") - before


def memory() -> list[dict]:
    """Peak memory of training steps, each kind in processes of its own."""
    rows = []
    for case in ("large", "tiny"):
        peaks = {}
        for kind in ("plain", "C4", "D4"):
            command = [sys.executable, __file__, "--peak", f"{kind} {case}"]
            runs = [float(subprocess.run(command, capture_output=True, check=True).stdout)
                    for _ in range(5)]  # fmt: skip
            peaks[kind] = statistics.median(runs)
        for name in ("C4", "D4"):
            ratio = peaks[name] / peaks["plain"]
            row = {"group": name, "case": case, "MiB": peaks[name], "plain": peaks["plain"]}
            bar = BARS["memory"]
            rows.append(row | {"ratio": ratio, "bar": bar, "met": ratio <= bar})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report = conditions() | {
        "construction of a ResNet, ms": [
            construction(g, blocks, options.rounds) for blocks in (1, 2) for g in ("C4", "D4")
        ],
        "training step against plain": [training(*c, options.rounds) for c in CASES],
        "peak memory of training": memory(),
    }
    for title, rows in report.items():
        if isinstance(rows, list):
            show(title, rows)
    if report["construction of a ResNet, ms"][0]["escnn"] is None:
        print("\nescnn is not installed: skipped")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
