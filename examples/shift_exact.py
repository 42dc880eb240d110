"""A trained network made exact for shifts and for quarter turns, without training it again.

A small strided network learns handwritten digits that stand upright, each shifted about the canvas
(circularly) every time it is seen. Strides still make its answer depend on the shift, and turned
digits it has never seen. Then, with its weights as they are:

- polyphase sampling makes the strides exact (`sc.antialias`), or the digit is brought to
  one shift that it decides itself (`sc.symmetrize`): the answer does not depend on the shift then;
- the mean over C4, or one turn that the digit decides, does the same for quarter turns. A mean
  over poses that the network does not know costs accuracy, and so does a turn chosen regardless of
  what it knows. A small equivariant network that has learned which way is up, on the same upright
  digits, finds the pose that it knows. (A turned 6 is a 9: no method can tell these apart.)

Printed are the accuracy on new digits upright, shifted and turned, how often the class stays the
same (consistency), and the time of a pass. Run it with `python examples/shift_exact.py --out out`;
it writes shift_exact.png, in half a minute on one core. `--seeds 3` trains three networks.
"""

import argparse
import statistics
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import symconv as sc
from symconv.conversion import Canonicaliser, prior_loss
from symconv.data.bundled import digits
from symconv.data.pictures import PictureSet

C4 = sc.groups.parse("C4")
WIDTH, BATCH, RATE = 8, 64, 0.01
POSE_STEPS = 150  # of the network that learns which way is up, at most
TRAINED, POLYPHASE, MEAN, SHIFT, TURN, LEARNED = ROWS = (
    "as trained",
    "polyphase",
    "polyphase, mean over C4",
    "one shift",
    "one shift, one turn",
    "one shift, learned turn",
)
FOR_SHIFTS = ROWS[1:]
FOR_TURNS = MEAN, TURN, LEARNED
TESTS = "upright", "shifted", "turned"
COLUMNS = (*TESTS, "same shifted", "same turned", "time")
COLOURS = "#b8c4d6", "#e0a458", "#3b6fb6"


@cache
def all_digits() -> PictureSet:
    """Handwritten digits, upright and turned."""
    return digits()


def network() -> nn.Module:
    """Five convolutions with circular padding, two of them strided, and a mean over positions."""

    def block(inside: int, outside: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, 3, stride, 1, padding_mode="circular", bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU()]

    w = WIDTH
    layers = *block(1, w), *block(w, 2 * w, 2), *block(2 * w, 2 * w), *block(2 * w, 4 * w, 2)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, 10)
    return nn.Sequential(*layers, *block(4 * w, 4 * w), *head)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture by its own circular shift."""
    steps = torch.randint(x.shape[-1], (len(x), 2), generator=generator).tolist()
    return torch.stack([sc.translate(one, step) for one, step in zip(x, steps, strict=True)])


def train(model: nn.Module, x: Tensor, labels: Tensor, steps: int, seed: int) -> nn.Module:
    """AdamW with a one-cycle rate."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(shifted(x[chosen], generator)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return model.eval()


def which_way_is_up(x: Tensor, steps: int, seed: int) -> Canonicaliser:
    """A small network that tells how upright digits are turned, from upright ones alone."""
    generator = torch.Generator().manual_seed(seed)
    pose = Canonicaliser(C4.trivial(1))
    optimiser = torch.optim.AdamW(pose.parameters(), RATE)
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        loss = prior_loss(pose(x[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return pose.eval()


def polyphase(model: nn.Module) -> nn.Module:
    """The same weights, every stride taken at the phase that its input decides."""
    return sc.antialias(model, method="polyphase")[0].eval()


def converted(model: nn.Module, x: Tensor, steps: int, seed: int) -> dict[str, nn.Module]:
    """The trained network and what is made of it. None of its weights changes."""
    phases = polyphase(model)
    shift = sc.symmetrize(model, "translations", "canonical")
    with torch.no_grad():
        upright = shift.picture(x)  # as the pose will see them
    pose = which_way_is_up(upright, min(steps, POSE_STEPS), seed)
    return {
        TRAINED: model,
        POLYPHASE: phases,
        MEAN: sc.symmetrize(phases, C4),
        SHIFT: shift,
        TURN: sc.symmetrize(shift, C4, "canonical"),
        LEARNED: sc.symmetrize(shift, C4, "canonical", canonicaliser=pose),
    }


def check(row: str, scores: dict[str, Tensor]) -> None:
    """Stop where a promise is not kept."""
    for test, promised in (("shifted", FOR_SHIFTS), ("turned", FOR_TURNS)):
        change = (scores[test] - scores["upright"]).abs().max() / scores["upright"].abs().max()
        if row in promised and change > 1e-5:
            raise SystemExit(f"scores of {row!r} must not change when {test}, yet do by {change}")


def seconds(models: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Processor time of a pass, the models in turn; the median of five."""
    times: dict[str, list[float]] = {row: [] for row in models}
    for _ in range(5):
        for row, model in models.items():
            start = time.process_time()
            model(x)
            times[row].append(time.process_time() - start)
    return {row: statistics.median(found) for row, found in times.items()}


@torch.no_grad()
def test(models: dict[str, nn.Module], x: Tensor, turned: Tensor, labels: Tensor) -> np.ndarray:
    """Accuracies, consistencies in % and times as ratios: (rows, columns)."""
    pictures = {
        "upright": x,
        "shifted": shifted(x, torch.Generator().manual_seed(1)),
        "turned": turned,
    }
    times, table = seconds(models, x[:100]), []
    for row, model in models.items():
        scores = {name: model(given) for name, given in pictures.items()}
        check(row, scores)
        classes = {name: found.argmax(1) for name, found in scores.items()}
        right = [100 * float((classes[name] == labels).float().mean()) for name in TESTS]
        same = [
            100 * float((classes[name] == classes["upright"]).float().mean()) for name in TESTS[1:]
        ]
        table.append([*right, *same, times[row] / times[TRAINED]])
    return np.array(table)


def run(seed: int, steps: int) -> tuple[np.ndarray, dict[str, nn.Module]]:
    """Train one network, convert and test it."""
    data = all_digits()
    torch.manual_seed(seed)
    model = train(network(), data.train.pictures, data.train.labels, steps, seed)
    models = converted(model, data.train.pictures, steps, seed)
    return test(models, data.test.pictures, data.turned.pictures, data.test.labels), models


def printed(results: np.ndarray) -> str:
    """The table (seeds, rows, columns): means, and the range of the first accuracy."""
    lines = [f"{'':26}" + "".join(f"{name:>14}" for name in COLUMNS)]
    for place, row in enumerate(ROWS):
        means = results[:, place].mean(0)
        cells = "".join(f"{value:14.1f}" for value in means[:-1]) + f"{means[-1]:14.2f}"
        lines.append(f"{row:26}{cells}")
    lines.append(
        f"{len(results)} seeds; % of {len(all_digits().test)} new digits; time of a pass as a ratio"
    )
    for place, row in enumerate(ROWS[:2]):
        found = ", ".join(f"{value:.1f}" for value in results[:, place, 0])
        lines.append(f"upright, {row}: {found}")
    return "\n".join(lines)


def draw(results: np.ndarray, models: dict[str, nn.Module]) -> Figure:
    """Some digits in the poses that the models see, and how many are right."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6])
    data = all_digits()
    x = shifted(data.turned.pictures[:6], torch.Generator().manual_seed(2))
    kinds = {"as it comes": x, "one shift": models[SHIFT].picture(x)}
    for name, row in (("one shift,\none turn", TURN), ("one shift,\nlearned turn", LEARNED)):
        kinds[name] = posed(models[row], x)
    for axes, (name, pictures) in zip(left.subplots(6, 4).T, kinds.items(), strict=True):
        axes[0].set_title(name, fontsize=10)
        for ax, picture in zip(axes, pictures, strict=True):
            ax.imshow(picture[0].numpy(), cmap="gray")
            ax.axis("off")
    draw_bars(right.subplots(), results)
    return figure


def posed(model: nn.Module, x: Tensor) -> Tensor:
    """What the wrapped network is given."""
    seen: list[Tensor] = []
    network = model.model.model
    hook = network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return torch.cat(seen)


def draw_bars(ax: Axes, results: np.ndarray) -> None:
    """Accuracies, a group a row."""
    at = np.arange(len(ROWS))[::-1]
    for place, (name, colour) in enumerate(zip(TESTS, COLOURS, strict=True)):
        values = results[:, :, place].mean(0)
        bars = ax.barh(at + 0.27 * (1 - place), values, 0.25, color=colour, label=name)
        ax.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
    times = results[:, :, -1].mean(0)
    ax.set_yticks(
        at, [f"{row}\n{ratio:.1f} x time" for row, ratio in zip(ROWS, times, strict=True)]
    )
    ax.set(xlim=(0, 108), xlabel="right, % of new digits")
    seeds = f"mean of {len(results)} seeds" if len(results) > 1 else "one seed"
    ax.set_title(f"One network, converted without training it ({seeds})", fontsize=11)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=3)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for shift_exact.png")
    parser.add_argument("--seeds", type=int, default=1, help="how many networks are trained")
    parser.add_argument("--steps", type=int, default=200, help="steps of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [run(seed, given.steps) for seed in range(given.seeds)]
    results = np.stack([table for table, _ in found])
    print(printed(results))
    given.out.mkdir(parents=True, exist_ok=True)
    draw(results, found[0][1]).savefig(given.out / "shift_exact.png", dpi=110)
    print(f"picture: {given.out / 'shift_exact.png'}")


if __name__ == "__main__":
    main()
