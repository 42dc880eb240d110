"""Where sharing over turns pays and where it does not: each group beside its plain twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from numpy.typing import NDArray

from symconv.comparison.structures import STRUCTURES
from symconv.comparison.verdict import Gap, gap, listed


@dataclass(frozen=True)
class Payoff:
    """A group convolution beside the plain convolution trained in the same way.

    Args:
        group: The group's structure.
        plain: The plain one.
        equal_time: Compared under equal time rather than equal steps.
        leads: The group's lead over the plain one, by test.
    """

    group: str
    plain: str
    equal_time: bool
    leads: dict[str, Gap]

    def sentence(self) -> str:
        """On which tests the group is ahead, level and behind.

        Example:
            >>> leads = {"turned": Gap(0.75, 0.01), "moved": Gap(0.001, 0.01)}
            >>> Payoff("C8", "conv", False, leads).sentence()
            'C8 beside conv: ahead on turned (+75.0 ± 1.0); level on moved (+0.1 ± 1.0).'
        """
        kinds: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
        for test, lead in self.leads.items():
            kinds[standing(lead)].append(f"{test} ({points(lead)})")
        said = [f"{kind} on {listed(tests)}" for kind, tests in kinds.items() if tests]
        timed = ", equal time" if self.equal_time else ""
        return f"{self.group} beside {self.plain}{timed}: {'; '.join(said)}."

    def to_dict(self) -> dict:
        """A JSON document of it."""
        return {
            "group": self.group,
            "plain": self.plain,
            "equal_time": self.equal_time,
            "leads": {
                test: {
                    "points": round(100 * lead.mean, 3),
                    "standard_error": round(100 * lead.error, 3) if isfinite(lead.error) else None,
                }
                for test, lead in self.leads.items()
            },
            "sentence": self.sentence(),
        }


def standing(lead: Gap) -> str:
    """Ahead, level (no more than the spread) or behind."""
    if not lead.distinguishable:
        return "level"
    return "ahead" if lead.mean > 0 else "behind"


def points(lead: Gap) -> str:
    """A lead in points with its standard error, where that is known."""
    error = "" if not isfinite(lead.error) else f" ± {100 * lead.error:.1f}"
    return f"{100 * lead.mean:+.1f}{error}"


def payoffs(correct: Mapping[str, Mapping[str, NDArray]], *, equal_time: bool) -> list[Payoff]:
    """One for each group convolution whose plain twin was trained too.

    Args:
        correct: Correctness (seeds, pictures) by structure and test.
        equal_time: What the runs had in common.
    """
    found = []
    for group, tests in correct.items():
        plain = STRUCTURES[group].beside if group in STRUCTURES else None
        if plain is not None and plain in correct:
            leads = {test: gap(mine, correct[plain][test]) for test, mine in tests.items()}
            found.append(Payoff(group, plain, equal_time, leads))
    return found


def told(found: list[Payoff]) -> list[Payoff]:
    """Those worth a sentence: of the last group in the table, and under equal time its last row."""
    steps = [p for p in found if not p.equal_time]
    if not steps:
        return []
    last = steps[-1].group.partition("+")[0]
    timed = [p for p in found if p.equal_time and p.group.partition("+")[0] == last]
    return [p for p in steps if p.group.partition("+")[0] == last] + timed[-1:]
