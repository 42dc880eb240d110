"""Near and far: digits learned at one size, told apart at sizes from half to twice that.

Three networks learn from digits of one size: a plain one, a plain one that is shown them at random
sizes as well, and one of scale layers, which has seen no other size: what is twice as large gives
the same features, two half octaves further up, and a maximum over scales and places does not see
the difference. It has a hundredth of the weights, is behind the plain network at the size that was
learned and ahead of it at all others. Where sizes may be shown in training, the plain network that
is shown them is better still, at every size. Test pictures are resized by cubic splines behind a
Gaussian (scikit-image), those to learn from by the band-limited `sc.rescale`. A step of the plain
networks takes about three quarters of the time of one of the scale network.

Run it with `python examples/near_and_far.py --out out`; it writes near_and_far.png, in some ten
minutes on one core. `--seeds 1` takes a third of that.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage.transform import resize
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import symconv as sc
from symconv.lattice import Field

CANVAS, SIZE = 48, 20  # pixels of a picture, and of a digit as it is learned
FACTORS = (0.5, 0.6, 0.71, 0.84, 1.0, 1.19, 1.41, 1.68, 2.0)
BATCH, RATE, LEARNED = 32, 0.01, 1000
SCALES = sc.groups.scales(2**0.5, 5)
PLAIN, SHOWN, SCALED = WAYS = ("plain", "plain, shown all sizes", "scale layers")
COLOURS = {PLAIN: "#c0392b", SHOWN: "#e0a458", SCALED: "#3b6fb6"}


def placed(digits: Tensor) -> Tensor:
    """Digits (N, 1, s, s) in the middle of the canvas."""
    before = (CANVAS - digits.shape[-1]) // 2
    after = CANVAS - digits.shape[-1] - before
    return F.pad(digits, (before, after, before, after))


def pictures(seed: int, tested: int) -> tuple[Tensor, Tensor, np.ndarray, Tensor]:
    """Digits to learn from at their size, their labels, and raw ones to test with."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    raw, labels = data.images[order] / 16, torch.from_numpy(data.target[order])
    digits = torch.from_numpy(raw[:LEARNED]).float()[:, None]
    learned = placed(sc.rescale(digits, SIZE / digits.shape[-1]))
    end = LEARNED + tested
    return learned, labels[:LEARNED], raw[LEARNED:end], labels[LEARNED:end]


def at_factor(raw: np.ndarray, factor: float) -> Tensor:
    """Test digits at so many times the size that was learned."""
    side = round(SIZE * factor)
    rows = [resize(digit, (side, side), order=3, anti_aliasing=True) for digit in raw]
    return placed(torch.from_numpy(np.array(rows)).float()[:, None])


def plain(width: int = 36) -> nn.Module:
    """Three convolutions, and the largest response anywhere."""

    def block(inside: int, outside: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, 5, stride, 2, bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU()]

    layers = *block(1, width, 1), *block(width, 2 * width, 2), *block(2 * width, 2 * width, 2)
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def scaled(copies: int = 12) -> nn.Module:
    """Two scale convolutions: the largest response anywhere, at any scale."""

    def block(inside: Field, outside: int, stride: int) -> list[nn.Module]:
        field = SCALES.regular(outside)
        conv = sc.nn.ScaleConv2d(inside, field, 5, stride, bias=False)
        return [conv, sc.nn.FieldBatchNorm(field), nn.ReLU()]

    first, last = SCALES.regular(copies), SCALES.regular(2 * copies)
    layers = *block(SCALES.trivial(1), copies, 1), *block(first, 2 * copies, 2)
    ends = sc.nn.ScalePool(last), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2 * copies, 10)
    return nn.Sequential(*layers, *ends)


def at_random_size(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures resized by one factor from 0.5 to 2, cut or filled to the canvas."""
    factor = 2 ** (2 * float(torch.rand((), generator=generator)) - 1)
    side = round(CANVAS * factor)
    x = sc.rescale(x, side / CANVAS)
    if side <= CANVAS:
        return placed(x)
    first = (side - CANVAS) // 2
    return x[..., first : first + CANVAS, first : first + CANVAS]


def train(way: str, x: Tensor, labels: Tensor, steps: int, seed: int) -> tuple[nn.Module, float]:
    """The trained network, and the processor time of a step in milliseconds."""
    torch.manual_seed(seed)
    model = scaled() if way == SCALED else plain()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    start = time.process_time()
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        batch = x[chosen]
        if way == SHOWN:  # each picture by its own factor: one for all would mislead batch norm
            batch = torch.cat([at_random_size(one, generator) for one in batch.split(1)])
        loss = F.cross_entropy(model(batch), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return model.eval(), 1e3 * (time.process_time() - start) / steps


@torch.no_grad()
def check(model: nn.Module, x: Tensor) -> None:
    """Refuse to go on where the features of what is twice as large are not two scales up."""
    lift = model[0]
    small = lift(x).unflatten(1, (-1, SCALES.count))[:, :, 0]
    large = lift(sc.rescale(x, 2)).unflatten(1, (-1, SCALES.count))[:, :, 2]
    error = (sc.rescale(large, 0.5) - small).square().sum() / small.square().sum()
    if not error < 0.01:
        raise SystemExit(f"scales do not follow the size of a picture: error {float(error):.2g}")


def accuracies(model: nn.Module, tests: list[Tensor], labels: Tensor) -> list[float]:
    """The share of test pictures that are told right, at each size."""
    with torch.no_grad():
        return [float((model(x).argmax(1) == labels).float().mean()) for x in tests]


def drawn(table: dict[str, np.ndarray], path: Path) -> None:
    """Accuracy by size, a line for each network."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for way, rows in table.items():
        axes.plot(FACTORS, 100 * rows.mean(0), "o-", color=COLOURS[way], label=way)
    axes.axvline(1, color="0.7", lw=0.8, ls="--")
    ticks = FACTORS[::2]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(f) for f in ticks])
    axes.set(ylim=(0, 102), xlabel="size of a digit, learned = 1", ylabel="accuracy in %")
    axes.legend(frameon=False, loc="lower center")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, test, print and draw."""
    parser = argparse.ArgumentParser(description="digits near and far, learned at one size")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tested", type=int, default=400, help="pictures to test with")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        x, labels, raw, answers = pictures(seed, options.tested)
        tests = [at_factor(raw, factor) for factor in FACTORS]
        for way in WAYS:
            model, ms = train(way, x, labels, options.steps, seed)
            if way == SCALED:
                check(model, x[:4])
            table[way].append(accuracies(model, tests, answers))
            times[way].append(ms)
    means = {way: np.array(rows) for way, rows in table.items()}
    print("accuracy in % by size, learned at 1; mean of", options.seeds, "seeds")
    print(f"{'':<24}" + "".join(f"{factor:>6}" for factor in FACTORS) + "  ms a step")
    for way, rows in means.items():
        cells = "".join(f"{100 * value:6.1f}" for value in rows.mean(0))
        print(f"{way:<24}{cells}{np.mean(times[way]):11.0f}")
    picture = options.out / "near_and_far.png"
    drawn(means, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
