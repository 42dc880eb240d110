"""An event comes later, so does its mark in the features: what sharing weights buys.

A convolution f commutes with a delay g of its input: f(g x) = g f(x), here exactly, with whole
numbers. A locally connected layer has the same connections but a filter of its own at every
moment, and does not. Each is drawn as a commuting square: both ways round should end alike.

Run it with `python examples/timeline.py --out out`; it writes timeline.png.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import nn

import symconv as sc

LENGTH, DELAY = 20, 8
BLUE, GREEN, RED = "#3b6fb6", "#3a8f5c", "#c0392b"


def event() -> torch.Tensor:
    """A signal that is silent but for one short event; shape (channels, time) = (1, LENGTH)."""
    x = torch.zeros(1, LENGTH)
    x[0, 3:7] = torch.tensor([2.0, 5.0, 3.0, 1.0])
    return x


def convolution() -> nn.Module:
    """One filter, the same at every moment: it marks where the signal rises."""
    conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 3))
    return conv


def locally_connected() -> nn.Module:
    """The same connections with a filter of its own at every moment, of whole numbers."""
    layer = sc.nn.LocallyConnected1d(
        1, 1, 3, input_size=LENGTH, padding=1, padding_mode="circular", bias=False
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-2, 3, layer.weight.shape, generator=generator))
    return layer


def later(x: torch.Tensor) -> torch.Tensor:
    """The same signal, DELAY moments later (around a circle, so that nothing is lost)."""
    return sc.translate(x, DELAY)


@torch.no_grad()
def error(f: nn.Module, x: torch.Tensor) -> float:
    """Largest difference between the features of the later event and the later features."""
    return (f(later(x)) - later(f(x))).abs().max().item()


@torch.no_grad()
def draw_square(figure: SubFigure, name: str, f: nn.Module, x: torch.Tensor) -> None:
    """Above x and f(x), below g x and f(g x), with g f(x) drawn on top of the last."""
    axes = figure.subplots(2, 2)
    both_ways = f(later(x)), later(f(x))
    same = torch.equal(*both_ways)
    stems(axes[0, 0], x, BLUE, "x: an event")
    stems(axes[0, 1], f(x), GREEN, "f(x): its mark")
    stems(axes[1, 0], later(x), BLUE, f"g x: the event {DELAY} later")
    stems(axes[1, 1], both_ways[0], GREEN if same else RED, "f(g x): dots.  g f(x): rings")
    axes[1, 1].plot(both_ways[1][0], "o", mfc="none", mec="black", ms=9)
    reach = 1.25 * max(y.abs().max().item() for y in (f(x), *both_ways))
    for ax in axes[1]:
        ax.set_xlabel("time", fontsize=9)
    for ax in axes[:, 1]:
        ax.set_ylim(-reach, reach)
    verdict = (
        "f(g x) = g f(x), exactly" if same else f"f(g x) and g f(x) differ by up to {error(f, x):g}"
    )
    figure.suptitle(f"{name}\n{verdict}", color="black" if same else RED)
    arrow = dict(arrowstyle="-|>", color="#555555", lw=1.6)
    for row in axes:
        connect(row[0], row[1], (1.03, 0.5), (-0.10, 0.5), "f", arrow)
    for column in axes.T:
        connect(column[0], column[1], (0.5, -0.14), (0.5, 1.20), "g", arrow)


def stems(ax: Axes, y: torch.Tensor, colour: str, title: str) -> None:
    """One signal over time."""
    ax.axhline(0, color="#bbbbbb", lw=1)
    ax.vlines(range(LENGTH), 0, y[0], color=colour, lw=2)
    ax.plot(y[0], "o", color=colour, ms=4)
    ax.set_title(title, fontsize=10)
    ax.set(xlim=(-1, LENGTH), ylim=(-1, 7), xticks=range(0, LENGTH + 1, 5))
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def connect(start: Axes, end: Axes, tail, head, letter: str, arrow: dict) -> None:
    """An arrow from one panel to the next, with the map's letter beside it."""
    at = dict(xycoords=end.transAxes, textcoords=start.transAxes, annotation_clip=False)
    start.annotate("", head, tail, arrowprops=arrow, **at)
    middle = (1.13, 0.58) if letter == "f" else (0.54, -0.26)
    start.text(*middle, letter, transform=start.transAxes, style="italic", fontsize=12)


def draw(layers: dict[str, nn.Module], x: torch.Tensor) -> Figure:
    """One commuting square per layer."""
    figure = Figure(figsize=(13, 6))
    for part, (name, f) in zip(figure.subfigures(1, 2), layers.items(), strict=True):
        draw_square(part, name, f, x)
        part.subplots_adjust(left=0.07, right=0.97, bottom=0.09, top=0.82, wspace=0.32, hspace=0.5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for timeline.png")
    out = parser.parse_args().out
    x = event()
    layers = {
        "Convolution: one filter at every moment": convolution(),
        "Locally connected: a filter for each moment": locally_connected(),
    }
    for name, f in layers.items():
        count = f.weight.numel()
        print(f"{name} ({count} weights): |f(g x) - g f(x)| <= {error(f, x):g}")
    conv, local = layers.values()
    if error(conv, x) != 0 or error(local, x) == 0:
        raise SystemExit("the convolution must commute with the delay, the local layer must not")
    out.mkdir(parents=True, exist_ok=True)
    draw(layers, x).savefig(out / "timeline.png", dpi=110)
    print(f"picture: {out / 'timeline.png'}")


if __name__ == "__main__":
    main()
