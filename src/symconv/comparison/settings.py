"""What a comparison is asked to do, checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from symconv.comparison.counting import Budget
from symconv.comparison.layers import Options
from symconv.comparison.structures import DEFAULT, STRUCTURES
from symconv.data import Source
from symconv.errors import StructureError

TUNING_SEED = 1_000
SWEEPS = ("fan-in", "kernel")
ACCELERATORS = ("cpu", "cuda", "gpu", "mps", "auto")
PRECISIONS = (
    "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true",
    "32", "bf16", "16", "64",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a comparison.

    Args:
        source: Where the pictures come from.
        structures: Names of rows in the table of structures.
        budget: What each network may cost.
        seeds: Final runs of each structure and training size.
        steps: Optimiser steps of a run at the largest training size; with fewer pictures fewer.
        batch: Pictures in a step.
        sizes: Training sizes of the learning curve, where there are as many pictures.
        learning_rates: Tried for every structure on the validation pictures.
        weight_decay: AdamW's, the same for all.
        equal_time: Also train every structure for the time that the slowest one took.
        sweep: None, "fan-in" or "kernel".
        options: Kernels, fan-in, tile, bands.
        accelerator: "cpu", "cuda", "gpu", "mps" or "auto".
        precision: As lightning_fabric takes it.
    """

    source: Source = field(default_factory=Source)
    structures: tuple[str, ...] = DEFAULT
    budget: Budget = field(default_factory=Budget)
    seeds: int = 3
    steps: int = 250
    batch: int = 48
    sizes: tuple[int, ...] = (100, 1000)
    learning_rates: tuple[float, ...] = (5e-3, 1e-2)
    weight_decay: float = 0.01
    equal_time: bool = True
    sweep: str | None = None
    options: Options = field(default_factory=Options)
    accelerator: str = "cpu"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        check_structures(self.structures)
        for name, least in (("seeds", 1), ("steps", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise StructureError(f"{name} of at least {least}", getattr(self, name))
        if self.sweep not in (None, *SWEEPS):
            raise StructureError("a sweep over 'fan-in' or 'kernel'", repr(self.sweep))
        if not self.learning_rates or not all(0 < x < math.inf for x in self.learning_rates):
            raise StructureError("positive finite learning rates", self.learning_rates)
        for name, known in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise StructureError(f"{name} among {', '.join(known)}", repr(getattr(self, name)))
        if not self.sizes or min(self.sizes) < 2:
            raise StructureError("training sizes of at least 2", self.sizes)

    def sizes_for(self, pictures: int) -> list[int]:
        """The training sizes that a set has pictures for, and all it has if that is far more.

        Example:
            >>> Settings().sizes_for(1000), Settings().sizes_for(120), Settings().sizes_for(40)
            ([100, 1000], [100], [40])
            >>> Settings().sizes_for(250)
            [100, 250]
        """
        within = [size for size in sorted(set(self.sizes)) if size <= pictures]
        if not within:
            return [pictures]
        more = pictures < max(self.sizes) and pictures >= 1.5 * within[-1]
        return [*within, pictures] if more else within

    def steps_for(self, size: int, largest: int) -> int:
        """The steps at a training size: they grow with its square root, for all structures alike.

        Example:
            >>> Settings().steps_for(1000, 1000), Settings().steps_for(250, 1000)
            (250, 125)
        """
        return max(1, round(self.steps * math.sqrt(size / largest)))


def check_structures(names: Sequence[str]) -> None:
    """Refuse unknown, repeated or no structures.

    Raises:
        StructureError: A name is not in the table, occurs twice, or there is none.
    """
    unknown = [name for name in names if name not in STRUCTURES]
    if unknown or not names or len(set(names)) < len(names):
        raise StructureError(
            f"different structures out of {', '.join(STRUCTURES)}",
            ", ".join(unknown or names) or "none",
            "separate them by commas",
        )
