"""Pictures of many sizes: taken as they are, resized to one size, or padded with zeros.

Crops of photographs of six materials, 16 to 96 pixels a side and of any proportions, are to be told
apart. How fine its grain is tells much about a material, and resizing takes that away; padding with
zeros keeps it, but adds borders that are no part of the picture, and work that nobody wants. A
`sc.Ragged` takes every crop as it is: its scores do not depend on what else lies in the batch. The
same small residual network learns from the same batches of the same crops each way; training and
test crops come from different halves of the photographs.

Run it with `python examples/mixed_sizes.py --out out`; it writes mixed_sizes.png, in a few minutes
on one core. `--seeds 1` takes a third of that.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

import symconv as sc

MATERIALS = ("brick", "grass", "gravel", "moon", "immunohistochemistry", "cell")
SIDES = 16, 96  # pixels along a crop
ONE_SIZE = 48  # what "resized" makes of them
LEARNED, TESTED = 60, 100  # crops of each material
NOISE = 0.3  # standard deviation, where a crop has 1
BATCH, RATE = 16, 0.01
BINS = (16, 24, 36, 54, 97)  # of the square root of a test crop's pixels
MIXED, RESIZED, PADDED = WAYS = ("as they are (Ragged)", "resized", "padded with zeros")
COLOURS = {MIXED: "#3b6fb6", RESIZED: "#e0a458", PADDED: "#c0392b"}
Crops = list[tuple[Tensor, int]]


def photographs() -> list[np.ndarray]:
    """One photograph of each material, in grey."""
    found = [getattr(data, name)().astype(float) for name in MATERIALS]
    return [photo.mean(2) if photo.ndim == 3 else photo for photo in found]


def crops(count: int, random: np.random.Generator, half: int) -> Crops:
    """Noisy crops (1, height, width) and their materials, from one half of the photographs."""
    found = []
    for label, photo in enumerate(photographs()):
        photo = np.array_split(photo, 2, axis=1)[half]
        for _ in range(count):
            size = np.exp(random.uniform(*np.log(SIDES), 2)).round().astype(int)
            y, x = random.integers(0, np.array(photo.shape) - size + 1)
            crop = photo[y : y + size[0], x : x + size[1]]
            crop = (crop - crop.mean()) / max(crop.std(), 1.0)
            crop = crop + NOISE * random.standard_normal(crop.shape)
            found.append((torch.from_numpy(crop[None]).float(), label))
    return found


def mixed(samples: Crops) -> tuple["sc.Ragged", Tensor]:
    """A batch of the crops as they are."""
    return sc.data.collate(samples)


def resized(samples: Crops) -> tuple[Tensor, Tensor]:
    """A batch of the crops brought to one size, without aliasing."""
    size = ONE_SIZE, ONE_SIZE
    each = [F.interpolate(x[None], size, mode="bilinear", antialias=True)[0] for x, _ in samples]
    return default_collate([(x, label) for x, (_, label) in zip(each, samples, strict=True)])


def padded(samples: Crops) -> tuple[Tensor, Tensor]:
    """A batch of the crops on canvases as large as the largest, zeros around them."""
    height, width = (max(x.shape[axis] for x, _ in samples) for axis in (1, 2))
    each = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x, _ in samples]
    return default_collate([(x, label) for x, (_, label) in zip(each, samples, strict=True)])


def joining(way: str) -> Callable:
    """How a batch is made of crops."""
    return {MIXED: mixed, RESIZED: resized, PADDED: padded}[way]


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.around = nn.Conv2d(inside, outside, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        return F.relu(self.around(x) + self.body(x))


def network() -> nn.Module:
    """A small residual network of torch's own layers; none knows of mixed sizes."""
    stem = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(MATERIALS))
    return nn.Sequential(*stem, Block(16, 32), Block(32, 64), *head)


@dataclass
class Result:
    """What became of one way: the test crops' sides, which were right, seconds, MB held at most."""

    sides: np.ndarray
    right: np.ndarray
    seconds: float
    megabytes: float


class Held:
    """MB that a step keeps for its backward pass, at most: every tensor that autograd saves."""

    def __init__(self) -> None:
        self.most = 0.0

    def __call__(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Count while a loss is computed: ``with held(): ...``."""
        seen: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            self.most = max(self.most, sum(seen.values()) / 1e6)
            return x

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)


def batches(learned: Crops, way: str, steps: int, seed: int) -> Iterator:
    """Random batches, epoch after epoch; of the same crops each way."""
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(learned, BATCH, shuffle=True, generator=order, collate_fn=joining(way))
    while True:
        for batch in loader:
            if not steps:
                return
            steps -= 1
            yield batch


def train(model: nn.Module, learned: Crops, way: str, steps: int, seed: int) -> tuple[float, float]:
    """Train with AdamW and a one-cycle rate; seconds of one core, and MB held at most."""
    optimiser = torch.optim.AdamW(model.train().parameters(), RATE, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    held, start = Held(), time.process_time()
    for inputs, labels in batches(learned, way, steps, seed):
        with held():
            loss = F.cross_entropy(model(inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return time.process_time() - start, held.most


@torch.no_grad()
def scores(model: nn.Module, crops: Crops, way: str, batch: int = BATCH) -> Tensor:
    """The scores of crops, batch by batch."""
    loader = DataLoader(crops, batch, collate_fn=joining(way))
    return torch.cat([model.eval()(inputs) for inputs, _ in loader])


def run(seed: int, steps: int) -> dict[str, Result]:
    """Train and test each way on the same crops."""
    random = np.random.default_rng(seed)
    learned, tested = crops(LEARNED, random, 0), crops(TESTED, random, 1)
    tested = [tested[i] for i in random.permutation(len(tested))]
    labels = torch.tensor([label for _, label in tested])
    sides = np.array([x.numel() ** 0.5 for x, _ in tested])
    results = {}
    for way in WAYS:
        torch.manual_seed(seed)
        model = network()
        seconds, megabytes = train(model, learned, way, steps, seed)
        found = scores(model, tested, way)
        results[way] = Result(sides, (found.argmax(1) == labels).numpy(), seconds, megabytes)
        if way == MIXED:
            alone = scores(model, tested[:40], way, batch=1)
            if (off := float((found[:40] - alone).abs().max() / alone.abs().max())) > 1e-5:
                raise SystemExit(
                    f"scores must not depend on the rest of the batch, yet do by {off}"
                )
    return results


def by_size(results: list[dict[str, Result]], way: str) -> np.ndarray:
    """Accuracy in % (seeds, bins)."""
    found = []
    for one in (each[way] for each in results):
        bins = np.digitize(one.sides, BINS) - 1
        found.append([100 * one.right[bins == k].mean() for k in range(len(BINS) - 1)])
    return np.array(found)


def summary(results: list[dict[str, Result]], way: str) -> tuple[np.ndarray, float, float]:
    """Over the seeds: accuracies in %, mean seconds, most MB."""
    mine = [each[way] for each in results]
    right = np.array([100 * one.right.mean() for one in mine])
    return right, np.mean([one.seconds for one in mine]), max(one.megabytes for one in mine)


def table(results: list[dict[str, Result]]) -> str:
    """What is printed: means over the seeds, with the lowest and the highest if there are more."""
    lines = [f"{'':24}{'right, %':>20}{'training, s':>14}{'held, MB':>11}"]
    for way in WAYS:
        right, seconds, megabytes = summary(results, way)
        spread = f" ({right.min():.1f} to {right.max():.1f})" if len(results) > 1 else ""
        cell = f"{right.mean():.1f}{spread}"
        lines.append(f"{way:24}{cell:>20}{seconds:14.1f}{megabytes:11.1f}")
    return "\n".join(lines)


def draw(results: list[dict[str, Result]]) -> Figure:
    """Some crops at their own sizes, and how well each way tells them apart."""
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    examples = crops(2, np.random.default_rng(4), 0)
    for column, axes in enumerate(above.subplots(2, len(MATERIALS)).T):
        for ax, (x, _) in zip(axes, examples[2 * column : 2 * column + 2], strict=True):
            canvas = np.full((SIDES[1], SIDES[1]), np.nan)
            canvas[: x.shape[1], : x.shape[2]] = x[0]
            ax.imshow(canvas, cmap="gray")
            ax.axis("off")
        axes[0].set_title(MATERIALS[column].replace("immuno", "immuno-\n"), fontsize=11)
    above.suptitle(f"Crops of {SIDES[0]} to {SIDES[1]} pixels a side")
    curves, costs = below.subplots(1, 2, width_ratios=[1.6, 1])
    draw_curves(curves, results)
    draw_costs(costs, results)
    return figure


def draw_curves(ax: Axes, results: list[dict[str, Result]]) -> None:
    """Accuracy over the size of the crop, with the range over the seeds."""
    at = [np.sqrt(a * b) for a, b in pairwise(BINS)]
    for way in WAYS:
        right = by_size(results, way)
        ax.plot(at, right.mean(0), "o-", color=COLOURS[way], label=way)
        if len(results) > 1:
            ax.fill_between(at, right.min(0), right.max(0), color=COLOURS[way], alpha=0.15, lw=0)
    ax.set_xscale("log")
    ax.set_xticks(at, [f"{a} to {b - 1}" for a, b in pairwise(BINS)], fontsize=9)
    ax.minorticks_off()
    ax.set(xlabel="side of the crop, pixels (square root of its area)", ylabel="right, %")
    seeds = f"mean and range of {len(results)} seeds" if len(results) > 1 else "one seed"
    ax.set_title(f"Accuracy on new crops, {seeds}", fontsize=11)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def draw_costs(ax: Axes, results: list[dict[str, Result]]) -> None:
    """A table: accuracy over all crops, time and memory."""
    cells = []
    for way in WAYS:
        right, seconds, megabytes = summary(results, way)
        cells.append([f"{right.mean():.1f}", f"{seconds:.0f}", f"{megabytes:.0f}"])
    names = ["right, %", "training, s", "held, MB"]
    drawn = ax.table(
        cells, rowLabels=WAYS, colLabels=names, bbox=(0.3, 0.3, 0.7, 0.5), colWidths=[1, 1.3, 1]
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(10)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0 or column < 0:
            cell.set_text_props(weight="bold")
    ax.text(0, 0.1, "seconds of one core; MB held for the backward pass, at most", fontsize=9)
    ax.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for mixed_sizes.png")
    parser.add_argument("--seeds", type=int, default=3, help="how often each is trained")
    parser.add_argument("--steps", type=int, default=200, help="steps of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(seed, given.steps) for seed in range(given.seeds)]
    print(table(results))
    given.out.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(given.out / "mixed_sizes.png", dpi=110)
    print(f"picture: {given.out / 'mixed_sizes.png'}")


if __name__ == "__main__":
    main()
