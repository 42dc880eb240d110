"""What an audit costs: counts, receptive field, the whole of it, and its memory.

    python benchmarks/audit.py [--rounds 5] [--json audit.json]

Answers are checked first: the counts of ResNet-18 against the published ones, its receptive field
against 435. Forward passes and audits are taken in turns, processor time on one thread, medians.
The whole audit may take (1 + 2 T) forward passes, T transforms, plus 2 s. Memory: what torch's
allocator held at its peak during a call, weights and input included; and the peak of the resident
memory of processes of their own, which also holds code that is loaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import conditions, interleaved, medians, resident, show
from torch import Tensor, nn

import symconv as sc
from symconv.cost.measure import peak_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "auditing"))
BARS = {"counts": 0.2, "receptive field": 1.0, "beyond the passes": 2.0, "memory": 1.5}
NETWORKS = ("resnet18", "mobilenet_v2", "convnext_t", "vit_b_16")
PARTS = ("counts", "receptive_field", "equivariance", "sizes")


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = getattr(importlib.import_module("networks"), name)().eval()
    return model, torch.randn(1, 3, 224, 224)


def only(*parts: str) -> dict[str, bool]:
    return {part: part in parts for part in PARTS}


def forward(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return model(x)

    return run


def seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of several calls, taken in turn."""
    times = medians(interleaved(calls, rounds, warm=1))
    return {name: found / 1e3 for name, found in times.items()}


def parts(rounds: int) -> list[dict]:
    """The parts of ResNet-18's audit by themselves, after a check of what they find."""
    model, x = network("resnet18")
    total = sc.audit(model, x, **only("counts")).total
    if (total.macs, total.parameters) != (1_814_073_344, 11_689_512):
        raise SystemExit(f"the counts are wrong: {total}")
    report = sc.audit(model, x, **only("receptive_field"))
    fields = [row.receptive_field for row in report.layers if row.name == "layer4.1.conv2"]
    if [(field.size, field.stride) for field in fields] != [((435, 435), (32, 32))]:
        raise SystemExit(f"the receptive field is wrong: {fields}")
    calls = {"forward": forward(model, x)}
    for part in PARTS:
        calls[part] = lambda part=part: sc.audit(model, x, **only(part))
    times = seconds(calls, rounds)
    rows = []
    for part, taken in times.items():
        bar = BARS.get(part.replace("_", " "))
        met = "" if bar is None else taken <= bar
        rows.append({"part": part, "s": taken, "bar": "" if bar is None else bar, "met": met})
    return rows


def whole(name: str, rounds: int) -> dict:
    """The default audit against forward passes of the same network."""
    model, x = network(name)
    rows = sc.audit(model, x).equivariance
    transforms = len({row.transform for row in rows or ()})
    calls = {"forward": forward(model, x), "audit": lambda: sc.audit(model, x)}
    times = seconds(calls, rounds)
    passes = (1 + 2 * transforms) * times["forward"]
    bar = passes + BARS["beyond the passes"]
    return {
        "network": name,
        "transforms": transforms,
        "forward s": times["forward"],
        "audit s": times["audit"],
        "bar s": bar,
        "met": times["audit"] <= bar,
    }


def memory(name: str) -> dict:
    """Peaks of a forward pass and of the default audit, and their ratios."""
    model, x = network(name)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), x))
    calls = {"forward": forward(model, x), "audit": lambda: sc.audit(model, x)}
    tensors = {}
    for kind, call in calls.items():
        call()
        tensors[kind] = (held + peak_bytes(call)) / 2**20
    resident = {kind: process_peak(name, kind) for kind in calls}
    ratio = tensors["audit"] / tensors["forward"]
    return {
        "network": name,
        "forward MiB": tensors["forward"],
        "audit MiB": tensors["audit"],
        "ratio": ratio,
        "bar": BARS["memory"],
        "met": ratio <= BARS["memory"],
        "process, forward": resident["forward"],
        "process, audit": resident["audit"],
    }


def process_peak(name: str, kind: str) -> float:
    """MiB at the peak of a process that does nothing else; Linux."""
    command = [sys.executable, __file__, "--peak", f"{name} {kind}"]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def peak(task: str) -> float:
    name, kind = task.split()
    model, x = network(name)
    if kind == "audit":
        sc.audit(model, x)
    else:
        forward(model, x)()
    return resident("VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.peak:
        print(peak(options.peak))
        return
    names = options.networks.split(",")
    report = conditions()
    tables: dict[str, Callable[[], list[dict]]] = {
        "ResNet-18 at 224, one part each": lambda: parts(options.rounds),
        "the whole audit at 224": lambda: [whole(name, options.rounds) for name in names],
        "memory at 224": lambda: [memory(name) for name in names],
    }
    for title, table in tables.items():
        report[title] = table()
        show(title, report[title])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
