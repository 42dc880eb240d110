"""Counts against enumeration, against torch, and against published numbers."""

import io
import time

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

import symconv as sc
from laws import laws
from laws.cases import DIMENSIONS, Case, arguments
from symconv import Structure, StructureError
from symconv.lattice import Window, orbits


@pytest.mark.parametrize("dimension", DIMENSIONS)
@given(data=st.data())
def test_torchs_transposed_convolutions(dimension, data):
    a = data.draw(arguments(dimension))
    options = {k: v for k, v in a.options.items() if k != "padding_mode"}
    options["padding"] = data.draw(st.integers(0, 1))
    layer = getattr(nn, f"ConvTranspose{dimension}d")(
        a.in_channels, a.out_channels, a.kernel_size, dtype=torch.float64, **options
    )
    case = Case(layer, (a.in_channels, *a.size))
    try:
        structure = case.structure()
    except StructureError:  # padding eats the whole output: torch refuses too
        with pytest.raises(RuntimeError):
            layer(case.input())
        return
    laws.equals_its_matrix(case)
    assert structure.transpose().kind == "conv"


def test_linear_layer():
    case = Case(nn.Linear(5, 3, dtype=torch.float64), (5,))
    laws.equals_its_matrix(case)
    assert case.structure().dense_parameters == case.structure().connections == 15


def test_fig_9_6_of_the_deep_learning_book():
    """320 wide, 280 high, two taps side by side: 267,960 flops against 8 billion weights."""
    edges = Structure.conv(1, 1, Window.of(2, (1, 2)), (280, 320))
    assert edges.outputs == 280 * 319
    assert edges.outputs * (2 + 1) == 267_960
    assert edges.dense_parameters == 8_003_072_000
    assert 2 * Structure.dense(edges.input_shape, edges.output_shape).macs > 16e9


@pytest.mark.parametrize(("tile", "weights"), [(6, 324), (2, 36), (3, 81), (1, 9)])
def test_free_weights_on_a_torus(tile, weights):
    """The table of the design: local, tile 2, tile 3, conv; also as orbits of raw pairs."""
    window = Window.of(2, 3, padding=1, padding_mode="circular")
    assert Structure.tiled(1, 1, window, (6, 6), tile).parameters == weights
    y, x, dy, dx = np.indices((6, 6, 3, 3)).reshape(4, -1)  # output and tap, no window code
    name = {key: i for i, key in enumerate(zip(y, x, dy, dx, strict=True))}
    down = [name[(a + tile) % 6, b, c, d] for a, b, c, d in zip(y, x, dy, dx, strict=True)]
    right = [name[a, (b + tile) % 6, c, d] for a, b, c, d in zip(y, x, dy, dx, strict=True)]
    assert orbits(len(y), [np.array(down), np.array(right)]).count == weights


def test_counting_a_large_image_takes_no_enumeration():
    start = time.perf_counter()
    counts = Structure.conv(3, 64, Window.of(2, 3, padding=1), (4096, 4096)).counts()
    assert time.perf_counter() - start < 1  # milliseconds; enumerating 28 billion takes minutes
    # per axis 4096 windows of 3, less one tap at each end
    assert counts["connections"] == 3 * 64 * (3 * 4096 - 2) ** 2
    assert counts["macs"] == 3 * 64 * 9 * 4096**2
    assert counts["dense_parameters"] == 3 * 64 * 4096**4


def test_counts_never_wrap():
    huge = Structure.conv(1, 1, Window.of(2, 1), (10**6, 10**6))
    assert huge.dense_parameters == 10**24


def test_labels_of_regions_must_fit():
    window = Window.of(1, 3)
    with pytest.raises(StructureError, match=r"each output of \(6,\)"):
        Structure.region(1, 1, window, 8, np.zeros(8, int))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Structure.of(nn.ReLU(), (4,)), "ReLU"),
        (lambda: Structure.of(nn.Conv1d(1, 1, 3)), "input_size of 1 axes"),
        (lambda: Structure.of(nn.Linear(2, 2), (4,)), "no input_size"),
        (lambda: Structure.of(nn.Conv1d(1, 1, 3), (2,)), "smaller kernel"),
        (lambda: Structure.conv(3, 4, Window.of(1, 3), 8, groups=2), "groups=2"),
        (lambda: Structure.dense(3, 2).materialize(nn.Linear(2, 2)), "6 weights"),
        (lambda: Structure.dense(0, 2), "inputs"),
        (lambda: Structure.conv(2, 2, Window.of(1, 3), 8, groups=0), "groups"),
        (lambda: Structure.conv(-2, 2, Window.of(1, 3), 8), "in_channels"),
        (lambda: Structure.region(1, 1, Window.of(1, 3), 4, [0, 5]), "each used"),
        (lambda: Structure.region(1, 1, Window.of(1, 3), 4, [0.0, 1.0]), "integer region"),
        (lambda: Structure.sparse(np.array([[0, 0]]), 3), "twice"),
        (lambda: Structure.sparse(np.array([[0, 7]]), 3), "from 0 to 7"),
        (lambda: Structure.sparse(np.array([0, 1]), 3), "fan_in"),
        (lambda: Structure.of(sc.nn.TiledConv1d(1, 1, 3, 2)), "an input_size for TiledConv1d"),
        (lambda: Structure.of(sc.nn.SparseLinear(3, 2, 1), 3), "no input_size"),
        (
            lambda: Structure.of(nn.ConvTranspose1d(2, 2, 3, 1, 0, 1, dilation=2), 5),
            "output_padding below stride",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(StructureError, match=message):
        make()


WINDOW = Window.of(1, 3, padding=1)
SMALL = [
    Structure.dense(6, 4),
    Structure.sparse(np.array([[0, 2], [1, 5], [3, 4]]), 6),
    Structure.local(1, 1, WINDOW, 8),
    Structure.region(1, 1, WINDOW, 8, [0, 0, 0, 1, 1, 1, 2, 2]),
    Structure.tiled(1, 1, WINDOW, 8, 2),
    Structure.conv(1, 1, WINDOW, 8),
    Structure.conv(1, 1, WINDOW, 8).transpose(),
]


@pytest.mark.parametrize("structure", SMALL, ids=lambda s: s.kind)
def test_draws_one_line_a_connection_and_one_colour_a_weight(structure):
    ax = structure.draw().axes[0]
    (lines,) = ax.collections[:1]
    assert len(lines.get_segments()) == structure.connections
    colours = {tuple(c) for c in lines.get_colors()}
    assert len(colours) == len(set(structure.weight_ids().weight.tolist()))


@pytest.mark.parametrize("kind", ["conv", "local", "region", "tiled", "dense", "sparse"])
def test_draws_large_structures_on_a_small_lattice(kind):
    window, size = Window.of(2, 3, padding=1), (256, 256)
    structure = {
        "conv": lambda: Structure.conv(3, 8, window, size),
        "local": lambda: Structure.local(3, 8, window, size),
        "region": lambda: Structure.region(3, 8, window, size, np.indices(size)[0] // 2),
        "tiled": lambda: Structure.tiled(3, 8, window, size, 2),
        "dense": lambda: Structure.dense((1, *size), 8),
        "sparse": lambda: Structure.sparse(np.arange(65536).reshape(8, -1), 65536),
    }[kind]()
    figure = structure.draw()
    assert "as it looks on" in figure.axes[0].get_title()
    figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_a_large_region_layer_is_drawn_with_its_regions():
    bands = np.indices((33, 33))[0] // 11
    window = Window.of(2, 3, padding=1)
    small = Structure.region(3, 16, window, (33, 33), bands)._small()
    assert small.parameters == 3 * 9, "a crop of the corner would lie in one band"


def test_notebooks_show_counts_and_picture():
    shown = SMALL[-2]._repr_html_()
    assert "<svg" in shown
    assert "parameters" in shown
    assert "22" in shown
