"""Draws the figures of these pages: `python docs/figures.py --out docs/img`."""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import symconv as sc
from symconv.lattice import Window

LENGTH = 8


def structures() -> Figure:
    """The six structures on a line of eight units, one colour a weight."""
    window = Window.of(1, kernel_size=3)
    size = (LENGTH,)
    outputs = LENGTH - 2
    rng = np.random.default_rng(3)
    chosen = np.stack([np.sort(rng.choice(LENGTH, 3, replace=False)) for _ in range(outputs)])
    regions = np.repeat([0, 1], outputs // 2)
    drawn = [
        sc.Structure.dense(LENGTH, outputs),
        sc.Structure.sparse(chosen, LENGTH),
        sc.Structure.local(1, 1, window, size),
        sc.Structure.region(1, 1, window, size, regions),
        sc.Structure.tiled(1, 1, window, size, tile=2),
        sc.Structure.conv(1, 1, window, size),
    ]
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for ax, structure in zip(figure.subplots(2, 3).flat, drawn, strict=True):
        structure.draw(ax)
    return figure


def borders() -> Figure:
    """One convolution under the five decisions about the border."""
    decisions = {
        "valid": Window.of(1, 3),
        "same, zeros": Window.of(1, 3, padding=1),
        "full, zeros": Window.of(1, 3, padding=2),
        "same, circular": Window.of(1, 3, padding=1, padding_mode="circular"),
        "same, reflect": Window.of(1, 3, padding=1, padding_mode="reflect"),
    }
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    for ax, (name, window) in zip(axes, decisions.items(), strict=False):
        structure = sc.Structure.conv(1, 1, window, (LENGTH,))
        structure.draw(ax)
        ax.set_title(f"{name}: {structure.outputs} outputs, {structure.connections} connections")
        ax.title.set_fontsize(10)
    axes[-1].axis("off")
    return figure


def main() -> None:
    """Draw and save every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "img")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in {"structures": structures, "borders": borders}.items():
        draw().savefig(out / f"{name}.png", dpi=90)
        print(out / f"{name}.png")


if __name__ == "__main__":
    main()
