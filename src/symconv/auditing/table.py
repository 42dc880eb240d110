"""The tables of an audit for the terminal: columns give way to the width, numbers are never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from symconv.auditing import words
from symconv.extras import needs
from symconv.report.numbers import short

if TYPE_CHECKING:
    from symconv.auditing.records import EquivarianceRow, LayerRow
    from symconv.auditing.report import Audit

WIDTH = 80
_GAP = 2  # spaces between columns
_NAME = 24  # characters of a layer's name that are kept where the width is short
_WORST = 20  # layers whose errors are listed
_STYLES = {"exact": "green", "approximate": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Column:
    """A heading with its cells.

    Args:
        name: The heading.
        cells: One a row.
        rank: Where the width is short, columns of the highest rank go first.
        left: Set to the left; numbers are set to the right.
    """

    name: str
    cells: Sequence[str]
    rank: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        """Characters that the widest cell needs."""
        return max(map(len, (self.name, *self.cells)))

    def cut(self, width: int) -> Column:
        """The same with names cut at their beginning: the end says which layer it is."""
        return replace(self, cells=[words.tail(cell, width) for cell in self.cells])


@dataclass(frozen=True)
class Table:
    """Columns under a title, and what the abbreviations in them mean."""

    title: str
    columns: Sequence[Column]
    notes: Sequence[str] = field(default_factory=tuple)

    def fitted(self, width: int) -> Table:
        """The same with the columns that fit, the least important left out first.

        Long names in the first column are cut before a column is left out.
        """
        first, *rest = (c for c in self.columns if any(cell not in ("", "-") for cell in c.cells))
        least = min(first.width, _NAME) if first.left else first.width

        def free() -> int:
            return width - sum(_GAP + c.width for c in rest)

        while rest and free() < least:
            rest.remove(max(rest, key=lambda c: (c.rank, rest.index(c))))
        if first.left and first.width > free():
            first = first.cut(free())
        return Table(self.title, [first, *rest], self.notes)


def tables(audit: Audit) -> list[Table]:
    """The tables of an audit: the layers, the whole model under each transform, what breaks."""
    found = [_layers(audit.layers)] if audit.layers else []
    if audit.equivariance:
        found.append(_whole(audit))
        found += _locally(audit)
    return found


def _layers(every: Sequence[LayerRow]) -> Table:
    """The layers that multiply; where nothing was counted, all of them."""
    rows = [row for row in every if row.weights or row.macs or row.note] or every
    hidden = len(every) - len(rows)
    left_out = [f"Left out: {hidden} that multiply nothing."] if hidden else []

    def cells(get: Any) -> list[str]:
        return ["-" if (value := get(row)) is None else str(value) for row in rows]

    def counts(name: str) -> list[str]:
        return cells(lambda row: None if (v := getattr(row, name)) is None else short(v))

    columns = [
        Column("layer", [r.name or r.kind for r in rows], 0, left=True),
        Column("kind", [r.kind for r in rows], 7, left=True),
        Column("output", cells(lambda r: r.output_shape and words.times(r.output_shape[1:])), 4),
        Column("fan-in", counts("fan_in"), 2),
        Column("connect.", counts("connections"), 6),
        Column("params", counts("parameters"), 0),
        Column("uses", counts("uses"), 3),
        Column("dense", counts("dense_parameters"), 8),
        Column("MACs", counts("macs"), 0),
        Column("padding", cells(_padding_share), 5),
        Column("sees", [words.field_cell(r.receptive_field) for r in rows], 1),
    ]
    notes = [
        *left_out,
        "fan-in: inputs an output sees. uses: connections per weight. sees: receptive field in "
        "input positions (*: with holes). The page and to_json() have all layers and digits.",
    ]
    return Table("layers", columns, notes + [f"{r.name}: {r.note}" for r in rows if r.note])


def _padding_share(row: LayerRow) -> str | None:
    if not row.macs or row.padding_macs is None:
        return None
    return f"{100 * row.padding_macs / row.macs:.1f} %" if row.padding_macs else "0"


def _whole(audit: Audit) -> Table:
    rows = words.whole(audit)
    columns = [
        Column("transform", [r.transform for r in rows], 0, left=True),
        Column("verdict", [r.verdict or "-" for r in rows], 0, left=True),
        Column("error", [words.error_cell(r.error) for r in rows], 0),
        Column("interior", [words.error_cell(r.interior_error) for r in rows], 1),
    ]
    notes = ["error: relative to the output. interior: without the units that see the border."]
    return Table("the whole model", columns, notes + words.remarks(rows))


def _locally(audit: Audit) -> list[Table]:
    """The layers that are not exact by themselves, one column a transform."""
    names, found = words.local(audit)
    if not names:
        return []

    def cell(layer: str, transform: str) -> str:
        row = found.get((layer, transform))
        if row is None:
            return "-"
        return "exact" if row.verdict == "exact" else words.error_cell(row.local_error)

    shown = _worst(names, list(found.values()))
    columns = [Column("layer", shown, 0, left=True)]
    for rank, transform in enumerate(words.transforms(audit)):
        columns.append(Column(transform, [cell(name, transform) for name in shown], rank))
    title = "layers by themselves: error of one layer fed with the transformed input"
    notes = [f"{len(names) - len(shown)} more err less."] if len(names) > len(shown) else []
    return [Table(title, columns, notes)]


def _worst(names: Sequence[str], rows: Sequence[EquivarianceRow]) -> list[str]:
    """The layers that err most under any transform, in the order of the network."""
    most: dict[str, float] = {}
    for row in rows:
        most[row.layer] = max(most.get(row.layer, 0.0), row.local_error or 0.0)
    kept = set(sorted(names, key=lambda name: -most[name])[:_WORST])
    return [name for name in names if name in kept]


def sentences(audit: Audit) -> list[str]:
    """What stands above the tables."""
    said = [f"{audit.model} on {audit.input}", *words.culprits(audit)]
    if audit.total is not None:
        said += words.totals(audit.total)
    said += words.field_sentences(audit)
    if audit.sizes is not None:
        said += words.size_sentences(audit.sizes)
    return said + words.missing(audit)


def text(audit: Audit, width: int = WIDTH) -> str:
    """The report as plain text.

    Args:
        audit: What was found.
        width: Characters in a line.
    """
    lines = [line for s in sentences(audit) for line in textwrap.wrap(s, width)]
    for table in tables(audit):
        shown = table.fitted(width)
        lines += [
            "",
            *textwrap.wrap(shown.title, width),
            _line(shown, [c.name for c in shown.columns]),
        ]
        lines += [_line(shown, row) for row in zip(*(c.cells for c in shown.columns), strict=True)]
        lines += [line for note in shown.notes for line in textwrap.wrap(note, width)]
    return "\n".join(lines)


def _line(table: Table, cells: Sequence[str]) -> str:
    set_ = [
        cell.ljust(column.width) if column.left else cell.rjust(column.width)
        for column, cell in zip(table.columns, cells, strict=True)
    ]
    return (" " * _GAP).join(set_).rstrip()


def show(audit: Audit, console: Any) -> None:
    """Print the report on a rich console, as wide as that is.

    Args:
        audit: What was found.
        console: A `rich.console.Console`.
    """
    first, *rest = sentences(audit)
    console.print(first, style="bold", highlight=False, markup=False)
    for sentence in rest:
        console.print(sentence, highlight=False, markup=False)
    for table in tables(audit):
        shown = table.fitted(console.width)
        console.print()
        console.print(_grid(shown))
        for note in shown.notes:
            console.print(note, style="dim", highlight=False, markup=False)


def _grid(table: Table) -> Any:
    text = needs("rich.text", "cli", "printing the tables").Text
    grid = needs("rich.table", "cli", "printing the tables").Table(
        title=text(table.title), title_justify="left", title_style="bold", box=None,
        pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold cyan",
    )  # fmt: skip
    for column in table.columns:
        grid.add_column(
            column.name,
            justify="left" if column.left else "right",
            no_wrap=True,
            min_width=column.width,
        )
    for cells in zip(*(c.cells for c in table.columns), strict=True):
        grid.add_row(*(text(cell, _STYLES.get(cell, "")) for cell in cells))
    return grid
