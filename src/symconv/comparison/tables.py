"""The terminal tables of a comparison, readable at 80 columns."""

from __future__ import annotations

from typing import Any

from symconv.comparison.results import Comparison, Line
from symconv.comparison.shifts import MEASURES
from symconv.comparison.structures import TRANSFORMS
from symconv.extras import needs
from symconv.report.numbers import short

WIDTH = 80
CURVES = ("as they are", "any angle")


def seconds(value: float) -> str:
    """A duration in seconds.

    Example:
        >>> seconds(0.123), seconds(4.56), seconds(78.9)
        ('0.12', '4.6', '79')
    """
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def error(value: float) -> str:
    """A relative error; what float32 rounds to nothing is shown as zero.

    Example:
        >>> error(3e-7), error(0.01234), error(5.239)
        ('0', '0.012', '5.2')
    """
    return "0" if value < 1e-4 else f"{value:.2g}"


def _table(title: str, columns: list[str]) -> Any:
    box = needs("rich.box", "cli", "printing the tables")
    table = needs("rich.table", "cli", "printing the tables").Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_style="bold",
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def _tests(result: Comparison) -> list[str]:
    return [verdict.test for verdict in result.verdicts]


def _cell(accuracy: object) -> str:
    return "" if accuracy is None else str(accuracy)


def accuracy_table(result: Comparison) -> Any:
    """Accuracy on each test under equal steps."""
    tests, data = _tests(result), result.data
    table = _table(
        f"{data['name']}: accuracy in %, {data['sizes'][-1]} training pictures, "
        f"{result.settings.steps} steps each",
        ["structure", *tests],
    )
    for line in result.lines:
        table.add_row(line.label, *(_cell(line.accuracy(test)) for test in tests))
    return table


def equal_time_table(result: Comparison) -> Any:
    """Accuracy on each test under equal time."""
    tests = _tests(result)
    table = _table("the same under equal time", ["structure", *tests, "steps"])
    for line in result.lines:
        cells = [_cell(line.equal_time.get(test)) for test in tests]
        table.add_row(line.label, *cells, f"{line.equal_time_steps:,}")
    return table


def cost_table(result: Comparison) -> Any:
    """What each network costs and what it commutes with."""
    budget = result.settings.budget
    table = _table(
        f"cost within {budget.limit:,} {budget.kind}",
        ["structure", "width", "weights", "connect.", "MACs", "seconds", "sizes"],
    )
    for line in result.lines:
        table.add_row(
            line.label,
            str(line.width),
            short(line.parameters),
            short(line.connections),
            short(line.macs),
            seconds(line.seconds),
            "any" if line.other_sizes else "one",
        )
    return table


def error_table(result: Comparison) -> Any:
    """What each network commutes with, before and after training."""
    table = _table(
        "equivariance error, before > after training",
        ["structure", *(f"{name}°" if "turn" in name else name for name in TRANSFORMS)],
    )
    for line in result.lines:
        cells = (
            f"{error(line.errors_before[name])} > {error(line.errors[name])}" for name in TRANSFORMS
        )
        table.add_row(line.label, *cells)
    return table


def share_table(result: Comparison) -> Any:
    """How often shifted copies get the same class, and rescaled pictures their own."""
    table = _table("shifted and rescaled pictures, in %", ["structure", *MEASURES.values()])
    for line in result.lines:
        table.add_row(line.label, *(f"{100 * line.shares[name]:.1f}" for name in MEASURES))
    return table


def curve_table(result: Comparison) -> Any:
    """Accuracy against training pictures, on two tests; the page has the others."""
    tests, sizes = [t for t in _tests(result) if t in CURVES], result.data["sizes"]
    columns = ["structure", *(f"{test}, {size:,}" for test in tests for size in sizes)]
    table = _table("accuracy in % by training pictures", columns)
    for line in result.lines:
        table.add_row(line.label, *(_cell(_at(line, t, s)) for t in tests for s in sizes))
    return table


def _at(line: Line, test: str, size: int) -> object:
    accuracy = line.curve.get(test, {}).get(size)
    return None if accuracy is None else f"{100 * accuracy.mean:.1f}"


def sweep_table(result: Comparison) -> Any:
    """Accuracy against the fan-in."""
    tests = _tests(result)
    data = result.data
    table = _table(
        f"{data['name']}: accuracy in % against the fan-in k, {data['sizes'][-1]} training "
        f"pictures, width fixed",
        [result.settings.sweep or "", "k of m inputs", "weights", "MACs", *tests],
    )
    for line in result.lines:
        share = f"{line.fan_in} of {line.inputs}"
        cells = [_cell(line.accuracy(test)) for test in tests]
        table.add_row(line.label, share, short(line.parameters), short(line.macs), *cells)
    return table


def tables(result: Comparison) -> list[Any]:
    """The rich tables of a comparison, in order."""
    if result.settings.sweep:
        return [sweep_table(result)]
    curve = [curve_table(result)] if len(result.data["sizes"]) > 1 else []
    timed = [equal_time_table(result)] if result.equal_time_verdicts else []
    shares = share_table(result)
    errors, costs = error_table(result), cost_table(result)
    return [accuracy_table(result), *timed, *curve, shares, errors, costs]


def notes(result: Comparison) -> list[str]:
    """What the columns mean, in a few lines."""
    if result.settings.sweep:
        return [
            "±: standard deviation over seeds. k: inputs that a unit of the first layer sees; "
            "every network has the same width."
        ]
    return [
        "±: standard deviation over seeds. moved: the same test pictures displaced by up to "
        f"{result.data['reach']} px; turned: by one to three quarter turns; any angle: all angles "
        "equally likely, cubic splines (+turns trains on bilinear ones); mirrored: left and right "
        "exchanged. equal time: as many steps as fit into the slowest one's time.",
        f"shifted: two copies of a test picture 1 to {result.data['farthest']} px apart along each "
        "axis, on the canvas; around: 1 to 8 px, circular. rescaled: by factors of "
        f"{_factors(result)}, cubic splines (+scales trains on bilinear ones).",
        "shift: relative change of the last feature map when the picture shifts by one of its "
        "sites (dense, sparse: of the features). turn 90°, 45°: relative change of the class "
        "scores of smoothed pictures. sizes: runs on a larger canvas?",
    ]


def _factors(result: Comparison) -> str:
    low, high = result.data["factors"]
    return f"{low:g} to {high:.3g}"


def show(result: Comparison, console: Any) -> None:
    """Print tables, verdict and notes on a rich console."""
    for table in tables(result):
        console.print(table)
    for sentence in result.sentences:
        console.print(sentence, highlight=False)
    for note in notes(result):
        console.print(note, style="dim", highlight=False)


def render(result: Comparison) -> str:
    """The same as text, 80 columns wide."""
    console = needs("rich.console", "cli", "printing the tables").Console(
        width=WIDTH, color_system=None, force_terminal=False
    )
    with console.capture() as capture:
        show(result, console)
    return capture.get()
