"""The layers against code that nobody here wrote, and against the definition as a slow loop."""

import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from jax import lax

from laws import laws
from laws.cases import DIMENSIONS, arguments, draw_case, layer_class


def by_definition(x, filter_at, kernel, stride, pads, dilation, groups, mode, out_channels):
    """Correlation written out; `filter_at(output position)` is (*kernel, in // groups, out)."""
    numpy_mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge",
                  "circular": "wrap"}[mode]  # fmt: skip
    x = np.pad(x, [(0, 0), *pads], mode=numpy_mode)
    block, per_group = x.shape[0] // groups, out_channels // groups
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    size = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:], reach, stride, strict=True)]
    y = np.zeros((out_channels, *size))
    for position in itertools.product(*map(range, size)):
        weights = filter_at(position)
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation,
                                                           strict=True))  # fmt: skip
            for o in range(out_channels):
                for c in range(block):
                    source = o // per_group * block + c
                    y[(o, *position)] += x[(source, *at)] * weights[(*tap, c, o)]
    return y


def filters_of(layer, family):
    weight = layer.weight.detach().numpy()
    if family == "local":
        return lambda position: weight[position]
    if family == "region":
        regions = layer.regions.numpy()
        return lambda position: weight[regions[position]]
    return lambda position: weight[tuple(p % t for p, t in zip(position, layer.tile, strict=True))]


@pytest.mark.parametrize("family", ["local", "region", "tiled"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
@given(data=st.data())
def test_forward_is_the_definition(family, dimension, data):
    case = draw_case(data, family, dimension)
    layer, window = case.layer, case.layer.window
    x = case.input(batch=1)
    expected = by_definition(
        x[0].numpy(),
        filters_of(layer, family),
        window.kernel_size,
        window.stride,
        window.padding,
        window.dilation,
        layer.groups,
        window.padding_mode,
        layer.out_channels,
    )
    zero = laws.bias_of(case, (1, *expected.shape))
    got = (layer(x) - zero).detach()[0]
    laws.assert_close(got, torch.from_numpy(expected), "against the definition")


@pytest.mark.parametrize("dimension", DIMENSIONS)
@given(data=st.data())
def test_local_layers_agree_with_jax(dimension, data):
    """`jax.lax.conv_general_dilated_local`, which has no groups and pads with zeros."""
    a = data.draw(arguments(dimension))
    options = a.options | dict(groups=1, bias=False, padding_mode="zeros")
    layer = layer_class("LocallyConnected", dimension)(
        a.in_channels, a.out_channels, a.kernel_size, a.size, dtype=torch.float64, **options
    )
    window = layer.window
    x = torch.randn(2, a.in_channels, *a.size, dtype=torch.float64)
    # JAX wants (*out, in * prod(kernel), out_channels) with the input channel slowest
    weight = layer.weight.detach()
    outputs, taps = weight.shape[:dimension], weight.shape[dimension : 2 * dimension]
    weight = weight.movedim(2 * dimension, dimension).flatten(dimension, 2 * dimension)
    space = "DHW"[-dimension:]
    with jax.enable_x64(True):
        expected = lax.conv_general_dilated_local(
            x.numpy(),
            weight.numpy(),
            window.stride,
            window.padding,
            taps,
            rhs_dilation=window.dilation,
            dimension_numbers=(f"NC{space}", f"{space}IO", f"NC{space}"),
        )
        expected = torch.from_numpy(np.array(expected))
    assert expected.shape[2:] == outputs
    laws.assert_close(layer(x).detach(), expected, "against JAX")


@given(data=st.data())
def test_sparse_layers_agree_with_scipy(data):
    from scipy.sparse import csr_array

    case = draw_case(data, "sparse", 1)
    layer, x = case.layer, case.input()
    n, k = layer.connections.shape
    row = np.arange(0, n * k + 1, k)
    matrix = csr_array(
        (layer.weight.detach().numpy().ravel(), layer.connections.numpy().ravel(), row),
        shape=(n, layer.in_features),
    )
    expected = torch.from_numpy((matrix @ x.numpy().T).T)
    if layer.bias is not None:
        expected = expected + layer.bias.detach()
    laws.assert_close(layer(x).detach(), expected, "against scipy")
