"""Where filters agree, each layer is torch's own convolution; where they do not, the definition."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

import symconv as sc
from symconv.kernels import workspace
from symconv.kernels.definition import local_conv_reference, sparse_linear_reference
from symconv.kernels.local import local_adjoint, local_correlation
from symconv.kernels.workspace import output_size
from symconv.lattice import PADDING_MODES
from symconv.nn._region_plan import plan

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
exact = dict(rtol=1e-12, atol=1e-12)
few = settings(max_examples=25)


@st.composite
def convs(draw, transposed: bool = False):
    """A torch convolution and an input: every mode, stride, dilation, group and padding."""
    n = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    kernel, dilation, groups = each(1, 3), each(1, 2), draw(st.sampled_from([1, 2]))
    size = tuple(d * (k - 1) + 1 + e for d, k, e in zip(dilation, kernel, each(1, 3), strict=True))
    padding = draw(st.sampled_from([each(0, 1), "same", "valid"]))
    stride = (1,) * n if padding == "same" else each(1, 3)
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = CONV[n](
        2 * groups,
        groups,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
        dtype=torch.float64,
    )
    return conv, torch.randn(2, 2 * groups, *size, dtype=torch.float64)


def ours(name: str, conv: nn.Module) -> Any:
    return getattr(sc.nn, f"{name}{conv.weight.ndim - 2}d")


@few
@given(convs(), st.integers(0, 99))
def test_layers_that_start_as_a_convolution(given_conv, seed):
    conv, x = given_conv
    expected, generator = conv(x), torch.Generator().manual_seed(seed)
    space = expected.shape[2:]
    count = min(3, math.prod(space))
    labels = torch.randint(count, space, generator=generator)
    labels.view(-1)[:count] = torch.arange(count)
    tile = torch.randint(1, 4, (len(space),), generator=generator).tolist()
    layers = [
        ours("LocallyConnected", conv).from_conv(conv, x.shape[2:]),
        ours("RegionConv", conv).from_conv(conv, labels),
        ours("RegionConv", conv).from_conv(conv, torch.zeros(space, dtype=torch.int64)),
        ours("TiledConv", conv).from_conv(conv, tile),
    ]
    for layer in layers:
        torch.testing.assert_close(layer(x), expected, **exact)
        torch.testing.assert_close(layer(x[0]), expected[0], **exact)
        back = layer.to_conv()
        assert repr(back) == repr(conv)
        torch.testing.assert_close(back(x), expected, rtol=0, atol=0)
        with torch.no_grad():
            layer.weight.view(-1)[-1] += 0.5
        if layer.weight.numel() > conv.weight.numel():
            with pytest.raises(sc.StructureError, match="agree within"):
                layer.to_conv(atol=0.4)
            layer.to_conv(atol=0.6)


@few
@given(convs(), st.data())
def test_transpose_with_one_filter(given_conv, data):
    conv, x = given_conv
    if isinstance(conv.padding, str):
        conv.padding = (0,) * len(conv.stride)
    n, (o, _) = len(conv.stride), conv.weight.shape[:2]
    extra = [data.draw(st.integers(0, s - 1)) for s in conv.stride]
    size = [s + 1 for s in x.shape[2:]]
    # torch's own filter has the layout (in, out // groups, *kernel), like the convolution's weight
    layer = ours("LocallyConnectedTranspose", conv)(
        o,
        conv.in_channels,
        conv.kernel_size,
        size,
        conv.stride,
        conv.padding,
        extra,
        conv.groups,
        bias=False,
        dilation=conv.dilation,
        dtype=torch.float64,
    )
    with torch.no_grad():
        layer.weight.copy_(conv.weight.movedim((0, 1), (-1, -2)))
    y = torch.randn(2, o, *size, dtype=torch.float64)
    options = conv.stride, conv.padding, extra, conv.groups, conv.dilation
    expected = TRANSPOSE[n](y, conv.weight, None, *options)
    assert tuple(expected.shape[2:]) == layer.output_size
    torch.testing.assert_close(layer(y), expected, **exact)


GEOMETRIES = [
    # size, kernel, stride, dilation, groups, labels
    ((9,), (3,), (2,), (1,), 2, False),
    ((5, 6), (2, 3), (1, 2), (2, 1), 1, False),
    ((5, 6), (2, 3), (1, 2), (2, 1), 2, True),
    ((4, 3, 4), (2, 2, 3), (1, 1, 1), (1, 2, 1), 1, True),
]


def operands(size, kernel, stride, dilation, groups, labelled, padding=(0,) * 6, batch=3):
    torch.manual_seed(0)
    out = output_size(size, kernel, stride, padding[: 2 * len(size)], dilation)
    positions = math.prod(out)
    labels = torch.randint(3, (positions,)) if labelled else None
    x = torch.randn(batch, 2 * groups, *size, dtype=torch.float64)
    filters = 3 if labelled else positions
    weight = torch.randn(filters, *kernel, 2, 2 * groups, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_(), labels


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("limit", [1, 2000, workspace.BYTES], ids=["tiny", "small", "default"])
def test_local_kernel_is_the_definition(geometry, limit, monkeypatch):
    monkeypatch.setattr(workspace, "BYTES", limit)
    x, weight, labels = operands(*geometry)
    stride, dilation, groups = geometry[2:5]
    none = (0,) * (2 * len(stride))
    with sc.kernels.use("reference"):
        y = local_correlation(x, weight, None, labels, stride, none, dilation, groups)
    expected = local_conv_reference(x, weight, labels, stride, dilation, groups)
    torch.testing.assert_close(y, expected, **exact)
    ones = torch.randn_like(y)
    with sc.kernels.use("reference"):
        got = torch.autograd.grad(y, (x, weight), ones)
    for mine, slow in zip(got, torch.autograd.grad(expected, (x, weight), ones), strict=True):
        torch.testing.assert_close(mine, slow, **exact)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_second_derivatives_of_the_kernel_and_its_transpose(geometry):
    _, kernel, stride, dilation, groups, _ = geometry
    small = tuple(d * (k - 1) + 2 for d, k in zip(dilation, kernel, strict=True))
    padding = (1, 0, 0, 2, 1, 1)[: 2 * len(stride)]
    x, weight, labels = operands(small, *geometry[1:], padding, batch=2)
    options = stride, padding, dilation, groups

    def forward(x, weight):
        return local_correlation(x, weight, None, labels, *options)

    def adjoint(y, weight):
        return local_adjoint(y, weight, labels, small, *options)

    y = torch.randn_like(forward(x, weight)).requires_grad_()
    for function, inputs in ((forward, (x, weight)), (adjoint, (y, weight))):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("batch", [1, 4])
def test_sparse_is_the_definition_to_second_order(batch):
    torch.manual_seed(0)
    layer = sc.nn.SparseLinear(7, 5, 3, bias=False, dtype=torch.float64)
    x = torch.randn(batch, 7, dtype=torch.float64, requires_grad=True)
    weight, connections = layer.weight, layer.connections
    torch.testing.assert_close(layer(x), sparse_linear_reference(x, weight, connections), **exact)
    torch.testing.assert_close(layer(x), layer.to_linear()(x), **exact)

    def product(x, weight):
        return sc.functional.sparse_linear(x, weight, connections)

    assert torch.autograd.gradcheck(product, (x, weight))
    assert torch.autograd.gradgradcheck(product, (x, weight))


def test_regions_take_the_way_that_suits_them():
    def cuts(rows: list[str]):
        found = plan(np.array([[int(label) for label in row] for row in rows]).repeat(9, 0))
        return found and found.cuts

    assert cuts(["0000", "1111"]) == (0, [0, 1])
    assert cuts(["0011", "0022", "3344"]) == (0, [(1, [0, (0, [1, 2])]), (1, [3, 4])])
    pinwheel = plan(np.array([[0, 0, 1], [2, 3, 1], [2, 4, 4]]).repeat(9, 0))
    assert pinwheel is not None  # five boxes that no straight cut parts
    assert all(pinwheel.full)
    assert pinwheel.cuts is None
    assert plan(np.arange(24).reshape(4, 6) % 4) is None  # all over the place
    assert plan(np.arange(100).reshape(10, 10)) is None  # too many

    torch.manual_seed(0)
    for rows in (["0011", "0022", "3344"], ["001", "231", "244"], ["0123", "1230"]):
        regions = torch.tensor([[int(label) for label in row] for row in rows]).repeat(9, 1).sort(0)
        for labels in (regions.values, torch.tensor(regions.values.numpy()[::-1].copy())):
            layer = sc.nn.RegionConv2d(2, 3, 3, labels, padding=1, dtype=torch.float64)
            x = torch.randn(2, 2, *labels.shape, dtype=torch.float64)
            filters = layer.weight[labels.flatten()].unflatten(0, tuple(labels.shape))
            bias = layer.bias[labels].movedim(-1, 0)
            expected = sc.functional.local_conv(x, filters, bias, padding=1)
            torch.testing.assert_close(layer(x), expected, **exact)


def test_sparse_kept_from_linear_and_rewired():
    torch.manual_seed(0)
    linear = nn.Linear(8, 5)
    layer = sc.nn.SparseLinear.from_linear(linear, 3)
    kept = layer.to_linear().weight
    threshold = linear.weight.abs().sort(1).values[:, -3:][:, :1]
    expected = linear.weight * (linear.weight.abs() >= threshold)
    torch.testing.assert_close(kept, expected, rtol=0, atol=0)

    before, dense = layer.connections.clone(), torch.randn(5, 8)
    layer(torch.zeros(1, 8))  # the kernel keeps the old indices: it must notice the change
    origin = layer.rewire(0.4, dense)
    assert (origin < 0).sum(1).tolist() == [1] * 5
    assert (layer.connections.diff(dim=1) > 0).all()
    assert (layer.weight[origin < 0] == 0).all()
    missing = dense.abs().scatter(1, before, -1.0).argmax(1)
    assert torch.equal(layer.connections[origin < 0], missing)
    smallest = torch.zeros(5, 8).scatter_(1, before, kept.gather(1, before).abs())
    assert (smallest.gather(1, layer.connections).sum(1) <= smallest.sum(1)).all()
    x = torch.randn(4, 8)
    torch.testing.assert_close(layer(x), layer.to_linear()(x))
    assert (sc.nn.SparseLinear(5, 3, 5).rewire(1.0) >= 0).all()  # nothing is missing


def test_connections_are_drawn_uniformly():
    for fan_in in (3, 9):  # by drawing repeats again, by sorting
        layer = sc.nn.SparseLinear(12, 4000, fan_in, generator=torch.Generator().manual_seed(0))
        assert (layer.connections.diff(dim=1) > 0).all()
        share = layer.connections.flatten().bincount(minlength=12) / (4000 * fan_in / 12)
        assert (share - 1).abs().max() < 0.1


def test_initial_values_have_torchs_bounds():
    torch.manual_seed(0)
    pairs = [
        (sc.nn.LocallyConnected2d(4, 8, 3, 6, groups=2), nn.Conv2d(4, 8, 3, groups=2)),
        (sc.nn.TiledConv2d(4, 8, 3, 6, groups=2), nn.Conv2d(4, 8, 3, groups=2)),
        (
            sc.nn.LocallyConnectedTranspose2d(8, 4, 3, 6, groups=2),
            nn.ConvTranspose2d(8, 4, 3, groups=2),
        ),
        (sc.nn.SparseLinear(99, 300, 16), nn.Linear(16, 300)),
    ]
    for mine, theirs in pairs:
        bound = theirs.weight.abs().max()  # of so many uniform values, nearly the bound itself
        torch.testing.assert_close(mine.weight.abs().max(), bound, rtol=0.05, atol=0)
        assert 0.7 * bound < mine.bias.abs().max() < 1.05 * bound


def test_connections_keep_the_order_in_which_they_are_given():
    given = torch.tensor([[4, 0, 2], [1, 3, 0]])
    layer = sc.nn.SparseLinear(5, 2, 3, connections=given, dtype=torch.float64)
    assert torch.equal(layer.connections, given)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = (x[:, given] * layer.weight).sum(-1) + layer.bias
    assert torch.allclose(layer(x), expected, rtol=1e-12)
    assert torch.allclose(layer.to_linear()(x), expected, rtol=1e-12)
    origin = layer.rewire(1 / 3)
    assert torch.equal(layer.connections, layer.connections.sort(1).values)
    assert (origin < 0).sum(1).tolist() == [1, 1]
