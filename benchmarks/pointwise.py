"""Pointwise group convolutions through the Fourier transform, against the dense 1x1 product.

    python benchmarks/pointwise.py [--rounds 20] [--repeats 5] [--sweep C4 D4] [--json out.json]

512 channels, 16x16 positions, batch 8: training steps (forward and backward, fresh gradients) and
inference, as ratios to the quicker of torch's convolution with the layer's own filter and a matrix
product with it. Answers are checked first. All are interleaved; a ratio is that of medians over the
rounds, and its median and range over the repeats are given. One thread; processor time, which
leaves out waiting on a busy machine. `--sweep` measures where the path begins to win, which is what
`symconv.kernels.pointwise.COSTS` was fitted to, and lists where its verdict is wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
from unittest import mock

import torch
from timing import conditions, interleaved, medians, show, step
from torch import nn

import symconv as sc
from symconv.nn import _fourier

BARS = {"C4": (0.75, 0.65), "D4": (0.80, 0.60)}  # training, inference
CHANNELS, SIZE, BATCH = 512, 16, 8
SWEEP = ((1, 16), (8, 8), (8, 16), (8, 32), (4, 64))  # batch, size
LIMIT = 8 * 32**2 * 384**2  # products of a dense layer in the sweep
always = mock.patch.object(_fourier, "pays", return_value=True)


class Product(nn.Module):
    """The dense layer as a matrix product with the channels."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().flatten(1).clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`torch.baddbmm` of the filter and each sample."""
        weight = self.weight.expand(len(x), -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).view(x.shape)


def layer_of(name: str, channels: int, kernel: int = 1) -> nn.Module:
    group = sc.groups.parse(name)
    field = group.regular(max(1, round(channels / group.order)))
    return sc.nn.GroupConv2d(field, field, kernel)


def check(layer: nn.Module, name: str) -> None:
    """The layer equals the dense one, on integers exactly, and takes the path that it should."""
    conv, x = layer.to_conv(), torch.randn(BATCH, layer.in_channels, SIZE, SIZE)
    with mock.patch.object(_fourier, "pointwise", wraps=_fourier.pointwise) as spy:
        error = (layer(x) - conv(x)).abs().max() / conv(x).abs().max()
    assert spy.call_count == 1, "it took the dense path"
    assert error < 1e-5, f"another answer: {error:.1e}"
    if name in ("C4", "D4"):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randint(-3, 4, parameter.shape))
        x = torch.randint(-3, 4, x.shape).float()
        assert torch.equal(layer(x), layer.to_conv()(x)), "not exact on integers"
        layer.reset_parameters()


def compared(layers: dict[str, nn.Module], train: bool, rounds: int, shape: tuple) -> dict:
    """Milliseconds of a training step, or of inference."""
    x, back = torch.randn(shape, requires_grad=train), torch.randn(shape)
    if train:
        calls = {k: lambda f=f: step(f.train(), x, back) for k, f in layers.items()}
    else:
        calls = {k: lambda f=f: f(x) for k, f in layers.items()}
        for layer in layers.values():
            layer.eval()
    with torch.set_grad_enabled(train):
        return medians(interleaved(calls, rounds))


def bars(name: str, rounds: int, repeats: int) -> list[dict]:
    layer = layer_of(name, CHANNELS)
    check(layer, name)
    conv = layer.to_conv()
    rows = []
    for kind, train in (("training", True), ("inference", False)):
        layers = {"fourier": layer, "conv2d": conv, "matmul": Product(conv)}
        shape = BATCH, layer.in_channels, SIZE, SIZE
        runs = [compared(layers, train, rounds, shape) for _ in range(repeats)]
        ratios = [run["fourier"] / min(run["conv2d"], run["matmul"]) for run in runs]
        bar = BARS.get(name, (None, None))[not train]
        row = {"group": name, "kind": kind}
        row |= {f"{k} ms": statistics.median(run[k] for run in runs) for k in layers}
        row |= {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        row |= {"bar": bar, "met": None if bar is None else row["ratio"] <= bar}
        rows.append(row)
    return rows


def chained(name: str, narrow: int, rounds: int, repeats: int) -> list[dict]:
    """A bottleneck from wide to narrow and back, as a chain, layer by layer, and densely."""
    group = sc.groups.parse(name)
    wide, few = group.regular(CHANNELS // group.order), group.regular(narrow // group.order)
    layers = sc.nn.GroupConv2d(wide, few, 1), sc.nn.GroupConv2d(few, wide, 1)
    kinds = {"chain": sc.nn.PointwiseChain(*layers), "one by one": nn.Sequential(*layers),
             "dense": nn.Sequential(*(layer.to_conv() for layer in layers))}  # fmt: skip
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE)
    torch.testing.assert_close(kinds["chain"](x), kinds["dense"](x), rtol=1e-5, atol=1e-5)
    rows = []
    for kind, train in (("training", True), ("inference", False)):
        runs = [compared(kinds, train, rounds, tuple(x.shape)) for _ in range(repeats)]
        row = {"group": name, "narrow": narrow, "kind": kind}
        row |= {f"{k} ms": statistics.median(run[k] for run in runs) for k in kinds}
        for against in ("dense", "one by one"):
            ratio = statistics.median(run["chain"] / run[against] for run in runs)
            row[f"to {against}"] = ratio
        rows.append(row)
    return rows


def sweep(name: str, rounds: int) -> list[dict]:
    """Ratios to the convolution over channels and positions, and the verdict of `pays`."""
    rows = []
    for channels in (48, 96, 144, 192, 288, 384, 576):
        layer = layer_of(name, channels)
        conv, plan = layer.to_conv(), layer._fourier
        for batch, size in SWEEP:
            if batch * size**2 * channels**2 > LIMIT:
                continue
            shape = batch, layer.in_channels, size, size
            copies = layer.in_field.copies, layer.out_field.copies
            row = {"group": name, "channels": layer.in_channels, "batch": batch, "size": size}
            row["taken"] = _fourier.pays(plan.transform, copies, 1, batch, size**2)
            with always:
                for kind, train in (("training", True), ("inference", False)):
                    times = compared({"fourier": layer, "conv2d": conv}, train, rounds, shape)
                    row[kind] = times["fourier"] / times["conv2d"]
            wrong = [k for k in ("training", "inference") if row["taken"] != (row[k] < 1)]
            rows.append(row | {"wrong in": " ".join(wrong)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", nargs="*", metavar="GROUP", help="where the path begins to win")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = conditions()
    print("  ".join(f"{key}: {value}" for key, value in report.items()))
    if options.sweep is None:
        against = f"{CHANNELS} channels, {SIZE}x{SIZE}, batch {BATCH}"
        both = options.rounds, options.repeats
        report[against] = [row for name in ("C4", "D4", "C8") for row in bars(name, *both)]
        report[f"{against}, two layers"] = chained("D4", 64, *both) + chained("D4", 256, *both)
    for name in options.sweep or ():
        report[f"sweep of {name}"] = sweep(name, options.rounds)
    for title, rows in report.items():
        if isinstance(rows, list):
            show(title, rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
