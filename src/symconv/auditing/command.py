"""The body of `symconv audit`: a target and texts in, tables, a page or one JSON document out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from symconv.auditing.limits import Limit
from symconv.auditing.report import Audit
from symconv.auditing.run import audit
from symconv.auditing.table import show
from symconv.auditing.target import example, load, type_named
from symconv.errors import StructureError
from symconv.extras import require


def run(
    target: str,
    *,
    args: str | None,
    inputs: Sequence[str],
    batch: int,
    dtype: str | None,
    group: str | None,
    parts: dict[str, bool],
    html: Path | None,
    fail_above: Sequence[str],
    as_json: bool,
) -> None:
    """Audit what the target names and print what was found.

    What the person's own code prints goes to standard error, so that a document stays whole.

    Raises:
        StructureError: What is asked cannot be done.
        RuntimeError: The person's code fails, or a limit of `fail_above` is passed.
    """
    limits = [Limit.parse(text) for text in fail_above]
    if html is not None:
        require("matplotlib", "report", "the page")
        require("jinja2", "report", "the page")
        _check_writable(html)
    kind = None if dtype is None else type_named(dtype)
    with redirect_stdout(sys.stderr):
        if target.endswith(".pt2"):
            _tell(f"reading {target}")
        elif ":" in target:  # what cannot be imported is refused below
            _tell(f"importing {target} runs its code")
        torch.manual_seed(0)  # random weights and inputs are the same at each call
        model = load(target, args)
        x = _inputs(model, inputs, batch, kind)
        if kind is not None:
            model = _converted(model, kind)
        _tell("auditing")
        found = audit(model, x, group, **parts)
        if html is not None:
            _tell("drawing the page")
            found.to_html(html)
    _print(found, html, as_json)
    failures = [failure for limit in limits for failure in limit.failures(found)]
    if failures:
        raise RuntimeError("the audit found:\n  " + "\n  ".join(failures))


def _tell(text: str) -> None:
    print(f"symconv: {text}", file=sys.stderr, flush=True)


def _print(found: Audit, html: Path | None, as_json: bool) -> None:
    if as_json:
        print(found.to_json())
        return
    from rich.console import Console

    show(found, Console())
    if html is not None:
        print(f"page: {html}")


def _check_writable(path: Path) -> None:
    """A page that cannot be written is told before the work, not after it."""
    folder = path.parent
    if path.is_dir():
        raise StructureError("--html to name a file", f"the folder {path}")
    if not folder.is_dir():
        raise StructureError("--html in a folder that exists", f"{path}", f"make {folder} first")
    if not os.access(folder, os.W_OK):
        raise StructureError("--html in a folder that can be written", str(folder))


def _inputs(
    model: nn.Module | ExportedProgram, texts: Sequence[str], batch: int, dtype: torch.dtype | None
) -> Any:
    """The arguments to call with: of the shapes asked for, or those kept in the program."""
    if batch < 1:
        raise StructureError("--batch of at least 1", batch)
    if texts:
        own = dtype or _type_of(model)
        return tuple(example(text, batch, own, seed) for seed, text in enumerate(texts))
    kept = model.example_inputs if isinstance(model, ExportedProgram) else None
    if kept is None or not (kept[0] or kept[1]):
        raise StructureError(
            "the shape of an input", "none", "say --input 3x224x224, once for each argument"
        )
    positional, named = kept
    if positional and named:
        raise StructureError(
            "a program with positional arguments alone", f"also {', '.join(named)}", "give --input"
        )
    return tuple(positional) or dict(named)


def _type_of(model: nn.Module | ExportedProgram) -> torch.dtype:
    held = model.state_dict.values() if isinstance(model, ExportedProgram) else model.parameters()
    return next((t.dtype for t in held if t.is_floating_point()), torch.float32)


def _converted(model: nn.Module | ExportedProgram, dtype: torch.dtype) -> nn.Module:
    if isinstance(model, ExportedProgram):
        raise StructureError("no --dtype for a program", dtype, "export it from a converted model")
    if not dtype.is_floating_point:
        raise StructureError(
            "--dtype float16, bfloat16, float32 or float64",
            dtype,
            "an input's own: --input 77:int64",
        )
    return model.to(dtype)
