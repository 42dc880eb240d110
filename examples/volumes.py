"""Solids in a noisy volume: a network that knows the cube's symmetries beside one that does not.

Five solids of four cubes each stand in volumes of 16 x 16 x 16 voxels. The networks learn from
examples that stand upright, but for a tilt of at most 30 degrees; they are tested on fresh ones
that stand so too, that are moved by one of the cube's 48 turns and mirrors, and that are turned
any way at all. Both come from the same code and have as many parameters: a small residual network
over the group of the cube (Oh), and its plain twin.

The plain twin also gets what a careful user would give it: every example moved by a random symmetry
of the cube each time it is seen (augmentation); and, as its steps are much cheaper, as many of them
as take the time that the other took. The learning rate of each row was chosen among three or four,
on other examples than these.

Run it with `python examples/volumes.py --out out`; it writes volumes.png, in about a minute on one
core. `--seeds 3` trains each three times, on other examples and from other initial weights.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

import symconv as sc

CUBE = sc.groups.full_octahedral()
SIZE, UNIT = 16, 3.2  # voxels along a volume, and along one of a solid's cubes
SOLIDS = {
    "rod": [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)],
    "plate": [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)],
    "hook": [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0)],
    "tee": [(0, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 0)],
    "corner": [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)],
}
TILT = 30  # degrees by which the examples stand askew, at most
NOISE = 0.2  # standard deviation, where a solid is 1 and empty space 0
LEARNED, TESTED = 20, 60  # examples of each solid
BATCH = 16
TESTS = ("upright", "symmetry of cube", "any turn")
SAID = ("as learned: upright", "moved by a symmetry of the cube", "turned any way")
OH, PLAIN, MOVED, TIMED = ROWS = (
    "Oh",
    "plain twin",
    "plain, augmented, equal steps",
    "plain, augmented, equal time",
)
RATES = {OH: 0.02, PLAIN: 0.03, MOVED: 0.02, TIMED: 0.005}
COLOURS = {OH: "#3b6fb6", PLAIN: "#c0392b", MOVED: "#e0a458", TIMED: "#8a6d3b"}


def solids(count: int, random: np.random.Generator, tilt: float | None) -> tuple[Tensor, Tensor]:
    """Volumes (5 * count, 1, SIZE, SIZE, SIZE) and their classes; tilt None: turned any way."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1) / UNIT
    volumes, labels = [], []
    for label, cubes in enumerate(SOLIDS.values()):
        for turn in Rotation.random(count, random):
            if tilt is not None:
                direction = turn.as_rotvec() / turn.magnitude()
                turn = Rotation.from_rotvec(direction * np.radians(random.uniform(0, tilt)))
            centres = np.array(cubes) - np.mean(cubes, 0)
            here = (places - random.uniform(-0.3, 0.3, 3)) @ turn.as_matrix()
            beyond = np.abs(here[..., None, :] - centres).max(-1).min(-1)
            volumes.append(np.clip((0.5 - beyond) * UNIT + 0.5, 0, 1))  # edges one voxel soft
            labels.append(label)
    clean = np.stack(volumes)[:, None]
    noisy = clean + NOISE * random.standard_normal(clean.shape)
    return torch.from_numpy(noisy).float(), torch.tensor(labels)


def moved(x: Tensor, random: np.random.Generator) -> Tensor:
    """Each example moved by a symmetry of the cube of its own: values are moved, never mixed."""
    chosen = random.integers(CUBE.order, size=len(x))
    return torch.stack([sc.act(CUBE.elements[g], v) for g, v in zip(chosen, x, strict=True)])


def networks() -> tuple[nn.Module, nn.Module]:
    """A residual network over the group of the cube, and its plain twin of as many parameters."""
    turned = sc.models.resnet(
        8, CUBE, width=1, match=None, classes=len(SOLIDS), in_channels=1, stem="standard"
    )
    return turned, sc.models.twin(turned, group=None, match="params")


@dataclass
class Result:
    """What became of one network: parameters, steps, seconds, and its score in each test."""

    parameters: int
    steps: int
    seconds: float
    scores: tuple[float, ...]


def train(
    network: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float, augment: bool, seed: int
) -> float:
    """Train with AdamW and a one-cycle rate; the seconds of one core that it took."""
    random = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    network.train()
    start, order = time.process_time(), []
    for _ in range(steps):
        if len(order) < BATCH:
            order += random.permutation(len(x)).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        inputs = moved(x[batch], random) if augment else x[batch]
        loss = nn.functional.cross_entropy(network(inputs), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return time.process_time() - start


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of volumes that are given their class."""
    guesses = torch.cat([network.eval()(part).argmax(1) for part in x.split(BATCH)])
    return (guesses == y).double().mean().item()


@torch.no_grad()
def change(network: nn.Module, x: Tensor) -> float:
    """Largest change of the scores under a symmetry of the cube, relative to the scores."""
    scores = network.eval()(x)
    rest = (network(sc.act(g, x)) - scores for g in CUBE.elements[1:])
    return max(d.abs().max().item() for d in rest) / scores.abs().max().item()


def run(seed: int, steps: int) -> dict[str, Result]:
    """Train and test every row on the same examples."""
    random = np.random.default_rng(seed)
    x, y = solids(LEARNED, random, TILT)
    upright, label = solids(TESTED, random, TILT)
    tests = [(upright, label), (moved(upright, random), label), solids(TESTED, random, None)]
    results: dict[str, Result] = {}
    for row in ROWS:
        torch.manual_seed(seed)
        network = networks()[row != OH]
        if row == TIMED:  # as many steps as fit into the time that the first row took
            each = results[MOVED].seconds / results[MOVED].steps
            steps = max(steps, round(results[OH].seconds / each))
        seconds = train(network, x, y, steps, RATES[row], row in (MOVED, TIMED), seed)
        scores = tuple(accuracy(network, *test) for test in tests)
        parameters = sum(p.numel() for p in network.parameters())
        results[row] = Result(parameters, steps, seconds, scores)
        if row == OH and (off := change(network, upright[:1])) > 1e-4:
            raise SystemExit(f"the scores of {row} must not change with the cube, yet do by {off}")
    return results


def gathered(results: list[dict[str, Result]], row: str) -> tuple[np.ndarray, float, float]:
    """Over the seeds: scores in % (seeds, tests), mean steps, mean seconds."""
    mine = [each[row] for each in results]
    scores = 100 * np.array([one.scores for one in mine])
    return scores, np.mean([one.steps for one in mine]), np.mean([one.seconds for one in mine])


def table(results: list[dict[str, Result]]) -> str:
    """What is printed: means over the seeds, with the lowest and the highest if there are more."""
    lines = [f"{'right, %':31}parameters  steps    s" + "".join(f"{t:>19}" for t in TESTS)]
    for row in ROWS:
        scores, steps, seconds = gathered(results, row)
        spread = [f" ({low:.0f} to {high:.0f})" for low, high in zip(*ends(scores), strict=True)]
        cells = [f"{m:.1f}{s if len(results) > 1 else ''}"
                 for m, s in zip(scores.mean(0), spread, strict=True)]  # fmt: skip
        parameters = results[0][row].parameters
        start = f"{row:31}{parameters:10,}{steps:7.0f}{seconds:5.0f}"
        lines.append(start + "".join(f"{cell:>19}" for cell in cells))
    return "\n".join(lines)


def ends(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest over the seeds."""
    return scores.min(0), scores.max(0)


def draw(results: list[dict[str, Result]]) -> Figure:
    """The solids, upright and turned, and what each network made of them."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    random = np.random.default_rng(0)
    rows = (
        (f"learned:\nupright,\ntilt up to {TILT}°", solids(1, random, TILT)[0]),
        ("tested too:\nturned\nany way", solids(1, random, None)[0]),
    )
    for axes, (title, volumes) in zip(above.subplots(2, len(SOLIDS)), rows, strict=True):
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
        for ax, name, volume in zip(axes, SOLIDS, volumes[:, 0], strict=True):
            ax.imshow(volume.mean(2).numpy(), cmap="gray")
            ax.set(xticks=[], yticks=[])
            if volumes is rows[0][1]:
                ax.set_title(name, fontsize=11)
    above.suptitle(f"Volumes of {SIZE} x {SIZE} x {SIZE} voxels, seen through (mean along an axis)")
    bars(below.subplots(), results)
    return figure


def bars(ax: Axes, results: list[dict[str, Result]]) -> None:
    """Accuracy of each row in each test, with the range over the seeds."""
    for place, row in enumerate(ROWS):
        scores, steps, seconds = gathered(results, row)
        height, (low, high) = scores.mean(0), ends(scores)
        at = np.arange(len(TESTS)) + 0.2 * (place - 1.5)
        reach = (height - low, high - height) if len(results) > 1 else None
        label = f"{row}: {steps:,.0f} steps, {seconds:.0f} s"
        ax.bar(at, height, 0.18, color=COLOURS[row], label=label, yerr=reach, capsize=3)
        for x, y, top in zip(at, height, high, strict=True):
            ax.text(x, top + 1.5, f"{y:.0f}", ha="center", fontsize=9)
    ax.axhline(100 / len(SOLIDS), color="#555555", lw=1, ls=":")
    ax.text(2.46, 100 / len(SOLIDS), "chance", va="center", fontsize=9, color="#555555")
    ax.set(xlim=(-0.5, 2.45), ylim=(0, 142), yticks=range(0, 101, 25), ylabel="right, %")
    ax.set_xticks(range(len(TESTS)), SAID, fontsize=11)
    seeds = f"mean and range of {len(results)} seeds" if len(results) > 1 else "one seed"
    one = results[0]
    ax.set_title(
        f"{one[OH].parameters:,} (Oh) and {one[PLAIN].parameters:,} (plain) parameters, "
        f"{LEARNED} examples of each solid, {seeds}",
        fontsize=11,
    )
    ax.legend(loc="upper center", ncols=2, fontsize=10, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for volumes.png")
    parser.add_argument("--seeds", type=int, default=1, help="how often each is trained")
    parser.add_argument("--steps", type=int, default=150, help="steps of the first three rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(seed, given.steps) for seed in range(given.seeds)]
    print(table(results))
    given.out.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(given.out / "volumes.png", dpi=110)
    print(f"picture: {given.out / 'volumes.png'}")


if __name__ == "__main__":
    main()
