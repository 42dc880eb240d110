"""Figures from plain numbers, by matplotlib's object interface: no global state is touched."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symconv.extras import needs

INK, FAINT = "#333333", "#d9d9d9"
DIVERGING = "PuOr"  # told apart by the colour-blind
PICTURE, MAP = "gray", "Greys"


@dataclass(frozen=True)
class Series:
    """Points with spread in one colour.

    Args:
        label: Name in the legend.
        colour: Of line and marker.
        marker: matplotlib's marker.
        x: Positions.
        mean: Heights.
        spread: Half lengths of the bars; None for no bar.
        hollow: Open markers and a dashed line.
    """

    label: str
    colour: str
    marker: str
    x: Sequence[float]
    mean: Sequence[float]
    spread: Sequence[float | None]
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: Above.
        xlabel: Below.
        series: What is drawn.
        logarithmic: Of the horizontal axis.
        joined: Points of a series are joined by a line.
        limit: A dashed line at this position.
        ticks: Positions that get a tick; None for matplotlib's choice.
    """

    title: str
    xlabel: str
    series: Sequence[Series]
    logarithmic: bool = True
    joined: bool = True
    limit: float | None = None
    ticks: Sequence[float] | None = None


def new_figure(width: float, height: float) -> Any:
    """An empty figure with its own canvas, in inches."""
    figure = needs("matplotlib.figure", "report", "the page").Figure(
        figsize=(width, height), layout="constrained"
    )
    needs("matplotlib.backends.backend_svg", "report", "the page").FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Any) -> str:
    """The figure as an SVG element to put into a page, the same bytes for the same figure."""
    matplotlib = needs("matplotlib", "report", "the page")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "symconv"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _calm(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _ticks(axes: Any, panel: Panel) -> None:
    ticker = needs("matplotlib.ticker", "report", "the page")
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        low, high = axes.get_xlim()
        if high < 20 * low:  # room to both sides, where a budget holds all costs together
            axes.set_xlim(low / 3, high * 3)
    if panel.ticks is not None:
        axes.set_xticks(list(panel.ticks), [_thousands(t) for t in panel.ticks])
    else:
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _thousands(value)))


def _thousands(value: float) -> str:
    """A tick's label.

    Example:
        >>> _thousands(64000), _thousands(1.5e6), _thousands(300)
        ('64k', '1.5M', '300')
    """
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"


def accuracy_panels(rows: Sequence[Sequence[Panel]]) -> Any:
    """Panels in rows and columns, heights in percent, one scale for a row.

    Args:
        rows: The panels; every row has as many.
    """
    columns = max(len(row) for row in rows)
    figure = new_figure(3.7 * columns, 2.9 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False, sharey="row")
    for axes_row, row in zip(grid, rows, strict=True):
        for index, (axes, panel) in enumerate(zip(axes_row, row, strict=True)):
            _draw_panel(axes, panel)
            if index == 0:
                axes.set_ylabel("accuracy, %", fontsize=9, color=INK)
    return figure


def _draw_panel(axes: Any, panel: Panel) -> None:
    _calm(axes)
    for series in panel.series:
        bars = None if None in series.spread else [s or 0.0 for s in series.spread]
        axes.errorbar(
            series.x,
            series.mean,
            yerr=bars,
            color=series.colour,
            marker=series.marker,
            markersize=6,
            markerfacecolor="white" if series.hollow else series.colour,
            markeredgecolor=series.colour if series.hollow else "white",
            markeredgewidth=1.4 if series.hollow else 0.6,
            linestyle=(0, (4, 2)) if series.hollow else "-",
            linewidth=1.6 if panel.joined else 0,
            elinewidth=1.2,
            capsize=2.5,
            alpha=0.95,
        )
    if panel.limit is not None:
        axes.axvline(panel.limit, color=INK, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_title(panel.title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(panel.xlabel, fontsize=9, color=INK)
    _ticks(axes, panel)


def drawn_alone(draw: Callable[[Any], Any]) -> Any:
    """What a function draws on given axes, as a small figure with text to match."""
    figure = new_figure(3.4, 3.2)
    axes = figure.subplots()
    draw(axes)
    axes.title.set_fontsize(8.5)
    axes.title.set_color(INK)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_fontsize(8.5)
    return figure


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def filter_grid(groups: Sequence[tuple[str, NDArray]]) -> Any:
    """Learned filters: one row a group, one colour scale, zero in the middle of it.

    Args:
        groups: A label and filters (count, height, width) for each row.
    """
    columns = max(len(filters) for _, filters in groups)
    figure = new_figure(1.15 + 0.52 * columns, 0.58 * len(groups) + 0.08)
    grid = figure.subplots(
        len(groups), columns + 1, squeeze=False, width_ratios=[2.0] + [1.0] * columns
    )
    largest = max(float(np.abs(filters).max()) for _, filters in groups) or 1.0
    for row, (label, filters) in zip(grid, groups, strict=True):
        row[0].axis("off")
        row[0].text(1, 0.5, label, ha="right", va="center", fontsize=8.5, color=INK)
        for axes in row[1 + len(filters) :]:
            axes.axis("off")
        for axes, values in zip(row[1:], filters, strict=False):
            axes.imshow(values, cmap=DIVERGING, vmin=-largest, vmax=largest, interpolation="none")
            _bare(axes)
    return figure


def map_strip(
    pictures: Sequence[tuple[str, NDArray]], maps: Sequence[tuple[str, NDArray]], difference: str
) -> Any:
    """Pictures and two feature maps side by side, then the maps' difference on the same scale.

    Args:
        pictures: A title and an array (height, width) each.
        maps: The same for two maps.
        difference: Title of their difference.
    """
    scale = max(float(np.abs(values).max()) for _, values in maps) or 1.0
    figure = new_figure(1.5 * (len(pictures) + 3), 1.78)
    row = figure.subplots(1, len(pictures) + 3)
    for axes, (title, values) in zip(row, pictures, strict=False):
        axes.imshow(values, cmap=PICTURE, interpolation="none")
        axes.set_title(title, fontsize=9, color=INK)
    for axes, (title, values) in zip(row[-3:], maps, strict=False):
        axes.imshow(values, cmap=MAP, vmin=0, vmax=scale, interpolation="none")
        axes.set_title(title, fontsize=9, color=INK)
    (_, first), (_, second) = maps
    row[-1].imshow(first - second, cmap=DIVERGING, vmin=-scale, vmax=scale, interpolation="none")
    row[-1].set_title(difference, fontsize=9, color=INK)
    for axes in row:
        _bare(axes)
    return figure


def commuting_square(pictures: Sequence[tuple[str, NDArray]], transform: str) -> Any:
    """The square of a map and a transform, and how far its two ways end apart.

    Above, the input x and its features f(x); below, the transformed input g x and its features
    f(g x); to the right, the features transformed g f(x), and the difference of the two.

    Args:
        pictures: Titles and arrays (height, width): x, f(x), g f(x), g x, f(g x), difference.
        transform: Name of g.
    """
    figure = new_figure(6.4, 4.5)
    grid = figure.subplots(2, 3)
    features = [pictures[i][1] for i in (1, 2, 4)]
    scale = max(float(np.abs(values).max()) for values in features) or 1.0
    for index, (axes, (title, values)) in enumerate(zip(grid.flat, pictures, strict=True)):
        kind = {"cmap": PICTURE} if index in (0, 3) else {
            "cmap": DIVERGING, "vmin": -scale, "vmax": scale
        }  # fmt: skip
        axes.imshow(values, interpolation="none", aspect=_aspect(values), **kind)
        axes.set_title(title, fontsize=9, color=INK)
        _bare(axes)
    _arrow(grid[0, 0], grid[0, 1], "f")
    _arrow(grid[1, 0], grid[1, 1], "f")
    _arrow(grid[0, 1], grid[0, 2], "g")
    _arrow(grid[0, 0], grid[1, 0], f"g: {transform}", down=True)
    return figure


def _aspect(values: NDArray) -> str:
    """Square cells, but for lines, which would be too thin to see."""
    return "auto" if min(values.shape) == 1 else "equal"


def _arrow(start: Any, end: Any, label: str, down: bool = False) -> None:
    (x, y), (to_x, to_y) = ((0.5, -0.03), (0.5, 1.16)) if down else ((1.02, 0.5), (-0.02, 0.5))
    style = {"arrowstyle": "->", "color": INK, "linewidth": 1.0}
    end.annotate(
        "", (to_x, to_y), (x, y), end.transAxes, start.transAxes, style, annotation_clip=False
    )
    at = (0.53, -0.1) if down else (1.1, 0.55)
    start.text(
        *at, label, transform=start.transAxes, fontsize=9, color=INK, style="italic",
        ha="left" if down else "center", va="center" if down else "bottom",
    )  # fmt: skip


def seen_box(values: NDArray, box: tuple[float, float, float, float] | None, marked: str) -> Any:
    """How strongly each input position acts, in decades, with a box around those that can.

    Args:
        values: Magnitudes (height, width), at least 0.
        box: First row, first column, height and width, in input positions; it may lie outside.
        marked: What the box is, for the legend.
    """
    patches = needs("matplotlib.patches", "report", "the page")
    figure = new_figure(4.6, 3.9 if len(values) > 1 else 1.9)
    axes = figure.subplots()
    top = float(values.max()) or 1.0
    shown = np.log10(np.maximum(values / top, 1e-6))
    image = axes.imshow(
        shown, cmap="Purples", vmin=-6, vmax=0, interpolation="none", aspect=_aspect(values)
    )
    if box is not None:
        row, column, height, width = box
        axes.add_patch(
            patches.Rectangle(
                (column - 0.5, row - 0.5), width, height, fill=False, edgecolor="#d95f02",
                linewidth=1.4, label=marked,
            )
        )  # fmt: skip
        rows, columns = values.shape
        edge = 0 if rows == 1 else 1
        axes.set_xlim(min(-0.5, column - 0.5) - 1, max(columns - 0.5, column - 0.5 + width) + 1)
        axes.set_ylim(max(rows - 0.5, row - 0.5 + height) + edge, min(-0.5, row - 0.5) - edge)
        figure.legend(loc="outside lower left", fontsize=8.5, frameon=False)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    if len(values) == 1:
        axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_ticks([-6, -4, -2, 0], labels=["1e-6", "1e-4", "0.01", "1"])
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    return figure


def error_maps(maps: Sequence[tuple[str, NDArray]]) -> Any:
    """Errors over positions on one scale, the strongest darkest.

    Args:
        maps: A title and an array (height, width), at least 0, each.
    """
    figure = new_figure(2.35 * len(maps) + 0.6, 2.7)
    row = figure.subplots(1, len(maps), squeeze=False)[0]
    top = max(float(values.max()) for _, values in maps) or 1.0
    image = None
    for axes, (title, values) in zip(row, maps, strict=True):
        image = axes.imshow(
            values, cmap=MAP, vmin=0, vmax=top, interpolation="none", aspect=_aspect(values)
        )
        axes.set_title(title, fontsize=9, color=INK)
        _bare(axes)
    bar = figure.colorbar(image, ax=list(row), shrink=0.75)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    return figure


def bars(labels: Sequence[str], heights: Sequence[float], xlabel: str) -> Any:
    """One horizontal bar a label on a logarithmic scale, the first at the top.

    Args:
        labels: Names.
        heights: Lengths, at least 1.
        xlabel: What the lengths are.
    """
    figure = new_figure(6.4, 0.9 + 0.19 * len(labels))
    axes = figure.subplots()
    _calm(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.barh(range(len(labels)), heights, color="#7570b3", height=0.7)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(left=0.8)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    ticker = needs("matplotlib.ticker", "report", "the page")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _thousands(value)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    return figure
