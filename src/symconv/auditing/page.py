"""The page of an audit: what it found, as one self-contained file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from symconv.auditing import words
from symconv.auditing.effective import heat
from symconv.auditing.squares import Square, draw
from symconv.report.figures import bars, commuting_square, error_maps, seen_box, to_svg
from symconv.report.html import render, safe, write_atomically

if TYPE_CHECKING:
    from symconv.auditing.records import EquivarianceRow, LayerRow
    from symconv.auditing.report import Audit

_SHADES = ((1e-6, "e1"), (1e-3, "e2"), (1e-2, "e3"), (1e-1, "e4"), (float("inf"), "e5"))


def write(audit: Audit, path: Path) -> Path:
    """Write the page of an audit, whole or not at all.

    Args:
        audit: What was found.
        path: Where the file goes.
    """
    write_atomically(path, page(audit))
    return path


def page(audit: Audit) -> str:
    """The page as text; every picture and the few lines that sort the table are in it."""
    squares, border = _runs(audit)
    headline, *rest = words.culprits(audit) or [audit.model]
    return render(
        "audit.html.j2",
        model=audit.model,
        kicker=f"symconv audit · {audit.model} · {audit.input}",
        headline=headline,
        sentences=rest,
        facts=_facts(audit),
        missing=words.missing(audit),
        whole=[_whole_row(row) for row in words.whole(audit)],
        whole_remarks=words.remarks(words.whole(audit)),
        local=_local(audit),
        columns=[{"name": name, "about": about} for name, about, _ in _COLUMNS],
        layers=[[_cell(get(row)) for _, _, get in _COLUMNS] for row in audit.layers],
        remarks=[f"{row.name}: {row.note}" for row in audit.layers if row.note],
        uses=_uses(audit),
        seen=_seen(audit),
        squares=squares,
        border=border,
        versions=", ".join(f"{name} {version}" for name, version in audit.versions.items()),
    )


def _facts(audit: Audit) -> list[tuple[str, list[str]]]:
    """Sentences under the part of the report that they are from."""
    said = [
        ("counts", words.totals(audit.total) if audit.total else []),
        ("sees", words.field_sentences(audit)),
        ("sizes", words.size_sentences(audit.sizes) if audit.sizes else []),
    ]
    return [(name, sentences) for name, sentences in said if sentences]


def _whole_row(row: EquivarianceRow) -> dict[str, str]:
    return {
        "transform": row.transform,
        "verdict": row.verdict or "-",
        "error": words.error_cell(row.error),
        "interior": words.error_cell(row.interior_error),
    }


def _local(audit: Audit) -> dict[str, Any]:
    """Errors of the layers by themselves: one row a layer, one column a transform."""
    names, found = words.local(audit)
    transforms = words.transforms(audit)
    return {
        "transforms": transforms,
        "rows": [(name, [_shaded(found.get((name, t))) for t in transforms]) for name in names],
    }


def _shaded(row: EquivarianceRow | None) -> dict[str, str]:
    if row is None:
        return {"text": "-", "shade": ""}
    if row.verdict == "exact":
        return {"text": "exact", "shade": "e0"}
    error = row.local_error or 0.0
    return {
        "text": words.error_cell(error),
        "shade": next(shade for limit, shade in _SHADES if error <= limit),
    }


def _cell(value: Any) -> dict[str, Any]:
    """What a cell shows and by which it is sorted."""
    if value is None:
        return {"text": "-", "key": -1}
    if isinstance(value, tuple):
        return {"text": value[0], "key": value[1]}
    if isinstance(value, str):
        return {"text": value, "key": None}
    return {"text": f"{value:,.0f}" if value == int(value) else f"{value:,.1f}", "key": value}


def _sees(row: LayerRow) -> tuple[str, float] | None:
    field = row.receptive_field
    if field is None:
        return None
    whole = field.everything or None in field.size
    return words.field_cell(field), float("1e18") if whole else float(max(field.size))  # type: ignore[arg-type]


_COLUMNS: list[tuple[str, str, Callable[[LayerRow], Any]]] = [
    ("layer", "name as in named_modules", lambda r: r.name or r.kind),
    ("kind", "class or function", lambda r: r.kind),
    (
        "output",
        "shape of one item's output",
        lambda r: r.output_shape and (words.times(r.output_shape[1:]), r.outputs or 0),
    ),
    ("fan-in", "inputs that an output sees, the largest", lambda r: r.fan_in),
    ("sees", "receptive field in input positions; *: with holes", _sees),
    ("parameters", "trained numbers, with biases", lambda r: r.parameters),
    ("uses", "connections per weight", lambda r: r.uses),
    ("MACs", "multiply-accumulates", lambda r: r.macs),
    ("on padding", "MACs that fall on zero padding", lambda r: r.padding_macs),
    ("connections", "pairs of an output and an input it sees", lambda r: r.connections),
    ("dense", "weights of a dense layer in its place", lambda r: r.dense_parameters),
]


def _uses(audit: Audit) -> Any:
    rows = [row for row in audit.layers if row.uses]
    if not rows:
        return None
    labels = [words.tail(row.name or row.kind) for row in rows]
    return safe(to_svg(bars(labels, [row.uses or 1 for row in rows], "connections per weight")))


def _seen(audit: Audit) -> dict[str, Any] | None:
    """The heat map of the effective receptive field beside the exact one."""
    found = None if audit.call is None else heat(audit.call, audit.layers)
    if found is None:
        return None
    about = (
        f"Position {words.times(found.at)} of {found.layer}. Half of what acts on it, by squared "
        f"gradient, comes from {100 * found.half:.1f} % of the exact field."
    )
    if len(found.at) > 2:
        about += " Of the volume, the middle slice."
    figure = seen_box(found.values, found.box, "exact receptive field")
    return {"about": about, "figure": safe(to_svg(figure))}


def _runs(audit: Audit) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The commuting squares, and the maps of where the error lies."""
    squares, largest, maps = draw(audit)
    shown = [
        {
            "label": f"{square.layer}, {square.transform}",
            "about": f"Relative error {words.error_cell(square.error)} over all channels.",
            "figure": safe(to_svg(commuting_square(_titled(square), square.transform))),
        }
        for square in squares
    ]
    if not maps:
        return shown, None
    figure = error_maps([(words.tail(m.layer, 24), m.values) for m in maps])
    return shown, {"transform": largest, "figure": safe(to_svg(figure))}


def _titled(square: Square) -> list[tuple[str, NDArray]]:
    titles = ("x", "f(x)", "g f(x)", "g x", "f(g x)", "f(g x) - g f(x)")
    return list(zip(titles, square.pictures, strict=True))
