"""Draws connections: who sees whom, one colour a weight."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from symconv.extras import MissingExtraError, needs
from symconv.lattice.wiring import Connections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CONNECTIONS = 40_000  # more would be a grey blur
MOST_UNITS = 24  # in one row of units; beyond, the matrix reads better


def draw(
    pairs: Connections, inputs: int, outputs: int, title: str, ax: Axes | None = None
) -> Figure:
    """Draw connections as two rows of units joined by lines, or as the matrix if they are many.

    Args:
        pairs: The connections.
        inputs: Number of inputs m.
        outputs: Number of outputs n.
        title: Shown above.
        ax: Axes to draw on; a new figure if left out.

    Raises:
        MissingExtraError: matplotlib is not installed; the message names the extra.
    """
    axes = _new_axes() if ax is None else ax
    colours = _colours(pairs.weight)
    if max(inputs, outputs) <= MOST_UNITS:
        _draw_units(axes, pairs, inputs, outputs, colours)
    else:
        _draw_matrix(axes, pairs, inputs, outputs, colours)
    axes.set_title(title, fontsize=10)
    return cast("Figure", axes.figure)


def _new_axes() -> Axes:
    figure = needs("matplotlib.figure", "report", "drawing a structure").Figure
    return figure(figsize=(6, 3.6), layout="constrained").add_subplot()


def _colours(weight: np.ndarray) -> np.ndarray:
    """A colour a weight: neighbours far apart on the wheel when few, a gradient when many."""
    colormaps = needs("matplotlib", "report", "drawing a structure").colormaps
    names, index = np.unique(weight, return_inverse=True)
    if len(names) <= 10:
        return colormaps["tab10"](index)
    golden = (index * 0.61803398875) % 1 if len(names) <= 60 else index / len(names)
    return colormaps["turbo"](0.05 + 0.9 * golden)


def _draw_units(
    ax: Axes, pairs: Connections, inputs: int, outputs: int, colours: np.ndarray
) -> None:
    collections = needs("matplotlib.collections", "report", "drawing a structure")
    below = np.linspace(0, 1, inputs + 2)[1:-1]
    above = np.linspace(0, 1, outputs + 2)[1:-1]
    ends = np.stack([below[pairs.input], above[pairs.output]], axis=1)
    lines = np.stack([ends, np.broadcast_to([0.0, 1.0], ends.shape)], axis=2)
    styles = ["solid" if sign > 0 else "dotted" for sign in pairs.sign]
    ax.add_collection(
        collections.LineCollection(lines, colors=colours, linewidths=1.6, linestyles=styles)
    )
    for row, height in ((below, 0.0), (above, 1.0)):
        level = np.full(len(row), height)
        ax.scatter(row, level, s=70, zorder=3, facecolor="white", edgecolor="#333333")
    ax.text(0, 0, "inputs", ha="right", va="center", fontsize=9)
    ax.text(0, 1, "outputs", ha="right", va="center", fontsize=9)
    ax.set(xlim=(-0.08, 1), ylim=(-0.15, 1.15))
    ax.axis("off")


def _draw_matrix(
    ax: Axes, pairs: Connections, inputs: int, outputs: int, colours: np.ndarray
) -> None:
    image = np.ones((outputs, inputs, 3))
    image[pairs.output, pairs.input] = colours[:, :3]
    ax.imshow(image, interpolation="nearest", aspect="equal")
    ax.set(xlabel=f"{inputs} inputs", ylabel=f"{outputs} outputs", xticks=[], yticks=[])


def svg_or_nothing(make: Callable[[], Figure]) -> str:
    """The drawing as inline SVG; empty where matplotlib is not installed."""
    try:
        figure = make()
    except MissingExtraError:
        return ""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
