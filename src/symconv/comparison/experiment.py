"""`compare`: train the same small network from every structure and say which suits the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from symconv.comparison.counting import Budget
from symconv.comparison.phases import (
    Trained,
    base_run,
    best_rate,
    count_runs,
    sweep_variants,
    train,
    train_equal_time,
    tune,
    variants,
)
from symconv.comparison.results import (
    Comparison,
    describe,
    leads,
    make_line,
    verdicts,
    versions,
)
from symconv.comparison.runs import Progress, Runner, Store, writable_folder, write_atomically
from symconv.comparison.settings import Settings
from symconv.data import Source, fingerprint
from symconv.errors import StructureError
from symconv.extras import require


def compare(
    data: str | Path | Source = "digits",
    structures: str | Sequence[str] | None = None,
    *,
    budget: str | Budget = "params",
    seeds: int = 3,
    out: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **settings,
) -> Comparison:
    """Train the same small network from each structure and compare them.

    All structures get the same pictures, steps, batches, optimiser and tuning effort: the learning
    rate is chosen for each on validation pictures (changed as its training pictures are: turned,
    if it is trained on turned ones), at the largest training size under equal steps, and reused
    for the smaller sizes and for equal time. The test pictures are never used to choose anything.
    A script that uses several workers needs the usual ``if __name__ == "__main__":``.

    Args:
        data: "digits", "faces", "textures", a folder with one sub-folder of pictures a class, or
            a `Source`.
        structures: Names out of the table of structures, or one name; None for those that take
            part by default.
        budget: "params" or "macs", or with a limit as in "params=50000".
        seeds: Final runs of each structure and training size.
        out: A directory for finished runs (a comparison that was stopped continues from them), the
            page `compare.html` and `compare.json`.
        workers: Processes of one thread each; 1 trains in this process; None for one a core.
        progress: Called with (runs done, runs in all, what is being done).
        **settings: Further fields of `Settings`: steps, batch, sizes, learning_rates, sweep, ...

    Returns:
        The outcome; printing it gives the tables of `symconv compare`.

    Raises:
        StructureError: The pictures, the structures or the output directory cannot be used.
        MissingExtraError: A package for training or for the page is not installed.
        RuntimeError: A worker process died.
    """
    chosen = Settings(
        source=data if isinstance(data, Source) else Source(_place(data)),
        **({} if structures is None else {"structures": _names(structures)}),
        budget=Budget.parse(budget) if isinstance(budget, str) else budget,
        seeds=seeds,
        **settings,
    )
    if workers is not None and workers < 1:
        raise StructureError("at least one worker", workers)
    require("lightning_fabric", "train", "training")
    if out is not None:
        require("matplotlib", "report", "the page")
        require("jinja2", "report", "the page")
    folder = writable_folder(Path(out)) if out is not None else None
    store = Store(folder / "runs" if folder else None)
    result = run(chosen, store, workers, progress)
    if folder:
        write_atomically(folder / "compare.json", result.to_json())
        result.to_html(folder / "compare.html")
    return result


def _names(structures: str | Sequence[str]) -> tuple[str, ...]:
    return (structures,) if isinstance(structures, str) else tuple(structures)


def _place(data: str | Path) -> str:
    return str(data) if isinstance(data, str) else str(data.resolve())


def run(
    settings: Settings,
    store: Store | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Carry out a comparison.

    Args:
        settings: What to compare.
        store: Where finished runs are kept.
        workers: Processes.
        progress: Called with (runs done, runs in all, what is being done).
    """
    data = settings.source.load()
    settings, lines = (sweep_variants if settings.sweep else variants)(settings, data)
    sizes = settings.sizes_for(len(data.train))
    if settings.sweep:
        sizes = sizes[-1:]
    mark = fingerprint(data)
    bases = [base_run(settings, mark, line, sizes[-1]) for line in lines]
    with Runner(workers, store, progress, count_runs(settings, len(lines), sizes)) as runner:
        tuned = tune(runner, settings, bases)
        rates = [best_rate(found) for found in tuned]
        results = train(runner, settings, bases, rates, sizes)
        trained = [
            Trained(line, rate, {r: f["validation"] for r, f in found.items()}, runs, [], 0)
            for line, rate, found, runs in zip(lines, rates, tuned, results, strict=True)
        ]
        timed = settings.equal_time and settings.sweep is None
        if timed:
            train_equal_time(runner, settings, bases, trained)
    paid = [*leads(trained, equal_time=False), *(leads(trained, equal_time=True) if timed else [])]
    return Comparison(
        settings=settings,
        data=describe(data, sizes),
        lines=[make_line(t) for t in trained],
        verdicts=verdicts(trained, equal_time=False),
        equal_time_verdicts=verdicts(trained, equal_time=True) if timed else [],
        payoffs=[] if settings.sweep else paid,
        pictures={t.variant.label: _kept(t) for t in trained},
        versions=versions(),
    )


def _kept(trained: Trained) -> dict:
    """What the page draws of seed 0."""
    return {key: trained.largest[0][key] for key in ("filters", "maps")}
