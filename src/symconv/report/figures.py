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
    """

    label: str
    colour: str
    marker: str
    x: Sequence[float]
    mean: Sequence[float]
    spread: Sequence[float | None]


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
            markeredgecolor="white",
            markeredgewidth=0.6,
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
