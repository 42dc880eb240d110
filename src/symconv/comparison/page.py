"""The page of a comparison: what it found, as one self-contained file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from symconv.comparison.filters import core
from symconv.comparison.layers import Options
from symconv.comparison.notes import method_notes
from symconv.comparison.payoff import points, standing
from symconv.comparison.results import Accuracy, Comparison, Line
from symconv.comparison.runs import write_atomically
from symconv.comparison.shifts import MEASURES
from symconv.comparison.structures import ROWS, STRUCTURES, TRANSFORMS, Row
from symconv.comparison.tables import error, seconds, short
from symconv.comparison.verdict import listed
from symconv.models import Place
from symconv.nn import ScaleConv2d
from symconv.report.figures import (
    Panel,
    Series,
    accuracy_panels,
    drawn_alone,
    filter_grid,
    map_strip,
    to_svg,
)
from symconv.report.html import render, safe
from symconv.structure import Structure


def write_page(result: Comparison, path: Path) -> Path:
    """Write the page of a comparison.

    Args:
        result: What was found.
        path: Where the file goes.
    """
    text = render(
        "compare.html.j2",
        data=result.data,
        kicker=_kicker(result),
        headline=_headline(result),
        sentences=result.sentences,
        details=[] if result.settings.sweep else result.details,
        tables=_tables(result),
        accuracy=_accuracy(result),
        legend=[{"label": label, "chip": chip(label)} for label in _legend(result)],
        structures=[] if result.settings.sweep else _structures(result),
        maps=[] if result.settings.sweep else _maps(result),
        filters=[] if result.settings.sweep else _filters(result),
        notes=method_notes(result),
    )
    write_atomically(path, text)
    return path


def _kicker(result: Comparison) -> str:
    data = result.data
    return (
        f"symconv compare · {data['name']} · {len(data['classes'])} classes · "
        f"{data['train']:,} training, {data['validation']:,} validation and {data['test']:,} test "
        f"pictures of {data['canvas']}x{data['canvas']}"
    )


def _headline(result: Comparison) -> str:
    if result.settings.sweep:
        return f"How small can k be? Accuracy on {result.data['name']} against the fan-in"
    won = [f"{v.test}: {v.winner} wins" for v in result.verdicts if v.winner]
    only = [f"{v.test}: only {v.best} was trained" for v in result.verdicts if not v.gaps]
    several = [v.test for v in result.verdicts if v.gaps and not v.winner]
    open_ = [f"no single winner on {listed(several)}"] if several else []
    text = "; ".join([*(won or only), *open_])
    return f"{text[:1].upper()}{text[1:]}."


def chip(structure: str) -> str:
    """The style of a structure's colour mark: a ring if its training pictures are changed."""
    row = STRUCTURES[structure]
    inside = "transparent" if row.augmented else row.colour
    return f"background: {inside}; border-color: {row.colour}"


def _legend(result: Comparison) -> list[str]:
    return list(dict.fromkeys(line.structure for line in result.lines))


def _cell(accuracy: Accuracy | None, best: bool = False) -> dict:
    if accuracy is None:
        return {"text": "", "small": "", "best": False}
    small = "" if accuracy.spread is None else f"±{100 * accuracy.spread:.1f}"
    return {"text": f"{100 * accuracy.mean:.1f}", "small": small, "best": best}


def _plain(text: object) -> dict:
    return {"text": str(text), "small": "", "best": False}


def _tables(result: Comparison) -> list[dict]:
    tests = [verdict.test for verdict in result.verdicts]
    groups = [_group("", 1), _group(f"{result.settings.steps} steps each", len(tests))]
    columns = ["", *tests]
    if result.equal_time_verdicts:
        columns += [*tests, "steps"]
        groups.append(_group("under equal time", len(tests) + 1))
    accuracy = (
        "Accuracy in percent on held-out pictures, with the standard deviation over "
        f"{result.settings.seeds} seeds, at the largest training size. Shaded: the best and all "
        "that cannot be told apart from it."
    )
    costs = ["", *(["k of m"] if result.settings.sweep else []), "width", "weights", "connections"]
    costs += ["MACs", "seconds", "sizes", "what is connected and shared"]
    cost = "What each network costs, and whether it takes pictures of any size or of one."
    found = [_table(result, accuracy, groups, columns, _accuracy_cells)]
    if not result.settings.sweep:
        found += [*_payoff_table(result), _share_table(result), _error_table(result)]
    return [*found, _table(result, cost, [], costs, _cost_cells, left=True)]


def _payoff_table(result: Comparison) -> list[dict]:
    """Each group beside its plain twin; nothing where there is no pair."""
    if not result.payoffs:
        return []
    rows = [
        {
            "label": f"{p.group} beside {p.plain}" + (", equal time" if p.equal_time else ""),
            "chip": chip(p.group),
            "cells": [
                {"text": points(lead), "small": standing(lead), "best": standing(lead) == "ahead"}
                for lead in p.leads.values()
            ],
        }
        for p in result.payoffs
    ]
    about = (
        "Does sharing over turns pay? Lead of each group convolution over the plain one with as "
        "many multiply-accumulates and the same training pictures, in points with its standard "
        "error. Shaded: ahead by more than the spread."
    )
    columns = ["", *result.payoffs[0].leads]
    return [{"about": about, "groups": [], "columns": columns, "rows": rows, "left": False}]


def _share_table(result: Comparison) -> dict:
    data = result.data
    low, high = data["factors"]
    about = (
        f"Shares of the test pictures in percent. Shifted: two copies, 1 to {data['farthest']} px "
        "apart along each axis, get the same class (consistency), and their own. Around: the "
        "picture and its circular shift by 1 to 8 px get the same class. Rescaled: by factors of "
        f"{low:g} to {high:.3g}, the picture gets its own class. Shaded: the highest."
    )
    best = {name: max(line.shares[name] for line in result.lines) for name in MEASURES}

    def cells(line: Line, result: Comparison) -> list[dict]:
        shown = ((line.shares[name], best[name]) for name in MEASURES)
        return [{"text": f"{100 * s:.1f}", "small": "", "best": s == top} for s, top in shown]

    return _table(result, about, [], ["", *MEASURES.values()], cells)


def _error_table(result: Comparison) -> dict:
    about = (
        "Equivariance error before and after training: of the last feature map when the picture "
        "shifts by one of its sites, and of the class scores when it turns by 90 and 45 degrees. "
        "0 is perfect; about 1 and more is no relation."
    )
    groups = [_group("", 1), *(_group(_named(name), 2) for name in TRANSFORMS)]
    columns = ["", *["before", "after"] * len(TRANSFORMS)]
    return _table(result, about, groups, columns, _error_cells)


def _named(transform: str) -> str:
    return f"{transform}°" if transform.startswith("turn") else transform


def _error_cells(line: Line, result: Comparison) -> list[dict]:
    pairs = ((line.errors_before[name], line.errors[name]) for name in TRANSFORMS)
    return [_plain(error(value)) for pair in pairs for value in pair]


def _group(name: str, span: int) -> dict:
    return {"name": name, "span": span}


def _table(
    result: Comparison,
    about: str,
    groups: list[dict],
    columns: list[str],
    cells: Callable[[Line, Comparison], list[dict]],
    *,
    left: bool = False,
) -> dict:
    rows = [
        {
            "label": line.label,
            "chip": chip(line.structure),
            "cells": cells(line, result),
        }
        for line in result.lines
    ]
    return {"about": about, "groups": groups, "columns": columns, "rows": rows, "left": left}


def _accuracy_cells(line: Line, result: Comparison) -> list[dict]:
    tests = [verdict.test for verdict in result.verdicts]
    cells = [_cell(line.accuracy(v.test), line.label in v.peers) for v in result.verdicts]
    if result.equal_time_verdicts:
        for test, verdict in zip(tests, result.equal_time_verdicts, strict=True):
            cells.append(_cell(line.equal_time.get(test), line.label in verdict.peers))
        cells.append(_plain(f"{line.equal_time_steps:,}"))
    return cells


def _cost_cells(line: Line, result: Comparison) -> list[dict]:
    fan_in = [_plain(f"{line.fan_in} of {line.inputs}")] if result.settings.sweep else []
    return [
        *fan_in,
        _plain(line.width),
        _plain(short(line.parameters)),
        _plain(short(line.connections)),
        _plain(short(line.macs)),
        _plain(seconds(line.seconds)),
        _plain("any" if line.other_sizes else "one"),
        _plain(line.about),
    ]


def _series(line: Line, x: list[float], found: list[Accuracy]) -> Series:
    row = STRUCTURES[line.structure]
    return Series(
        line.label,
        row.colour,
        row.marker,
        x,
        [100 * a.mean for a in found],
        [None if a.spread is None else 100 * a.spread for a in found],
        hollow=row.augmented,
    )


def _accuracy(result: Comparison) -> dict:
    rows = [
        _sweep_panels(result, verdict.test)
        if result.settings.sweep
        else _test_panels(result, verdict.test)
        for verdict in result.verdicts
    ]
    if result.settings.sweep:
        title = "Accuracy against the fan-in"
        about = "How many of the m inputs a unit of the first layer must see, at a fixed width."
    else:
        several = len(result.data["sizes"]) > 1
        title = "Accuracy against cost" + (" and against training pictures" if several else "")
        about = (
            "Bars are the standard deviation over seeds; the dashed line is the budget that all "
            "structures share. Sharing saves weights, not multiply-accumulates."
        )
    return {"title": title, "about": about, "figure": safe(to_svg(accuracy_panels(rows)))}


def _test_panels(result: Comparison, test: str) -> list[Panel]:
    lines = [line for line in result.lines if test in line.curve]
    budget = result.settings.budget
    panels = []
    for kind, name in (("params", "weights"), ("macs", "multiply-accumulates")):
        series = []
        for line in lines:
            cost = line.parameters if kind == "params" else line.macs
            found = line.curve[test]
            series.append(_series(line, [cost], [found[max(found)]]))
        limit = budget.limit if budget.kind == kind else None
        ticks = None if limit is None else [limit]
        title = f"{test}: against {name}"
        panels.append(Panel(title, name, series, limit=limit, joined=False, ticks=ticks))
    sizes = result.data["sizes"]
    if len(sizes) == 1:
        return panels
    curves = [_series(x, list(sizes), [x.curve[test][s] for s in sizes]) for x in lines]
    panels.append(
        Panel(f"{test}: against training pictures", "training pictures", curves, ticks=sizes)
    )
    return panels


def _sweep_panels(result: Comparison, test: str) -> list[Panel]:
    series = []
    for structure in _legend(result):
        lines = [line for line in result.lines if line.structure == structure]
        found = [line.curve[test][max(line.curve[test])] for line in lines]
        drawn = _series(lines[0], [line.fan_in for line in lines], found)
        series.append(drawn)
    ticks = sorted({line.fan_in for line in result.lines})
    return [Panel(test, "inputs k that a unit sees", series, ticks=ticks)]


def _structures(result: Comparison) -> list[dict]:
    shown, drawn = [], set()
    for row in ROWS:
        if row.build in drawn or row.name not in {line.structure for line in result.lines}:
            continue
        drawn.add(row.build)
        with torch.random.fork_rng():  # the same drawing each time; the caller's draws stay theirs
            torch.manual_seed(0)
            structure = small_structure(row)
        if structure is None:
            continue
        figure = safe(to_svg(drawn_alone(structure.draw)))
        shown.append(
            {"label": row.name, "chip": chip(row.name), "about": row.about, "figure": figure}
        )
    return shown


def small_structure(row: Row) -> Structure | None:
    """The structure of the row's layer on a 6x6 map; of flat features as many as positions.

    A scale layer has none: through resampling every output hears a whole row of inputs faintly.
    """
    layer = row.build(Place((1, 6, 6), 1, 3, 1, first=True), Options())
    if isinstance(layer, ScaleConv2d):
        return None
    if core(layer) is layer:
        return Structure.of(layer, (6, 6))
    return Structure.of(core(row.build(Place((1, 6, 6), 36, 3, 1, first=True), Options())))


def _maps(result: Comparison) -> list[dict]:
    shown = []
    for line in result.lines:
        maps = result.pictures[line.label]["maps"]
        if maps is None:
            continue
        pictures = [("x", np.array(maps["picture"])), ("g(x)", np.array(maps["moved"]))]
        features = [
            ("f(g(x))", np.array(maps["of_moved"])),
            ("g(f(x))", np.array(maps["moved_of"])),
        ]
        shown.append(
            {
                "label": line.label,
                "chip": chip(line.structure),
                "about": (
                    f"g moves by {maps['pixels']} px down and right; relative error of this map "
                    f"{error(maps['error'])}"
                ),
                "figure": safe(to_svg(map_strip(pictures, features, "difference"))),
            }
        )
    return shown


def _filters(result: Comparison) -> list[dict]:
    shown = []
    for line in result.lines:
        groups = result.pictures[line.label]["filters"]
        grid = filter_grid([(group["label"], np.array(group["values"])) for group in groups])
        shown.append(
            {
                "label": line.label,
                "chip": chip(line.structure),
                "about": line.about,
                "figure": safe(to_svg(grid)),
            }
        )
    return shown
