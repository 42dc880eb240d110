"""The command line. Each command imports its work when it is called: `--help` must be quick."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from symconv import __version__
from symconv.errors import StructureError
from symconv.extras import MissingExtraError, require

app = typer.Typer(
    name="symconv",
    help="Choose the structure of a PyTorch network.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"symconv {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@contextmanager
def told_plainly(stopped: str = "stopped") -> Iterator[None]:
    """Say an expected failure in one line: exit code 2 for what was asked, 1 for what went wrong.

    The pictures' and files' faults are found as StructureError, like the arguments' own: what was
    asked cannot be done.
    """
    try:
        yield
    except StructureError as error:
        _stop(str(error), 2)
    except (MissingExtraError, OSError, RuntimeError) as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop(stopped, 1)


def _stop(message: str, code: int) -> None:
    typer.echo(f"symconv: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr unless quiet, and always warnings as plain lines there."""
    with warnings.catch_warnings():
        if quiet:
            warnings.showwarning = _warn
            yield lambda done, total, what: None
            return
        with _bar() as report:
            yield report


def _warn(message: Warning | str, *details: Any, **more: Any) -> None:
    typer.echo(f"warning: {message}", err=True)


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None]]:
    require("rich", "cli", "printing the tables")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )

    def warn(message: Warning | str, *details: Any, **more: Any) -> None:
        console.print(f"warning: {message}", highlight=False, markup=False, soft_wrap=True)

    with Progress(*columns, console=console) as bar:
        warnings.showwarning = warn
        task = bar.add_task("reading pictures", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report


def _numbers(text: str, kind: Callable[[str], Any], what: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise StructureError(f"{what} separated by commas", repr(text)) from None


_COMPARE_HELP = """Train the same small network from each structure: which suits the pictures?

DATA is digits, faces, textures, or a folder with one sub-folder of pictures per class. Every
structure gets the same pictures, steps and tuning within one budget of weights or of
multiply-accumulates (group convolutions, scale and conv-max: as many multiply-accumulates as
conv), and is tested on held-out pictures as they are, moved, turned by quarter turns and by any
angle, mirrored, shifted and rescaled. Those with +turns, +shifts and +scales are trained on turned,
moved or rescaled pictures.

Examples:

  symconv compare

  symconv compare faces --structures local,region,conv --out faces-page

  symconv compare --structures conv,conv+turns,C8,C8+turns --steps 400

  symconv compare my-pictures --canvas 48 --budget macs --json > result.json
"""


@app.command(help=_COMPARE_HELP)
def compare(
    data: Annotated[str, typer.Argument(metavar="DATA", help="What to train on.")] = "digits",
    structures: Annotated[
        str | None,
        typer.Option(
            help="Names by commas; besides the defaults conv-wide, conv-wider, C16, D4, D8, "
            "C4-wide, C8-wide, conv-blur, conv-polyphase, conv-max, scale; with +scales conv, "
            "conv-max, scale; with +turns conv-slim, conv-wide, C16, D4, D8."
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="params or macs, or with a limit: params=50000.")
    ] = "params",
    seeds: Annotated[int, typer.Option(help="Runs per structure and training size.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps of a run.")] = 250,
    batch: Annotated[int, typer.Option(help="Pictures in a step.")] = 48,
    sizes: Annotated[str, typer.Option(help="Training pictures of the curve.")] = "100,1000",
    rates: Annotated[
        str, typer.Option("--learning-rates", help="Tried for each structure.")
    ] = "0.005,0.01",
    equal_time: Annotated[
        bool, typer.Option(help="Also train all for the slowest one's time.")
    ] = True,
    sweep: Annotated[
        str | None, typer.Option(help="Instead: accuracy against k, by fan-in or kernel.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use at most so many pictures.")] = None,
    canvas: Annotated[int | None, typer.Option(help="Side of the canvas in pixels.")] = None,
    full_frame: Annotated[
        bool, typer.Option("--full-frame", help="A folder's pictures fill the canvas.")
    ] = False,
    colour: Annotated[
        bool, typer.Option("--colour", help="A folder's pictures keep their colour.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the page and finished runs.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core.")] = None,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ...")] = "32-true",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Run the comparison and print its tables, or one JSON document."""
    with told_plainly("stopped; finished runs in --out are kept"):
        from symconv.comparison import compare as run_comparison
        from symconv.data import Source

        source = Source(_place(data), canvas, limit, full_frame, colour)
        hidden = not sys.stderr.isatty() or find_spec("rich") is None
        with _progress(quiet=as_json and hidden) as progress:
            result = run_comparison(
                source,
                None if structures is None else _numbers(structures, str.strip, "names"),
                budget=budget,
                seeds=seeds,
                steps=steps,
                batch=batch,
                sizes=_numbers(sizes, int, "whole numbers"),
                learning_rates=_numbers(rates, float, "numbers"),
                equal_time=equal_time,
                sweep=sweep,
                accelerator=accelerator,
                precision=precision,
                out=out,
                workers=workers,
                progress=progress,
            )
        if as_json:
            typer.echo(result.to_json())
            return
        _print(result, out)


def _place(data: str) -> str:
    """A folder's absolute path, so that runs are found again from another directory."""
    return data if data in ("digits", "faces", "textures") else os.path.abspath(data)


def _print(result: Any, out: Path | None) -> None:
    from rich.console import Console

    from symconv.comparison.tables import WIDTH, show

    console = Console()
    show(result, console if console.is_terminal else Console(width=WIDTH))
    if out is not None:
        typer.echo(f"page: {out / 'compare.html'}")


_COST_HELP = """Set dense, sparse, local, tiled and convolutional layers side by side.

Weights, connections, multiply-accumulates, flops and memory, as exact integers; then what each
decision about the border does. Nothing is built unless you ask to measure.

Examples:

  symconv cost --input 1x280x320 --kernel 1x2 --out-channels 1

  symconv cost --input 3x64x64 --kernel 3 --out-channels 8 --padding same --measure
"""


@app.command(help=_COST_HELP)
def cost(
    input_shape: Annotated[
        str, typer.Option("--input", metavar="CxHxW", help="Channels x size of each axis.")
    ],
    kernel: Annotated[str, typer.Option(metavar="HxW", help="Taps: 3, or one number an axis.")],
    out_channels: Annotated[int, typer.Option(help="Output channels.")] = 1,
    stride: Annotated[str, typer.Option(metavar="N", help="Step between outputs.")] = "1",
    padding: Annotated[str, typer.Option(metavar="N", help='Also "same" or "valid".')] = "0",
    padding_mode: Annotated[
        str, typer.Option(help="zeros, reflect, replicate or circular.")
    ] = "zeros",
    dilation: Annotated[str, typer.Option(metavar="N", help="Step between taps.")] = "1",
    groups: Annotated[int, typer.Option(help="Blocks of channels.")] = 1,
    tile: Annotated[str, typer.Option(metavar="N", help="Period of tiled filters.")] = "2",
    dtype: Annotated[str, typer.Option(help="float64, float32, float16 or bfloat16.")] = "float32",
    measure: Annotated[
        bool, typer.Option("--measure", help="Build the layers; measure time and memory.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One document on stdout.")] = False,
) -> None:
    """Print the tables of costs, or one JSON document."""
    with told_plainly():
        require("rich", "cli", "symconv cost")
        from symconv.cost import command  # numpy and scipy take longer than --help may

        command.run(
            input_shape,
            kernel,
            out_channels,
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            dilation=dilation,
            groups=groups,
            tile=tile,
            dtype=dtype,
            measure=measure,
            as_json=as_json,
        )


_AUDIT_HELP = """What does a network connect, share, see and commute with?

TARGET is package.module:name, a model, or a class or function that returns one; or a program.pt2
saved by torch.export.save. Naming a module imports it, which runs its code, with the current
directory on the path; a pickled model is never loaded. Programs, too, only from people you trust.

Examples:

  symconv audit my_package.models:resnet --args '{"num_classes": 10}' --input 3x224x224

  symconv audit my_package.models:resnet --input 3x224x224 --group C4 --html report.html

  symconv audit program.pt2 --json --fail-above interior_error=1e-4
"""


@app.command(help=_AUDIT_HELP)
def audit(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What to audit.")],
    args: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Arguments that build it: an object or a list."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="One item's sizes, once for each argument of forward; also 77:int64.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Items in the call.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Convert model and inputs, as to float64.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A group to test as well: C4, D4, mirror, O, ...")
    ] = None,
    counts: Annotated[bool, typer.Option(help="Connections, weights and MACs.")] = True,
    receptive_field: Annotated[bool, typer.Option(help="What an output sees.")] = True,
    equivariance: Annotated[bool, typer.Option(help="What it commutes with.")] = True,
    sizes: Annotated[bool, typer.Option(help="Which input sizes work.")] = True,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the pictures.")
    ] = None,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LIMIT", help="Exit 1 above it: interior_error=1e-4."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One document on stdout.")] = False,
) -> None:
    """Print the tables of an audit, or one JSON document."""
    with told_plainly(), _progress(quiet=True):
        if not as_json:
            require("rich", "cli", "symconv audit")
        from symconv.auditing import command  # loads torch, which --help does not need

        command.run(
            target,
            args=args,
            inputs=inputs or (),
            batch=batch,
            dtype=dtype,
            group=group,
            parts={
                "counts": counts,
                "receptive_field": receptive_field,
                "equivariance": equivariance,
                "sizes": sizes,
            },
            html=html,
            fail_above=fail_above or (),
            as_json=as_json,
        )


def run() -> None:
    """The entry point of the command."""
    app()
