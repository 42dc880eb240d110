"""What a comparison found: numbers, verdicts and the sentences that say them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import symconv
from symconv.comparison.packing import unpack
from symconv.comparison.payoff import Payoff, payoffs, told
from symconv.comparison.phases import Trained
from symconv.comparison.settings import Settings
from symconv.comparison.structures import STRUCTURES
from symconv.comparison.verdict import METHOD, Verdict, judge, listed
from symconv.data import PictureSet
from symconv.data.pictures import SMALLEST


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over seeds, as fractions.

    Args:
        values: One per seed.

    Example:
        >>> str(Accuracy((0.5, 0.7)))
        '60.0 ±14.1'
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ±{100 * self.spread:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Line:
    """One line of the tables.

    Args:
        label: What it is called.
        structure: Its row in the table of structures.
        about: What is connected and shared.
        width: Channels or features of the first layer.
        fan_in: Inputs of a unit in the first layer, at most; and of how many.
        inputs: Inputs of the first layer.
        parameters: All trained numbers.
        connections: Pairs (output, input).
        macs: Multiply-accumulates for one picture.
        learning_rate: The one chosen.
        tuning: Validation accuracy by learning rate.
        seconds: Mean training time of a run at the largest size.
        step_seconds: Time of an undisturbed step.
        errors: Equivariance error by transform after training, mean over seeds.
        errors_before: The same before training.
        shares: Shares of the test pictures by the names of `shifts.MEASURES`, mean over seeds.
        other_sizes: Whether a larger canvas works.
        other_sizes_reason: Why not.
        curve: Accuracy by test and training size.
        equal_time_steps: Steps under equal time; None if not asked for.
        equal_time: Accuracy by test under equal time.
    """

    label: str
    structure: str
    about: str
    width: int
    fan_in: int
    inputs: int
    parameters: int
    connections: int
    macs: int
    learning_rate: float
    tuning: dict[float, float]
    seconds: float
    step_seconds: float
    errors: dict[str, float]
    errors_before: dict[str, float]
    shares: dict[str, float]
    other_sizes: bool
    other_sizes_reason: str
    curve: dict[str, dict[int, Accuracy]]
    equal_time_steps: int | None
    equal_time: dict[str, Accuracy]

    def accuracy(self, test: str) -> Accuracy | None:
        """Accuracy on a test at the largest training size, if the test applies."""
        found = self.curve.get(test)
        return found[max(found)] if found else None


def accuracies(runs: list[dict]) -> dict[str, Accuracy]:
    """Accuracy by test over the runs of several seeds."""
    return {
        test: Accuracy(tuple(r["accuracy"][test] for r in runs)) for test in runs[0]["accuracy"]
    }


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: mean(each[name] for each in found) for name in found[0]}


def make_line(trained: Trained) -> Line:
    """Gather the runs of a variant into a line."""
    variant, first = trained.variant, trained.largest[0]
    tests = list(first["accuracy"])
    curve = {test: {s: accuracies(r)[test] for s, r in trained.runs.items()} for test in tests}
    return Line(
        label=variant.label,
        structure=variant.structure,
        about=STRUCTURES[variant.structure].about,
        width=variant.width,
        fan_in=first["fan_in"],
        inputs=first["inputs"],
        parameters=first["parameters"],
        connections=first["connections"],
        macs=first["macs"],
        learning_rate=trained.learning_rate,
        tuning=trained.tuning,
        seconds=mean(r["seconds"] for r in trained.largest),
        step_seconds=trained.step_seconds,
        errors=_means([r["errors"] for r in trained.largest]),
        errors_before=_means([r["errors_before"] for r in trained.largest]),
        shares=_means([r["shares"] for r in trained.largest]),
        other_sizes=first["other_sizes"],
        other_sizes_reason=first["other_sizes_reason"],
        curve=curve,
        equal_time_steps=trained.equal_time_steps if trained.equal_time else None,
        equal_time=accuracies(trained.equal_time) if trained.equal_time else {},
    )


def correctness(runs: list[dict], test: str) -> NDArray:
    """Correctness (seeds, pictures) on a test."""
    return np.stack([unpack(run["correct"][test]) for run in runs])


def verdicts(trained: list[Trained], *, equal_time: bool) -> list[Verdict]:
    """One verdict per test, over the structures that take it."""
    tests = dict.fromkeys(test for t in trained for test in t.largest[0]["accuracy"])
    found = []
    for test in tests:
        taken = {
            t.variant.label: (t.equal_time if equal_time else t.largest)
            for t in trained
            if test in t.largest[0]["accuracy"]
        }
        correct = {label: correctness(runs, test) for label, runs in taken.items()}
        parameters = {label: runs[0]["parameters"] for label, runs in taken.items()}
        macs = {label: runs[0]["macs"] for label, runs in taken.items()}
        name = f"{test}, equal time" if equal_time else test
        found.append(judge(name, correct, parameters, macs))
    return found


def leads(trained: list[Trained], *, equal_time: bool) -> list[Payoff]:
    """Each group convolution beside its plain twin."""
    correct = {}
    for t in trained:
        runs = t.equal_time if equal_time else t.largest
        tests = t.largest[0]["accuracy"]
        correct[t.variant.label] = {test: correctness(runs, test) for test in tests}
    return payoffs(correct, equal_time=equal_time)


@dataclass(frozen=True)
class Comparison:
    """The outcome of `symconv.compare`: print it, or take `lines`, `verdicts` and `to_dict()`.

    Args:
        settings: What was asked, with the budget's limit.
        data: The pictures, described.
        lines: One per structure (or per point of a sweep).
        verdicts: One per test, under equal steps at the largest training size.
        equal_time_verdicts: The same under equal time.
        payoffs: Each group convolution beside its plain twin.
        pictures: Filters and feature maps of seed 0 by label, for the page.
        versions: What produced it.
    """

    settings: Settings
    data: dict
    lines: list[Line]
    verdicts: list[Verdict]
    equal_time_verdicts: list[Verdict]
    payoffs: list[Payoff]
    pictures: dict[str, dict] = field(repr=False)
    versions: dict[str, str]

    @property
    def headline(self) -> str:
        """The verdicts, in words."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """The verdict on each test and on symmetry, in few words; `details` has them in full."""
        if self.settings.sweep:
            return [self._sweep_sentence(verdict) for verdict in self.verdicts]
        paid = [payoff.sentence() for payoff in told(self.payoffs)]
        return [*(verdict.brief() for verdict in self.verdicts), *self._timed(), *paid]

    def _timed(self) -> list[str]:
        """Under equal time, the best on each test in one sentence."""
        if not self.equal_time_verdicts:
            return []
        best = [
            f"{steps.test} {timed.best} ({100 * timed.accuracy[timed.best]:.1f} %)"
            for steps, timed in zip(self.verdicts, self.equal_time_verdicts, strict=True)
        ]
        return [f"Highest under equal time: {listed(best)}."]

    @property
    def details(self) -> list[str]:
        """The verdicts in full: who cannot be told apart, and who is how far behind."""
        timed = [verdict.sentence() for verdict in self.equal_time_verdicts]
        paid = [payoff.sentence() for payoff in self.payoffs]
        return [*(verdict.sentence() for verdict in self.verdicts), *timed, *paid]

    def _sweep_sentence(self, verdict: Verdict) -> str:
        peers = [line for line in self.lines if line.label in verdict.peers]
        least = min(peers, key=lambda line: (line.fan_in, line.parameters))
        best = verdict.best
        return (
            f"{verdict.test.capitalize()}: {best} is best "
            f"({100 * verdict.accuracy[best]:.1f} %); the smallest fan-in that cannot be told "
            f"from it is {least.label}, where a unit of the first layer sees {least.fan_in} of "
            f"{least.inputs} inputs ({100 * verdict.accuracy[least.label]:.1f} %)."
        )

    def to_dict(self) -> dict:
        """Everything but the pictures, as one JSON document holds it."""
        document = {
            "settings": asdict(self.settings),
            "data": self.data,
            "headline": self.headline,
            "lines": [_plain(line) for line in self.lines],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "equal_time_verdicts": [verdict.to_dict() for verdict in self.equal_time_verdicts],
            "payoffs": [payoff.to_dict() for payoff in self.payoffs],
            "details": [] if self.settings.sweep else self.details,
            "method": METHOD,
            "versions": self.versions,
        }
        return json.loads(json.dumps(finite(document), allow_nan=False))

    def to_json(self) -> str:
        """The document as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_html(self, path: str | Path) -> Path:
        """Write the page: one self-contained file."""
        from symconv.comparison.page import write_page  # matplotlib loads only where it is used

        return write_page(self, Path(path))

    def __str__(self) -> str:
        from symconv.comparison.tables import render  # rich is an extra

        return render(self)


def finite(document: Any) -> Any:
    """The document with None for what JSON has no number for: NaN and the infinities.

    Example:
        >>> finite({"loss": [1.5, float("nan")], "error": float("inf")})
        {'loss': [1.5, None], 'error': None}
    """
    if isinstance(document, Mapping):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def _plain(line: Line) -> dict:
    document = asdict(line)
    document["curve"] = {
        test: {str(size): _spread(accuracy) for size, accuracy in sizes.items()}
        for test, sizes in line.curve.items()
    }
    document["equal_time"] = {test: _spread(a) for test, a in line.equal_time.items()}
    return document


def _spread(accuracy: Accuracy) -> dict:
    return {"mean": accuracy.mean, "spread": accuracy.spread, "seeds": list(accuracy.values)}


def describe(data: PictureSet, sizes: list[int]) -> dict:
    """The picture set in a few numbers."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "canvas": data.canvas,
        "channels": data.channels,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "reach": data.reach,
        "farthest": data.farthest,
        "factors": [SMALLEST, data.largest],
        "full_frame": data.full_frame,
        "sizes": sizes,
    }


def versions() -> dict[str, str]:
    """The software that produced a result."""
    return {
        "symconv": symconv.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
