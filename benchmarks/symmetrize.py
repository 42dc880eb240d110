"""Symmetrised models against one call of the model: how exact, and how long it takes.

    python benchmarks/symmetrize.py [--rounds 15] [--repeats 3] [--json out.json]

A ResNet-18-like network of width 32 and a vision transformer (patch 8, width 128, depth 6), random
weights, in inference: the largest change of the scores, relative to the largest score, over the
eight elements of D4 (over sixteen random circular shifts for translations), and the time as a ratio
to the plain model. All are interleaved; a ratio is that of medians over the rounds, and its median,
least and most over the repeats are given. One thread; processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from timing import conditions, interleaved, medians, show
from torch import Tensor, nn

import symconv as sc
from symconv.conversion import Canonicaliser

CASES = {  # network: (batch, size), small ones too: there the choice of a pose weighs most
    "resnet": ((1, 64), (8, 64), (8, 128)),
    "vit": ((1, 64), (8, 64), (8, 128)),
}
BARS = {"D4 average": (1e-6, None), "D4 canonical": (0.0, 1.25)}  # change, time
SHIFTS = "translations canonical"


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside),
            nn.ReLU(), nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        plain = inside == outside
        self.around = nn.Identity() if plain else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        return torch.relu(self.around(x) + self.body(x))


def resnet(size: int, width: int = 32) -> nn.Module:
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    blocks, inside = [], width
    for level in range(4):
        for stride in ((1 if level == 0 else 2), 1):
            outside = width * 2**level
            blocks.append(Block(inside, outside, stride))
            inside = outside
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 100)
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head)


class ViT(nn.Module):
    """A vision transformer with learned positions: no symmetry of any kind."""

    def __init__(self, size: int, patch: int = 8, width: int = 128, depth: int = 6):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 100)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 100)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.layers(tokens).mean(1))


NETWORKS = {"resnet": resnet, "vit": ViT}


def contenders(model: nn.Module) -> dict[str, nn.Module]:
    """The plain model and what is made of it."""
    group = sc.groups.parse("D4")
    learned = Canonicaliser(group.trivial(3), width=1, shrink=8)
    return {
        "plain": model,
        "D4 average": sc.symmetrize(model, group),
        "D4 canonical": sc.symmetrize(model, group, "canonical"),
        "D4 canonical, learned": sc.symmetrize(
            model, group, "canonical", canonicaliser=learned
        ),
        SHIFTS: sc.symmetrize(model, "translations", "canonical"),
    }  # fmt: skip


def change(model: nn.Module, x: Tensor, shifts: bool) -> float:
    """How much scores change with the pose, at most, relative to the largest."""
    y, most = model(x), 0.0
    if shifts:
        drawn = torch.randint(x.shape[-1], (16, 2)).tolist()
        moved = (sc.translate(x, shift) for shift in drawn)
    else:
        moved = (sc.act(g, x) for g in sc.groups.parse("D4").elements)
    for each in moved:
        most = max(most, float((model(each) - y).abs().max() / y.abs().max()))
    return most


def run(name: str, batch: int, size: int, rounds: int, repeats: int) -> list[dict]:
    """One row a contender, its answers checked before anything is timed."""
    torch.manual_seed(0)
    models = contenders(NETWORKS[name](size).eval())
    x = torch.rand(batch, 3, size, size)
    changes = {k: change(model, x, k == SHIFTS) for k, model in models.items()}
    for key, found in changes.items():
        allowed = BARS.get(key, (None if key == "plain" else 0.0, None))[0]
        if allowed is not None and found > allowed:
            raise SystemExit(f"{key} of {name} changes by {found:.1e} with the pose")
    calls = {k: lambda f=f: f(x) for k, f in models.items()}
    runs = [medians(interleaved(calls, rounds, 2)) for _ in range(repeats)]
    rows = []
    for key in models:
        ratios = [one[key] / one["plain"] for one in runs]
        bar = BARS.get(key, (None, None))[1]
        rows.append({
            "network": name, "batch": batch, "size": size, "model": key, "change": changes[key],
            "ms": statistics.median(one[key] for one in runs),
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "bar": bar, "met": None if bar is None else statistics.median(ratios) <= bar,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = conditions()
    print("  ".join(f"{key}: {value}" for key, value in report.items()))
    with torch.no_grad():
        report["rows"] = [
            row
            for name, cases in CASES.items()
            for case in cases
            for row in run(name, *case, options.rounds, options.repeats)
        ]
    show("symmetrised models", report["rows"])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
