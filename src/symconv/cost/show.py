"""Prints costs: one column a structure, one row a quantity, exact integers at any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from symconv.cost.counts import Boundary, Cost, Table
from symconv.lattice.windows import Window

if TYPE_CHECKING:
    from symconv.cost.measure import Measured

Column = tuple[str, list[str]]  # a heading and one cell a row

_COUNTS = (
    ("connections", "connections"),
    ("fan-in k", "fan_in"),
    ("weights", "weights"),
    ("MACs", "macs"),
    ("  on zero padding", "padding_macs"),
    ("flops: 2 per MAC", "flops"),
    ("flops: k and k-1", "flops_k"),
    ("bytes: weights", "weight_bytes"),
    ("  index", "index_bytes"),
    ("  input", "input_bytes"),
    ("  output", "output_bytes"),
    ("  in all", "total_bytes"),
)
_BOUNDARY = (
    "output size",
    "padding",
    "connections",
    "MACs",
    "  on zero padding",
    "translations exact",
)
_MEASURES: dict[str, Callable[[Measured], str]] = {
    "median ms": lambda m: f"{1e3 * m.seconds:,.3f}",
    "fastest ms": lambda m: f"{1e3 * m.fastest:,.3f}",
    "passes": lambda m: f"{m.passes:,}",
    "bytes: layer": lambda m: f"{m.layer_bytes:,}",
    "  input": lambda m: f"{m.input_bytes:,}",
    "  forward adds": lambda m: f"{m.forward_bytes:,}",
    "  peak": lambda m: f"{m.peak_bytes:,}",
}


def show(
    costs: Table, measured: Sequence[Measured] | None = None, console: Console | None = None
) -> None:
    """Print the costs, the decisions about the border, and what was measured.

    Numbers are never cut: columns that do not fit beside each other go below each other.

    Args:
        costs: What `symconv.cost.table` gave.
        measured: What `symconv.cost.measure.measure` gave.
        console: Where to print; standard output if left out.
    """
    console = console or Console(highlight=False)
    shape = f"{_times(costs.input_shape)} -> {_times(costs.output_shape)}"
    console.print(f"[bold]{shape}[/bold], {_describe(costs)}, {costs.dtype}, one item, no biases")
    _print(console, [label for label, _ in _COUNTS], [_cost_column(c) for c in costs.costs])
    _explain(console, costs)
    console.print("\n[bold]The border[/bold]: the same convolution under each decision")
    _print(console, list(_BOUNDARY), [_boundary_column(b) for b in costs.boundaries])
    for name, reason in costs.refused:
        console.print(f"{name}: not possible here: {escape(reason)}")
    console.print(
        "same: as many outputs as inputs (over the stride); full: the window may stick out by all "
        "but one tap. Translations are circular, by multiples of the stride; where they are not "
        "exact the interior is, and the border differs."
    )
    if measured is not None:
        _show_measured(console, measured)


def _times(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _describe(costs: Table) -> str:
    window: Window = costs.window
    words = [f"kernel {_times(window.kernel_size)}"]
    if max(window.stride) > 1:
        words.append(f"stride {_times(window.stride)}")
    if max(map(max, window.padding)) > 0:
        words.append(f"padding {_padding(window.padding)} ({window.padding_mode})")
    if max(window.dilation) > 1:
        words.append(f"dilation {_times(window.dilation)}")
    if costs.groups > 1:
        words.append(f"groups {costs.groups}")
    return ", ".join([*words, f"tile {_times(costs.tile)}"])


def _padding(pairs: Sequence[tuple[int, int]]) -> str:
    """Before and after on each axis, one number where they are the same."""
    return " x ".join(str(b) if b == a else f"{b}+{a}" for b, a in pairs)


def _cost_column(cost: Cost) -> Column:
    return cost.kind, [f"{getattr(cost, name):,}" for _, name in _COUNTS]


def _boundary_column(boundary: Boundary) -> Column:
    counts = boundary.connections, boundary.macs, boundary.padding_macs
    cells = [_times(boundary.output_size), _padding(boundary.padding)]
    return boundary.name, [*cells, *(f"{c:,}" for c in counts), _exact(boundary.exact_axes)]


def _exact(axes: Sequence[bool]) -> str:
    if all(axes):
        return "yes"
    return "axis " + ", ".join(str(i) for i, yes in enumerate(axes) if yes) if any(axes) else "no"


def _print(console: Console, labels: Sequence[str], columns: Sequence[Column]) -> None:
    """Print columns beside each other as far as the console's width reaches, then below."""
    margin = max(map(len, labels))
    for number, group in enumerate(_packed(columns, console.width - margin)):
        if number:
            console.print()
        grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 1), header_style="bold cyan")
        grid.add_column("", no_wrap=True, min_width=margin)
        for name, cells in group:
            wide = max(map(len, (name, *cells)))
            grid.add_column(name, justify="right", no_wrap=True, min_width=wide)
        for row, label in enumerate(labels):
            grid.add_row(label, *(cells[row] for _, cells in group))
        # Not cut, should one column alone be wider than the terminal.
        width = margin + 2 + sum(2 + max(map(len, (name, *cells))) for name, cells in group)
        console.print(grid, width=max(console.width, width), crop=False, no_wrap=True)


def _packed(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Columns in groups that fit the width, in their order.

    Example:
        >>> [len(group) for group in _packed([("a", ["1" * 9])] * 5, 30)]
        [2, 2, 1]
    """
    groups: list[list[Column]] = []
    left = 0
    for name, cells in columns:
        need = 2 + max(map(len, (name, *cells)))
        if not groups or need > left:
            groups.append([])
            left = width - 2
        groups[-1].append((name, cells))
        left -= need
    return groups


def _explain(console: Console, costs: Table) -> None:
    times = {name: _ratio(value) for name, value in costs.dense_over_conv().items()}
    console.print(
        "flops: 2 per MAC counts a multiplication and an addition for each MAC; k and k-1 counts "
        "k multiplications and k-1 additions for each output, as figure 9.6 of the Deep Learning "
        "book does."
    )
    console.print(
        f"Dense over conv: {times['weights']} times the weights; {times['flops']} times the flops "
        f"at 2 per MAC, {times['flops_k']} times at k and k-1."
    )


def _ratio(value: Fraction) -> str:
    """A ratio as it is where it is whole, else with two decimals and a sign that says so.

    Example:
        >>> _ratio(Fraction(59733)), _ratio(Fraction(10, 3))
        ('59,733', 'about 3.33')
    """
    if value.denominator == 1:
        return f"{value.numerator:,}"
    hundredths = round(value * 100)
    return f"about {hundredths // 100:,}.{hundredths % 100:02d}"


def _show_measured(console: Console, measured: Sequence[Measured]) -> None:
    ran = [m for m in measured if m.skipped is None]
    threads = f"{measured[0].threads} thread{'s' if measured[0].threads > 1 else ''}"
    console.print(f"\n[bold]Measured[/bold] forward passes on the CPU, {threads}")
    columns = [(m.kind, [text(m) for text in _MEASURES.values()]) for m in ran]
    if columns:
        _print(console, list(_MEASURES), columns)
    for m in measured:
        if m.skipped is not None:
            console.print(f"{m.kind}: skipped: {escape(m.skipped)}")
    console.print(
        "Passes are interleaved. The layer's bytes are weights and index; the forward pass adds "
        "its output and, for a moment, its workspace. Local, tiled and conv do the same MACs: "
        "sharing weights saves memory, not operations."
    )
