"""Shifts in a strided network: how much the scores change, and what it costs to mend that.

    python benchmarks/shift.py [--width 64] [--size 128] [--batch 4] [--rounds 9] [--device cuda]
                               [--json shift.json] [--quick]

A network made as ResNet-18 is, with circular padding and the same weights throughout:

- strided: as published;
- polyphase: each strided layer on the phase that its input holds most of (`sc.nn.Polyphase*`);
- blur: layers of stride 1, the activation, and `sc.nn.BlurPool2d` (Zhang 2019);
- dense: no strides, later layers dilated instead (à trous).

First the largest change of the scores over shifts modulo the network's stride of 32, relative to
the largest score, on natural pictures, noise, stripes, a constant and a checkerboard (64 pixels, 8
channels in the first stage; all 1,024 shifts for polyphase, 81 for the others). Polyphase must pass
before anything is timed. Then training steps (forward, backward, fresh gradients) and inference as
ratios to the strided network: interleaved, medians, one thread, processor time (on a GPU elapsed
time, synchronised).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from skimage import data
from timing import Clock, bursts, conditions, medians, save, show, step
from torch import Tensor, nn
from torch.nn import functional as F

import symconv as sc

KINDS = ("strided", "polyphase", "blur", "dense")
BARS = {"change float32": 1e-6, "change float64": 1e-13, "training": 1.1, "inference": 1.15}
STRIDE = 32
CIRCULAR: dict[str, Any] = {"padding_mode": "circular", "bias": False}


def conv(kind: str, into: int, out: int, taps: int, stride: int, at: int) -> nn.Module:
    """A convolution on maps that `at` strides came before."""
    dilation = at if kind == "dense" else 1
    pad = dilation * (taps - 1) // 2
    if kind == "polyphase":
        return sc.nn.PolyphaseConv2d(into, out, taps, stride, pad, **CIRCULAR)
    kept = stride if kind == "strided" else 1
    return nn.Conv2d(into, out, taps, kept, pad, dilation, **CIRCULAR)


def after(kind: str, stride: int) -> nn.Module:
    """What follows the activation of a strided layer."""
    blurs = kind == "blur" and stride > 1
    return sc.nn.BlurPool2d(3, stride, "circular") if blurs else nn.Identity()


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, kind: str, into: int, out: int, stride: int, at: int):
        super().__init__()
        self.kind, behind = kind, at * stride
        self.first, self.norm = conv(kind, into, out, 3, stride, at), nn.BatchNorm2d(out)
        self.blur = after(kind, stride)
        self.second, self.norm2 = conv(kind, out, out, 3, 1, behind), nn.BatchNorm2d(out)
        self.short: nn.Module | None = None
        if stride > 1 or into != out:
            self.short, self.norm3 = conv(kind, into, out, 1, stride, at), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both branches, rectified."""
        first: Any = self.first
        phase = first.phase(x) if self.kind == "polyphase" and self.short else None
        shared = () if phase is None else (phase,)
        y = self.blur(self.norm(first(x, *shared)).relu())
        y = self.norm2(self.second(y))
        if self.short is not None:
            x = self.norm3(self.short(self.blur(x), *shared))
        return (x + y).relu()


class ResNet18(nn.Module):
    """Stem, pool, four stages of two blocks, scores."""

    def __init__(self, kind: str, width: int, classes: int = 1000):
        super().__init__()
        self.kind = kind
        self.stem, self.norm = conv(kind, 3, width, 7, 2, 1), nn.BatchNorm2d(width)
        self.blur = after(kind, 2)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks, at = [], 4
        for number, (into, out) in enumerate(itertools.pairwise(widths)):
            stride = 1 if number == 0 else 2
            blocks += [Block(kind, into, out, stride, at), Block(kind, out, out, 1, at * stride)]
            at *= stride
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(8 * width, classes)
        self.pool = sc.nn.PolyphasePool2d(2, kernel_size=3)

    def pooled(self, x: Tensor) -> Tensor:
        """Maxima over 3 x 3, every second one."""
        if self.kind == "polyphase":
            return self.pool(x)
        step = 2 if self.kind == "dense" else 1
        x = F.pad(x, (step,) * 4, "circular")
        x = F.max_pool2d(x, 3, 2 if self.kind == "strided" else 1, 0, step)
        return self.blur(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.pooled(self.blur(self.norm(self.stem(x)).relu()))
        return self.head(self.blocks(x).mean((2, 3)))


def networks(width: int, classes: int = 1000, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """The network in every kind, with one set of weights and norms as after some training."""
    torch.manual_seed(0)
    first = ResNet18("strided", width, classes)
    for module in first.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    found = {}
    for kind in kinds:
        found[kind] = ResNet18(kind, width, classes)
        found[kind].load_state_dict(first.state_dict())
    return found


def pictures(size: int = 64) -> dict[str, Tensor]:
    """Inputs of one picture each."""
    places = torch.arange(size)
    astronaut, coffee = (
        torch.from_numpy(p[60 : 60 + size, 200 : 200 + size].copy()).movedim(-1, 0) / 255
        for p in (data.astronaut(), data.coffee())
    )
    return {
        "astronaut": astronaut,
        "coffee": coffee,
        "noise": torch.randn(3, size, size, generator=torch.Generator().manual_seed(0)),
        "stripes": (1 - 2.0 * (places % 2)).expand(3, size, size),
        "constant": torch.ones(3, size, size),
        "checkerboard": ((places[:, None] + places) % 2).float().expand(3, size, size),
    }


@torch.no_grad()
def changes(net: nn.Module, inputs: dict[str, Tensor], every: int = 1) -> dict[str, float]:
    """The largest change of each input's scores over all shifts, relative to its largest score."""
    x = torch.stack(list(inputs.values())).to(next(net.parameters()))
    y = net(x)
    worst = torch.zeros(len(x), dtype=y.dtype, device=y.device)
    for shift in itertools.product(sorted({1, *range(0, STRIDE, every)}), repeat=2):
        moved = net(x.roll(shift, (2, 3)))
        worst = torch.maximum(worst, ((moved - y).abs().amax(1) / y.abs().amax(1)))
    return dict(zip(inputs, worst.tolist(), strict=True))


def measured(width: int, every: int) -> list[dict[str, Any]]:
    """A row for each kind and precision; polyphase must be exact under every shift.

    The other kinds are moved by every fourth shift and by 1: they would take minutes.
    """
    rows = []
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        for kind, net in networks(width, 10).items():
            exact = kind == "polyphase"
            if not exact and name == "float64":
                continue
            found = changes(net.to(dtype).eval(), pictures(), every if exact else 4 * every)
            rows.append({"network": kind, "type": name, **found})
            if exact and max(found.values()) > BARS[f"change {name}"]:
                raise SystemExit(f"polyphase changes by {max(found.values()):.1e}: not timed")
    return rows


def timed(options: argparse.Namespace, clock: Clock) -> list[dict[str, Any]]:
    """Training steps and inference, in milliseconds and as ratios to the strided network."""
    device = options.device
    kinds = KINDS if options.dense else KINDS[:3]
    nets = {k: n.to(device) for k, n in networks(options.width, kinds=kinds).items()}
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    back = torch.randn(options.batch, 1000, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def training(net: nn.Module) -> None:
        step(net, x, back)
        wait()

    def inference(net: nn.Module) -> None:
        with torch.no_grad():
            net(x)
        wait()

    rows: list[dict[str, Any]] = [{"network": kind} for kind in nets]
    for title, call in (("training", training), ("inference", inference)):
        for net in nets.values():
            net.train(call is training)
        calls = {k: (lambda n=n, f=call: f(n)) for k, n in nets.items()}
        times = medians(bursts(calls, options.rounds, clock))
        for row in rows:
            ms = times[row["network"]]
            row |= {f"{title} ms": ms, f"{title} ratio": ms / times["strided"]}
    return rows


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description="shifts in strided networks")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--size", type=int, default=128, help="of the pictures that are timed")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9, help="passes of each call")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dense", action="store_true", help="time the dense network too (slow)")
    parser.add_argument("--quick", action="store_true", help="few shifts, small pictures")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args()
    if options.quick:
        options.width, options.size, options.batch, options.rounds = 8, 64, 2, 3
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    shifts = measured(8, 8 if options.quick else 1)
    show("largest change of the scores under whole shifts, relative", shifts)
    times = timed(options, clock)
    show(f"{options.batch} pictures of {options.size} pixels, {options.width} channels", times)
    timed_at = {k: getattr(options, k) for k in ("device", "width", "size", "batch", "rounds")}
    report = {"conditions": conditions() | timed_at, "bars": BARS}
    if options.json:
        save(report | {"changes": shifts, "times": times}, options.json)


if __name__ == "__main__":
    main()
