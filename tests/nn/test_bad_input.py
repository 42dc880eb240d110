"""Input that does not fit gets one clear message: what was expected, what came, how to mend it."""

import re

import pytest
import torch
from torch import nn

import symconv as sc
from symconv.functional import local_conv, local_conv_transpose, sparse_linear

L, T, R, D, S = (
    sc.nn.LocallyConnected2d,
    sc.nn.LocallyConnectedTranspose2d,
    sc.nn.RegionConv2d,
    sc.nn.TiledConv2d,
    sc.nn.SparseLinear,
)
REGIONS = torch.zeros(4, 4, dtype=torch.long)
x = torch.zeros

CASES = {
    "rank": (lambda: L(2, 3, 3, 8)(x(2, 8)), "an input (N, 2, H, W) or (2, H, W)"),
    "channels": (lambda: L(2, 3, 3, 8)(x(1, 5, 8, 8)), "expected 2 channels"),
    "size": (lambda: L(2, 3, 3, 8)(x(1, 2, 9, 8)), "size (8, 8) (input_size), got size (9, 8)"),
    "transpose size": (lambda: T(2, 3, 3, 8)(x(1, 2, 9, 8)), "size (8, 8)"),
    "region size": (lambda: R(2, 3, 3, REGIONS)(x(1, 2, 9, 9)), "shape (4, 4), got output (7, 7)"),
    "tiled too small": (lambda: D(2, 3, 3, 2)(x(1, 2, 2, 9)), "at least the window's extent"),
    "bias map size": (lambda: sc.nn.BiasMap(2, (4, 4))(x(1, 2, 4, 5)), "size (4, 4)"),
    "zero channels": (lambda: D(0, 3, 3, 2), "in_channels"),
    "negative kernel": (lambda: D(1, 3, -1, 2), "kernel_size"),
    "zero stride": (lambda: L(1, 3, 3, 8, stride=0), "stride"),
    "negative size": (lambda: L(1, 3, 3, -8), "input_size"),
    "kernel over input": (lambda: L(1, 3, 9, 8), "at least the window's extent (9, 9)"),
    "zero tile": (lambda: D(1, 3, 3, 0), "tile"),
    "zero features": (lambda: S(0, 3, 1), "in_features"),
    "groups": (lambda: L(4, 6, 3, 8, groups=4), "groups=4 with 4 in and 6 out"),
    "reflect": (
        lambda: L(1, 1, 3, 3, padding=3, padding_mode="reflect"),
        "padding less than the input size for padding_mode='reflect'",
    ),
    "tiled reflect": (
        lambda: D(1, 1, 3, 2, padding=3, padding_mode="reflect")(x(1, 1, 3, 3)),
        "padding less than the input size",
    ),
    "padding mode": (lambda: L(1, 1, 3, 8, padding_mode="mirror"), "padding_mode in"),
    "padding word": (lambda: L(1, 1, 3, 8, padding="full"), '"same" or "valid"'),
    "same, stride": (lambda: D(1, 1, 3, 2, 2, "same"), 'stride 1 with padding="same"'),
    "transpose mode": (lambda: T(1, 1, 3, 8, padding_mode="circular"), 'padding_mode "zeros"'),
    "output padding": (lambda: T(1, 1, 3, 8, 2, 0, 2), "output_padding less than stride"),
    "transpose empty": (lambda: T(1, 1, 1, 1, padding=1), "a positive output size"),
    "fan-in": (lambda: S(4, 3, 5), "fan_in of at most in_features=4, got 5"),
    "repeated": (
        lambda: S(4, 2, 2, connections=torch.tensor([[0, 1], [2, 2]])),
        "distinct connections for each output, got output 1 with [2, 2]",
    ),
    "out of range": (
        lambda: S(4, 1, 2, connections=torch.tensor([[0, 4]])),
        "connections in 0..3, got values from 0 to 4",
    ),
    "connections shape": (lambda: S(4, 2, 2, connections=torch.tensor([[0, 1]])), "shape (2, 2)"),
    "connections type": (lambda: S(4, 1, 2, connections=torch.zeros(1, 2)), "as integers"),
    "features": (lambda: S(4, 2, 2)(x(3, 5)), "an input (*, 4)"),
    "from_linear fan-in": (lambda: S.from_linear(nn.Linear(4, 2), 5), "fan_in in 1..4"),
    "rewire fraction": (lambda: S(4, 2, 2).rewire(1.5), "fraction in 0..1"),
    "rewire gradient": (lambda: S(4, 2, 2).rewire(0.5, x(2, 2)), "shape (2, 4)"),
    "label gap": (lambda: R(1, 1, 3, REGIONS + 1), "region labels 0..R-1, each used"),
    "regions shape": (lambda: R(1, 1, 3, REGIONS[0]), "regions over 2 axes"),
    "regions type": (lambda: R(1, 1, 3, REGIONS.float()), "regions as integer labels"),
    "no regions": (lambda: R(1, 1, 3, REGIONS[:0]), "regions over 2 axes"),
    "from_conv": (lambda: L.from_conv(nn.Conv1d(1, 1, 3), 8), "expected a Conv2d"),
    "to_conv": (lambda: L(1, 1, 3, 8).to_conv(), "filters that agree within atol=0.0"),
    "weight rank": (lambda: local_conv(x(1, 1, 8), x(3, 3, 1)), "weight (*output_size"),
    "filters": (lambda: local_conv(x(1, 1, 8), x(5, 3, 1, 1)), "a filter for each output of (6,)"),
    "bias": (lambda: local_conv(x(1, 1, 8), x(6, 3, 1, 1), x(2)), "a bias of shape (1,) or (1, 6)"),
    "types": (lambda: local_conv(x(1, 1, 8).double(), x(6, 3, 1, 1)), "one floating-point type"),
    "transposed filters": (lambda: local_conv_transpose(x(1, 1, 8), x(5, 3, 1, 1)), "size (5,)"),
    "sparse shapes": (lambda: sparse_linear(x(4), x(2, 2), torch.zeros(2, 3).long()), "one shape"),
    "sparse range": (
        lambda: sparse_linear(x(4), x(1, 2), torch.tensor([[0, 4]])),
        "connections in 0..3, got 4",
    ),
    "sparse negative": (
        lambda: sparse_linear(x(4), x(1, 2), torch.tensor([[0, -1]])),
        "connections of at least 0, got -1",
    ),
}


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES.keys())
def test_one_clear_message(call, message):
    with pytest.raises(sc.StructureError, match=re.escape(message)):
        call()


def test_written_connections_are_checked_again():
    weight, connections = x(1, 2), torch.tensor([[0, 1]])
    sparse_linear(x(4), weight, connections)
    connections[0, 1] = 9
    with pytest.raises(sc.StructureError, match="connections in 0"):
        sparse_linear(x(4), weight, connections)


@pytest.mark.parametrize(
    ("layer", "name", "value", "message"),
    [
        (S(4, 2, 2), "connections", torch.tensor([[0, 0], [1, 2]]), "distinct connections"),
        (R(1, 1, 3, torch.arange(4).view(2, 2)), "regions", REGIONS[:2, :2], "4 filters"),
        (R(1, 1, 3, REGIONS), "regions", REGIONS + 2, "each used"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(layer, name, value, message):
    state = layer.state_dict() | {name: value}
    with pytest.raises(sc.StructureError, match=message):
        layer.load_state_dict(state)
