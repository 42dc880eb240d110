"""Single runs: what identifies one, where its result is kept, and many of them in parallel."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import torch

import symconv
from symconv.comparison.layers import Options
from symconv.data import Source
from symconv.errors import StructureError
from symconv.report.html import write_atomically

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Run:
    """Everything that one training run depends on; its result is a function of this alone.

    Args:
        source: Where the pictures come from.
        data: Fingerprint of the pictures themselves.
        structure: Name of the row in the table of structures.
        width: Output channels (or features) of the first layer.
        options: Kernels, fan-in, tile, bands.
        train_size: The first so many training pictures.
        seed: Draws weights, connections, batches and augmentation.
        steps: Optimiser steps.
        batch: Pictures in a step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's.
        final: Evaluate the tests; otherwise only the validation pictures.
        inspect: Also measure equivariance and other sizes, and keep filters and feature maps.
        accelerator: "cpu", "cuda" or "auto".
        precision: As lightning_fabric takes it.
    """

    source: Source
    data: str
    structure: str
    width: int
    train_size: int
    seed: int
    steps: int
    learning_rate: float
    options: Options = field(default_factory=Options)
    batch: int = 48
    weight_decay: float = 0.01
    final: bool = False
    inspect: bool = False
    accelerator: str = "cpu"
    precision: str = "32-true"

    def with_(self, **changes) -> Run:
        """The same run with some fields changed."""
        return replace(self, **changes)

    @property
    def document(self) -> dict:
        """The run as JSON holds it, with the code that its result belongs to."""
        made_by = {"version": symconv.__version__, "torch": torch.__version__, "code": code_mark()}
        return json.loads(json.dumps({**made_by, **asdict(self)}))

    @property
    def key(self) -> str:
        """A short name for the run: the hash of its document."""
        text = json.dumps(self.document, sort_keys=True)
        return f"{self.structure}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@cache
def code_mark(root: Path = Path(symconv.__file__).parent) -> str:
    """A hash of the Python files below a folder: results of other code are other results.

    It is taken once per process, as modules are imported once.
    """
    mark = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        text = file.read_bytes()
        mark.update(f"{file.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return mark.hexdigest()[:16]


def writable_folder(path: Path) -> Path:
    """Make a folder and write into it, so that failure is known before any training.

    Raises:
        StructureError: The folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise StructureError(
            "an output directory that can be written", f"{str(path)!r} ({reason})", "choose another"
        ) from error
    return path


class Store:
    """Finished runs, one JSON file each; without a folder nothing is kept.

    Args:
        folder: Where the files lie, or None.
    """

    def __init__(self, folder: Path | None):
        self.folder = writable_folder(folder) if folder is not None else None

    def load(self, run: Run) -> dict | None:
        """The result of a run, if a whole file of exactly this run is there."""
        if self.folder is None:
            return None
        try:
            found = json.loads((self.folder / f"{run.key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # absent or damaged: it is run again
        same = isinstance(found, dict) and found.get("run") == run.document
        return found.get("result") if same else None

    def save(self, run: Run, result: dict) -> None:
        """Keep the result of a run."""
        if self.folder is not None:
            text = json.dumps({"run": run.document, "result": result})
            write_atomically(self.folder / f"{run.key}.json", text)


def _execute(run: Run) -> dict:
    # The worker imports lightning_fabric, which takes seconds: only the process that trains does.
    from symconv.comparison.worker import execute

    return execute(run)


def _leave_with_parent() -> None:
    """End this worker when its parent is gone, even killed; pools do not do that by themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            wait_for([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


class Runner:
    """Executes runs, in parallel processes of one thread each, and keeps what is finished.

    Use it as a context manager.

    Args:
        workers: Processes; 1 runs everything here. None for one a core.
        store: Where finished runs are kept.
        progress: Called with (runs done, runs known, a description).
        total: Runs known beforehand.
    """

    def __init__(
        self,
        workers: int | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
        total: int = 0,
    ):
        self.workers = workers or available_cores()
        self.store = store or Store(None)
        self.progress = progress or (lambda done, total, what: None)
        self.total, self.done, self.trained = total, 0, 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        if self.workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, initializer=_leave_with_parent)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=exception[0] is None, cancel_futures=True)

    def run(self, runs: Sequence[Run], what: str) -> list[dict]:
        """The results of runs, in their order; finished ones are loaded, not repeated.

        Args:
            runs: What to train.
            what: A description for the progress bar.

        Raises:
            RuntimeError: A worker process died.
        """
        results = {run.key: self.store.load(run) for run in runs}
        missing = {run.key: run for run in runs if results[run.key] is None}
        self.done += len(runs) - len(missing)
        self.progress(self.done, max(self.total, self.done), what)
        for run, result in self._train(list(missing.values())):
            self.store.save(run, result)
            results[run.key] = result
            self.done += 1
            self.trained += 1
            self.progress(self.done, max(self.total, self.done), what)
        return [found for run in runs if (found := results[run.key]) is not None]

    def _train(self, runs: list[Run]):
        if self._pool is None:
            yield from ((run, _execute(run)) for run in runs)
            return
        try:
            waiting: dict[Future, Run] = {self._pool.submit(_execute, run): run for run in runs}
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), future.result()) for future in finished)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process ended before its run did. If this is a script, put the call to "
                'sc.compare below `if __name__ == "__main__":`, as Python asks for new processes;'
                " if memory ran out, use fewer workers (workers=1 trains in this process)"
            ) from error


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
