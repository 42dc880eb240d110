"""Which structure is best, said only where the difference exceeds its own spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 2.0
CLOSE_WEIGHTS = 1.05
METHOD = (
    "Two structures are compared on the same pictures with the same seeds. With d the difference "
    "of correctness per seed and picture, the squared standard error of its mean is "
    "var(mean of d over seeds) / pictures + var(mean of d over pictures) / seeds; structures "
    f"count as different when the mean exceeds {THRESHOLD:g} standard errors. With three seeds "
    "the spread over seeds is itself uncertain, and several pairs are compared at once: take a "
    "narrow win as a hint."
)


@dataclass(frozen=True)
class Gap:
    """A difference of accuracies, first minus second.

    Args:
        mean: Mean difference, as a fraction.
        error: Its standard error; infinite with a single seed, whose spread cannot be known.
    """

    mean: float
    error: float

    @property
    def distinguishable(self) -> bool:
        """Whether the difference exceeds its spread."""
        return abs(self.mean) > THRESHOLD * self.error


def gap(first: NDArray, second: NDArray) -> Gap:
    """The paired difference of two arrays of correctness (seeds, pictures).

    error^2 = var_pictures(mean_seeds d) / pictures + var_seeds(mean_pictures d) / seeds, both
    variances unbiased. The first term covers which pictures were drawn, the second how a network
    happens to be initialised and trained.

    Args:
        first: Whether each picture was classified correctly (seeds, pictures).
        second: The same for the other structure, seeds and pictures in the same order.

    Example:
        >>> right, wrong = np.ones((3, 50)), np.zeros((3, 50))
        >>> gap(right, wrong)
        Gap(mean=1.0, error=0.0)
        >>> gap(right, right).distinguishable
        False
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    seeds, pictures = difference.shape
    if seeds < 2 or pictures < 2:
        return Gap(float(difference.mean()), float("inf"))
    over_pictures = difference.mean(0).var(ddof=1) / pictures
    over_seeds = difference.mean(1).var(ddof=1) / seeds
    return Gap(float(difference.mean()), float(np.sqrt(over_pictures + over_seeds)))


@dataclass(frozen=True)
class Verdict:
    """What one test says about all structures.

    Args:
        test: Name of the test.
        accuracy: Mean accuracy by structure.
        parameters: Trained numbers by structure.
        macs: Multiply-accumulates by structure.
        best: The structure with the highest mean.
        gaps: The best one's lead over every other structure.
        seeds: How many seeds were paired.
    """

    test: str
    accuracy: dict[str, float]
    parameters: dict[str, int]
    macs: dict[str, int]
    best: str
    gaps: dict[str, Gap]
    seeds: int

    @property
    def peers(self) -> list[str]:
        """Structures that cannot be told apart from the best, itself first."""
        close = [name for name, lead in self.gaps.items() if not lead.distinguishable]
        return [self.best, *sorted(close, key=lambda name: -self.accuracy[name])]

    @property
    def ties(self) -> list[str]:
        """Other structures whose mean equals the best one's."""
        return [name for name, lead in self.gaps.items() if lead.mean == 0]

    @property
    def losers(self) -> list[str]:
        """Structures behind the best by more than the spread, nearest first."""
        far = [name for name, lead in self.gaps.items() if lead.distinguishable]
        return sorted(far, key=lambda name: -self.accuracy[name])

    @property
    def winner(self) -> str | None:
        """The best, if it beats every other structure."""
        return self.best if self.gaps and not self.peers[1:] else None

    @property
    def equal_weights(self) -> bool:
        """Whether the peers' weights differ by at most a twentieth, as within one budget."""
        weights = [self.parameters[name] for name in self.peers]
        return max(weights) <= CLOSE_WEIGHTS * min(weights)

    @property
    def preferred(self) -> str:
        """The winner, or the one with fewest weights of those that cannot be told apart.

        Where a budget makes their weights as good as equal, the multiply-accumulates decide.
        """
        cost = self.macs if self.equal_weights else self.parameters
        return min(self.peers, key=lambda name: (cost[name], -self.accuracy[name]))

    def sentence(self) -> str:
        """The verdict in words."""
        return f"{self.short()}{self._behind()}"

    def brief(self) -> str:
        """The verdict in a line or two: without those behind, and without every peer's number."""
        if self.winner or not self.gaps or self.seeds < 2:
            return self.short()
        peers = self.peers
        named = listed(peers if len(peers) <= 4 else [*peers[:3], f"{len(peers) - 3} more"])
        least = min(self.accuracy[name] for name in peers)
        span = f"{100 * self.accuracy[self.best]:.1f} to {100 * least:.1f} %"
        return (
            f"{_capital(self.test)}: {named} cannot be told apart ({span}); "
            f"{self._why_preferred()}."
        )

    def short(self) -> str:
        """The verdict without those behind."""
        if not self.gaps:
            return f"{_capital(self.test)}: only {self._named(self.best)} was trained."
        if self.winner:
            second = self.losers[0]
            lead = self.gaps[second]
            return (
                f"{_capital(self.test)}: {self._named(self.best)} wins, "
                f"{100 * lead.mean:.1f} points (± {100 * lead.error:.1f}) ahead of {second}."
            )
        if self.seeds < 2:
            first = [self._named(name) for name in (self.best, *self.ties)]
            ahead = f"{listed(first)} tie, and" if self.ties else f"{first[0]} is ahead, but"
            return (
                f"{_capital(self.test)}: {ahead} a single seed shows no spread, so no winner is "
                "named."
            )
        named = listed([self._named(name) for name in self.peers])
        tie = f" ({listed([self.best, *self.ties])} tie)" if self.ties else ""
        why = self._why_preferred()
        return f"{_capital(self.test)}: {named} cannot be told apart{tie}; {why}."

    def _why_preferred(self) -> str:
        name = self.preferred
        if self.equal_weights:
            return (
                f"their weights are within 5 % of each other, and {name} has the fewest "
                f"multiply-accumulates ({self.macs[name]:,})"
            )
        return f"{name} has the fewest weights ({self.parameters[name]:,})"

    def _behind(self) -> str:
        losers = self.losers if self.winner is None else self.losers[1:]
        if not losers:
            return ""
        behind = [f"{name} ({100 * self.gaps[name].mean:.1f})" for name in losers]
        return f" Behind by more than the spread, in points: {listed(behind)}."

    def _named(self, name: str) -> str:
        return f"{name} ({100 * self.accuracy[name]:.1f} %)"

    def to_dict(self) -> dict:
        """A JSON document of it."""
        return {
            "test": self.test,
            "best": self.best,
            "winner": self.winner,
            "preferred": self.preferred,
            "not_distinguishable": self.peers,
            "behind": self.losers,
            "lead": {
                name: {
                    "points": round(100 * lead.mean, 3),
                    "standard_error": round(100 * lead.error, 3) if self.seeds > 1 else None,
                }
                for name, lead in self.gaps.items()
            },
            "sentence": self.sentence(),
        }


def judge(
    test: str,
    correct: Mapping[str, NDArray],
    parameters: Mapping[str, int],
    macs: Mapping[str, int],
) -> Verdict:
    """Compare the structures on one test.

    Args:
        test: Name of the test.
        correct: Correctness (seeds, pictures) by structure, in the same order for all.
        parameters: Trained numbers by structure.
        macs: Multiply-accumulates by structure.
    """
    accuracy = {name: float(np.mean(array)) for name, array in correct.items()}
    best = max(accuracy, key=lambda name: (accuracy[name], -parameters[name]))
    gaps = {name: gap(correct[best], array) for name, array in correct.items() if name != best}
    seeds = len(correct[best])
    return Verdict(test, accuracy, dict(parameters), dict(macs), best, gaps, seeds)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def listed(names: list[str]) -> str:
    """Names with commas and an "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
