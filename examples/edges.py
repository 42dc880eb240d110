"""One edge detector built three times: as a convolution, as a sparse layer, as a dense matrix.

Subtracting from each pixel its left neighbour finds the vertical edges of a picture. That is a
linear map, so it can be written in three ways which give the same output to the last bit, and
cost anything from 2 weights to eight billion. This is figure 9.6 of the Deep Learning book
(Goodfellow, Bengio, Courville, 2016), on a picture you can see.

Run it with `python examples/edges.py --out out`; it writes edges.png.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage.data import camera
from skimage.transform import downscale_local_mean, resize
from torch import nn

import symconv as sc
from symconv.cost import table

BOOK = (280, 320)  # height and width of the book's picture: its dense matrix would take 32 GB
SMALL = (56, 64)  # a fifth of it each way: its dense matrix takes 50 MB
KINDS = ("conv", "sparse", "dense")


def picture() -> torch.Tensor:
    """A photograph (1, height, width) in whole grey levels, so that sums of them are exact."""
    book = resize(camera()[:448].astype(float), BOOK, anti_aliasing=True)
    small = downscale_local_mean(book, (BOOK[0] // SMALL[0], BOOK[1] // SMALL[1]))
    return torch.from_numpy(np.round(small)).float()[None]


def convolution() -> nn.Module:
    """Two weights, used everywhere."""
    conv = nn.Conv2d(1, 1, kernel_size=(1, 2), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))
    return conv


def sparse_layer(height: int, width: int) -> nn.Module:
    """A list of connections: each output sees a pixel and its right neighbour."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width - 1), indexing="ij")
    left = (row * width + column).flatten()
    connections = torch.stack([left, left + 1], dim=1)
    layer = sc.nn.SparseLinear(height * width, len(left), 2, bias=False, connections=connections)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-1.0, 1.0]).expand(len(left), 2))
    return layer


def dense_layer(conv: nn.Module, height: int, width: int) -> nn.Module:
    """The whole matrix, nearly all of it zero."""
    matrix = sc.Structure.of(conv, (height, width)).materialize(conv)
    outputs, inputs = matrix.shape
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix.toarray()))
    return layer


@torch.no_grad()
def edges(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The picture's edges by each of the three layers."""
    _, height, width = image.shape
    conv = convolution()
    found = {
        "conv": conv(image),
        "sparse": sparse_layer(height, width)(image.flatten()),
        "dense": dense_layer(conv, height, width)(image.flatten()),
    }
    return {kind: y.reshape(height, width - 1) for kind, y in found.items()}


def draw(image: torch.Tensor, found: dict[str, torch.Tensor]) -> Figure:
    """The picture, its edges three times, and what each way costs."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    pictures, costs = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    axes = pictures.subplots(1, 4)
    axes[0].imshow(image[0].numpy(), cmap="gray")
    axes[0].set_title(f"picture, {SMALL[0]} x {SMALL[1]}")
    reach = max(y.abs().max().item() for y in found.values())
    for ax, kind in zip(axes[1:], KINDS, strict=True):
        ax.imshow(found[kind].numpy(), cmap="RdBu", vmin=-reach, vmax=reach)
        ax.set_title(f"edges: {kind}")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    pictures.suptitle(
        "Right neighbour minus pixel (blue: brighter, red: darker), three times equal"
    )
    costs.supxlabel(
        "flops: 2 per MAC, or k multiplications and k - 1 additions per output as the book counts",
        fontsize=10,
    )
    for ax, size in zip(costs.subplots(2, 1), (SMALL, BOOK), strict=True):
        draw_costs(ax, size)
    return figure


def draw_costs(ax, size: tuple[int, int]) -> None:
    """A table of exact costs for a picture of this size."""
    rows = {
        "connections": "connections",
        "weights": "weights",
        "bytes of weights": "weight_bytes",
        "flops (2 per MAC)": "flops",
        "flops (k and k - 1)": "flops_k",
    }
    costs = table((1, *size), (1, 2))
    cells = [[f"{getattr(costs[kind], name):,}" for kind in KINDS] for name in rows.values()]
    drawn = ax.table(cells, rowLabels=list(rows), colLabels=KINDS, bbox=(0.26, 0.04, 0.73, 0.92))
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(11)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0 or column < 0:
            cell.set_text_props(weight="bold")
    note = "the book's picture" if size == BOOK else "the picture above"
    ax.text(0.05, 0.88, f"{note}, {size[0]} x {size[1]}", va="center", fontsize=11)
    ax.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for edges.png")
    out = parser.parse_args().out
    image = picture()
    found = edges(image)
    for kind, y in found.items():
        if not torch.equal(y, found["conv"]):
            raise SystemExit(
                f"{kind} differs from the convolution by {(y - found['conv']).abs().max()}"
            )
    out.mkdir(parents=True, exist_ok=True)
    draw(image, found).savefig(out / "edges.png", dpi=110)
    times = {k: int(v) for k, v in table((1, *BOOK), (1, 2)).dense_over_conv().items()}
    print(f"{', '.join(found)}: equal outputs on a picture of {SMALL[0]} x {SMALL[1]}")
    print(f"at {BOOK[0]} x {BOOK[1]} dense has {times['weights']:,} times the weights of conv")
    print(f"and {times['flops_k']:,} times the flops; picture: {out / 'edges.png'}")


if __name__ == "__main__":
    main()
