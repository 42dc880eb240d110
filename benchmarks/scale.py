"""Scale layers: equivariance error against cost, every basis and plain convolutions on one chart.

    python benchmarks/scale.py [--rounds 7] [--quick] [--json scale.json] [--chart scale.png]

Error: two layers, each followed by ReLU, 8 copies, on natural pictures (192 pixels; scikit-image's)
and on white noise; the relative squared error in the interior (a fifth of the size from the border)
between features of the shrunk picture and shrunk features moved one scale, on the scales that both
have; random weights, mean of five draws. Shrunk by `sc.rescale`, and by scikit-image's
`resize` (Gaussian and cubic splines), which knows nothing of the layer. "edges": the same with the
mean taken out of every filter. A plain layer has no scales: its maps are compared as they are.
"dyadic" is exact for its own action (blur, every second position), and measured here like the rest.

Cost: a training step of the two layers (forward, backward, fresh gradients; float32, batch 8, 64
pixels) as a ratio to two plain 7x7 layers, of as many channels in all (copies times scales), and of
as many as there are copies. Interleaved, medians, one thread, processor time.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import data, transform
from timing import bursts, clock, conditions, medians, save, show, step
from torch import Tensor, nn

import symconv as sc

COPIES, REDRAWS = 8, 5
BARS = {"error": 5e-3, "cost": 5.0}
GROUPS = {"2": sc.groups.scales(2, 3), "sqrt 2": sc.groups.scales(2**0.5, 5)}
BASES = [("hermite", 3), ("hermite", 5), ("hermite", 7), ("discrete", 3), ("discrete", 5),
         ("discrete", 7), ("dyadic", 3), ("dyadic", 5)]  # fmt: skip


def scaled(scales: Any, basis: str, kernel: int, copies: int = COPIES) -> nn.Sequential:
    """Two scale layers, each with its ReLU."""
    options: dict[str, Any] = {"kernel_size": kernel, "basis": basis, "padding_mode": "reflect"}
    first = sc.nn.ScaleConv2d(scales.trivial(1), scales.regular(copies), **options)
    second = sc.nn.ScaleConv2d(scales.regular(copies), scales.regular(copies), **options)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def fits(scales: Any, basis: str) -> bool:
    """Octaves suit every basis, other scales all but one."""
    return basis != "dyadic" or scales.factor == 2


def plain(kernel: int, channels: int = COPIES) -> nn.Sequential:
    """Two convolutions, each with its ReLU."""
    first, second = (
        nn.Conv2d(c, channels, kernel, padding=kernel // 2, padding_mode="reflect")
        for c in (1, channels)
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def pictures(size: int = 192) -> dict[str, Tensor]:
    """Grey natural pictures about their mean, and noise."""
    grey = [
        torch.from_numpy(p[40 : 40 + size, 60 : 60 + size].mean(-1) / 255)
        for p in (data.astronaut(), data.coffee(), data.chelsea())
    ]
    x = torch.stack(grey)[:, None]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return {"natural": x - x.mean(), "noise": noise}


def by_rescale(x: Tensor, size: int) -> Tensor:
    """Shrunk by the cosine transform."""
    return sc.rescale(x, size / x.shape[-1])


def by_skimage(x: Tensor, size: int) -> Tensor:
    """Shrunk by a Gaussian and cubic splines."""
    flat = x.flatten(0, -3).numpy()
    rows = [transform.resize(p, (size, size), order=3, anti_aliasing=True) for p in flat]
    return torch.from_numpy(np.array(rows)).view(*x.shape[:-2], size, size)


@torch.no_grad()
def error(net: nn.Module, factor: float, count: int, x: Tensor, shrink: Any) -> float:
    """Relative squared error of features in the interior, on the scales that both sides have."""
    size = round(x.shape[-1] / factor)
    small, large = (v.unflatten(1, (-1, count)) for v in (net(shrink(x, size)), net(x)))
    small, large = (small[:, :, :-1], large[:, :, 1:]) if count > 1 else (small, large)
    inside = (..., *(slice(size // 5, -(size // 5)),) * 2)
    small, large = small[inside], shrink(large, size)[inside]
    return float((small - large).square().sum() / large.square().sum())


def without_mean(net: nn.Sequential) -> nn.Sequential:
    """Filters that answer to changes alone: each projected on those of sum 0."""
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                layer.weight -= layer.weight.mean((2, 3), keepdim=True)
            elif isinstance(layer, sc.nn.ScaleConv2d):
                sums = layer.functions.sum((1, 2))
                weight: Tensor = layer.weight.data
                weight -= (weight @ sums)[..., None] * sums / sums.square().sum()
    return net


def errors(make: Any, factor: float, count: int) -> dict[str, float]:
    """Mean errors over draws of the weights."""
    inputs = pictures()
    found: dict[str, list[float]] = {}
    for seed in range(REDRAWS):
        torch.manual_seed(seed)
        net = make().double()
        for name, x in inputs.items():
            found.setdefault(name, []).append(error(net, factor, count, x, by_rescale))
        found.setdefault("skimage", []).append(
            error(net, factor, count, inputs["natural"], by_skimage)
        )
        net = without_mean(net)
        found.setdefault("edges", []).append(
            error(net, factor, count, inputs["natural"], by_rescale)
        )
    return {name: statistics.fmean(values) for name, values in found.items()}


def costs(scales: Any, rounds: int, batch: int = 8, size: int = 64) -> dict[str, dict[str, float]]:
    """Training steps as ratios to plain 7x7 layers of equal channels and of equal copies."""
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = {
        f"{b} {k}": scaled(scales, b, k) for b, k in BASES if fits(scales, b)
    }
    nets |= {f"plain {k}": plain(k) for k in (3, 7)}
    nets["plain 7, equal channels"] = plain(7, COPIES * scales.count)
    x = torch.randn(batch, 1, size, size, requires_grad=True)
    backs = {name: torch.randn_like(net(x)) for name, net in nets.items()}
    calls = {n: (lambda net=net, b=backs[n]: step(net, x, b)) for n, net in nets.items()}
    times = medians(bursts(calls, rounds, clock(1)))
    return {
        name: {
            "ms": ms,
            "of plain 7x7, channels": ms / times["plain 7, equal channels"],
            "of plain 7x7, copies": ms / times["plain 7"],
        }
        for name, ms in times.items()
    }


def measured(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """A row for each factor and layer."""
    rows = []
    for title, scales in GROUPS.items():
        cost = costs(scales, rounds, *((2, 32) if quick else (8, 64)))
        layers = [(f"{b} {k}", lambda b=b, k=k, s=scales: scaled(s, b, k), scales.count)
                  for b, k in (BASES[:1] if quick else BASES)
                  if fits(scales, b)]  # fmt: skip
        layers += [(f"plain {k}", lambda k=k: plain(k), 1) for k in (3, 7)]
        for name, make, count in layers:
            found = errors(make, scales.factor, count)
            rows.append({"factor": title, "layer": name, **found, **cost[name]})
    return rows


def drawn(rows: list[dict[str, Any]], path: Path) -> None:
    """Error against cost, a panel for each factor."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(GROUPS), figsize=(10, 4.2), sharey=True)
    marks = {"hermite": "oC0", "discrete": "sC1", "dyadic": "^C2", "plain": "xC3"}
    for panel, title in zip(axes, GROUPS, strict=True):
        for kind, mark in marks.items():
            held = [r for r in rows if r["factor"] == title and r["layer"].startswith(kind)]
            if not held:
                continue
            at = [r["of plain 7x7, channels"] for r in held], [r["natural"] for r in held]
            panel.scatter(*at, marker=mark[0], color=mark[1:], label=kind, zorder=3)
            for row, x, y in zip(held, *at, strict=True):
                k = row["layer"].split()[1]
                side = (5, -9) if kind == "discrete" else (5, 4)
                panel.annotate(f"{k}x{k}", (x, y), side, textcoords="offset points", fontsize=8)
        panel.margins(x=0.12)
        panel.axhline(BARS["error"], color="0.6", lw=0.8, ls="--")
        panel.set(yscale="log", xlim=(0, None), title=f"factor {title}")
        panel.set_xlabel("training step, plain 7x7 of equal channels = 1")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("relative squared error, two layers with ReLU")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, draw and save where asked."""
    parser = argparse.ArgumentParser(description="error and cost of scale layers")
    parser.add_argument("--rounds", type=int, default=7, help="passes of each call")
    parser.add_argument("--quick", action="store_true", help="one basis, small pictures")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--chart", type=Path, help="draw error against cost to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(options.rounds, options.quick)
    show("error of two layers with ReLU, and cost of a training step", rows)
    if options.chart:
        drawn(rows, options.chart)
    if options.json:
        save({"conditions": conditions(), "bars": BARS, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
