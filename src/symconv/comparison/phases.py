"""The phases of a comparison: tune, train under equal steps, train under equal time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from symconv.comparison.counting import fitting_width, own_budget, settle
from symconv.comparison.layers import Options
from symconv.comparison.runs import Run, Runner
from symconv.comparison.settings import TUNING_SEED, Settings
from symconv.comparison.structures import STRUCTURES
from symconv.data import PictureSet
from symconv.errors import StructureError


@dataclass(frozen=True)
class Variant:
    """One line of a comparison: a structure at a width, with its options.

    Args:
        label: What the tables call it.
        structure: Name of the row in the table of structures.
        width: Channels or features of the first layer.
        options: Kernels, fan-in, tile, bands.
    """

    label: str
    structure: str
    width: int
    options: Options


@dataclass
class Trained:
    """The runs of one variant.

    Args:
        variant: What was trained.
        learning_rate: The one chosen on the validation pictures.
        tuning: Validation accuracy by learning rate.
        runs: Results by training size, one per seed.
        equal_time: Results under equal time at the largest size, one per seed; the equal-steps
            ones for the slowest; empty if not asked for.
        equal_time_steps: Their number of steps.
    """

    variant: Variant
    learning_rate: float
    tuning: dict[float, float]
    runs: dict[int, list[dict]]
    equal_time: list[dict]
    equal_time_steps: int

    @property
    def largest(self) -> list[dict]:
        """The results at the largest training size."""
        return self.runs[max(self.runs)]

    @property
    def step_seconds(self) -> float:
        """Duration of a training step, of the least disturbed run."""
        return min(run["step_seconds"] for run in self.largest)


def variants(settings: Settings, data: PictureSet) -> tuple[Settings, list[Variant]]:
    """The settings with their budget's limit, and each structure at the width that it allows."""
    shape, classes = tuple(data.train.pictures.shape[1:]), len(data.classes)
    budget = settle(settings.budget, shape, classes, settings.options)
    options, found = settings.options, []
    for name in settings.structures:
        row = STRUCTURES[name]
        own = own_budget(row, budget, shape, classes, options)
        found.append(Variant(name, name, fitting_width(row, own, shape, classes, options), options))
    return replace(settings, budget=budget), found


def sweep_variants(settings: Settings, data: PictureSet) -> tuple[Settings, list[Variant]]:
    """Variants of fixed width whose fan-in k grows: by doubling, or with the kernel.

    Raises:
        StructureError: None of the structures has a kernel to sweep.
    """
    if settings.sweep == "fan-in":
        settings, (dense,) = variants(replace(settings, structures=("dense",)), data)
        inputs = data.channels * data.canvas**2
        doubling = [2**i for i in range(inputs.bit_length()) if 2**i < inputs]
        return settings, [
            Variant(f"k = {k}", "sparse", dense.width, replace(settings.options, fan_in=k))
            for k in [*doubling, inputs]
        ]
    chosen = [name for name in settings.structures if name in ("local", "conv")]
    if not chosen:
        raise StructureError("local or conv to sweep the kernel of", ", ".join(settings.structures))
    settings, bases = variants(replace(settings, structures=tuple(chosen)), data)
    return settings, [
        Variant(
            f"{base.structure} {kernel}x{kernel}",
            base.structure,
            base.width,
            replace(settings.options, kernels=(kernel,) * 3),
        )
        for base in bases
        for kernel in (1, 3, 5, 7)
    ]


def base_run(settings: Settings, fingerprint: str, variant: Variant, size: int) -> Run:
    """What all runs of a variant have in common."""
    return Run(
        source=settings.source,
        data=fingerprint,
        structure=variant.structure,
        width=variant.width,
        train_size=size,
        seed=TUNING_SEED,
        steps=settings.steps,
        learning_rate=settings.learning_rates[0],
        options=variant.options,
        batch=settings.batch,
        weight_decay=settings.weight_decay,
        accelerator=settings.accelerator,
        precision=settings.precision,
    )


def tune(runner: Runner, settings: Settings, bases: list[Run]) -> list[dict[float, dict]]:
    """Try every learning rate once per variant, on the validation pictures alone."""
    rates = settings.learning_rates
    runs = [base.with_(learning_rate=rate) for base in bases for rate in rates]
    found = iter(runner.run(runs, "choosing learning rates"))
    return [{rate: next(found) for rate in rates} for _ in bases]


def best_rate(found: dict[float, dict]) -> float:
    """The learning rate with the best validation accuracy; of equals the least loss.

    Example:
        >>> best_rate({1.0: dict(validation=0.5, validation_loss=float("nan")),
        ...            0.1: dict(validation=0.5, validation_loss=3.0)})
        0.1
    """

    def merit(rate: float) -> tuple[float, float]:
        loss = found[rate]["validation_loss"]
        return found[rate]["validation"], -loss if math.isfinite(loss) else -math.inf

    return max(found, key=merit)


def train(
    runner: Runner, settings: Settings, bases: list[Run], rates: list[float], sizes: list[int]
) -> list[dict[int, list[dict]]]:
    """The final runs under equal steps: every variant, training size and seed."""
    runs = [
        base.with_(
            learning_rate=rate,
            train_size=size,
            steps=settings.steps_for(size, sizes[-1]),
            seed=seed,
            final=True,
            inspect=size == sizes[-1],
        )
        for base, rate in zip(bases, rates, strict=True)
        for size in sizes
        for seed in range(settings.seeds)
    ]
    found = iter(runner.run(runs, "training under equal steps"))
    return [{size: [next(found) for _ in range(settings.seeds)] for size in sizes} for _ in bases]


def calm(number: float) -> int:
    """A number with two significant digits, rounded down.

    Example:
        >>> calm(1287.4), calm(203.0), calm(7.9)
        (1200, 200, 7)
    """
    whole = int(number)
    unit = 10 ** max(0, len(str(whole)) - 2)
    return whole // unit * unit


def train_equal_time(
    runner: Runner, settings: Settings, bases: list[Run], trained: list[Trained]
) -> None:
    """Give every variant the time that the slowest one took at the largest size."""
    slowest = max(t.step_seconds for t in trained) * settings.steps
    longer: list[tuple[Trained, list[Run]]] = []
    for base, found in zip(bases, trained, strict=True):
        found.equal_time_steps = max(settings.steps, calm(slowest / found.step_seconds))
        if found.equal_time_steps <= 1.1 * settings.steps:
            found.equal_time, found.equal_time_steps = found.largest, settings.steps
            continue
        again = base.with_(
            learning_rate=found.learning_rate, steps=found.equal_time_steps, final=True
        )
        longer.append((found, [again.with_(seed=seed) for seed in range(settings.seeds)]))
    results = iter(runner.run([run for _, runs in longer for run in runs], "equal time"))
    for found, runs in longer:
        found.equal_time = [next(results) for _ in runs]


def count_runs(settings: Settings, lines: int, sizes: Iterable[int]) -> int:
    """How many runs a comparison has, at most."""
    each = len(settings.learning_rates) + settings.seeds * len(list(sizes))
    extra = settings.seeds if settings.equal_time and not settings.sweep else 0
    return lines * (each + extra)
