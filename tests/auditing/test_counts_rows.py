"""Who gets the figures: layers, functions between them, parts that share memory."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from auditing.counting import BATCH, TOKENS, WIDTH, Of, counts, rows, tokens, weight


def test_a_convolution_in_the_fourier_domain_is_not_free():
    def forward(model, x):
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(model.w, n=WIDTH))

    found = counts(nn.Sequential(Of(forward, w=weight(3)), nn.Linear(WIDTH, 2)), tokens())
    first, second = found.layers
    assert first.macs is None
    assert first.note.startswith("unknown, at least 0 MACs: a Fourier transform")
    assert found.total.unknown == (
        "a Fourier transform (its operations depend on the library) in 0",
    )
    assert found.total.macs == second.macs == BATCH * TOKENS * WIDTH * 2


def test_a_tied_weight_is_held_once_and_used_twice():
    embedding, decoder = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, 10, bias=False)
    decoder.weight = embedding.weight
    found = counts(nn.Sequential(embedding, decoder), torch.zeros(1, 5, dtype=torch.long))
    assert found.total.parameters == 80
    assert [row.parameters for row in found.layers] == [80, 80]
    assert (found.layers[1].uses, found.layers[1].macs) == (5, 400)


def test_weights_that_share_memory_without_being_one_object():
    one, other = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
    other.weight = nn.Parameter(one.weight.T)
    found = counts(nn.Sequential(one, other), torch.zeros(1, 4))
    assert (found.total.parameters, found.total.weights, found.total.macs) == (24, 24, 48)


def test_parameters_that_are_parts_of_one_storage():
    whole, layer = torch.randn(20), nn.Linear(4, 4)
    layer.weight, layer.bias = nn.Parameter(whole[:16].view(4, 4)), nn.Parameter(whole[16:])
    assert counts(layer, torch.zeros(1, 4)).total.parameters == 20


def test_a_module_called_twice_is_one_row():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    found = rows(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 3, 8, 8))
    once = rows(layer, torch.zeros(1, 3, 8, 8))[""]
    assert list(found) == ["0", "1"]
    assert (found["0"].calls, found["0"].parameters) == (2, once.parameters)
    for figure in ("macs", "padding_macs", "connections", "uses", "dense_parameters"):
        assert getattr(found["0"], figure) == 2 * getattr(once, figure)


@pytest.mark.parametrize("normed", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_normed_weight(normed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # one of them is the older form
        layer = normed(nn.Conv2d(3, 4, 3))
    (row,) = counts(nn.Sequential(layer), torch.zeros(2, 3, 8, 8)).layers
    assert (row.name, row.kind, row.macs) == ("0", "Conv2d", 2 * 36 * 4 * 27)
    assert (row.weights, row.parameters) == (108 + 4, 108 + 4 + 4)
    assert (row.connections, row.fan_in) == (36 * 4 * 27, 27)


def test_what_computes_a_weight_is_counted_and_connects_nothing():
    layer = parametrizations.spectral_norm(nn.Linear(8, 4))
    (row,) = counts(nn.Sequential(layer), tokens()).layers
    assert row.macs == BATCH * TOKENS * 32 + 32 + 4  # W v, and the product with u
    assert (row.connections, row.weights, row.fan_in) == (TOKENS * 32, 32, 8)

    low_rank = Of(lambda m, x: x @ (m.a @ m.b), a=weight(8, 2), b=weight(2, 8))
    (row,) = counts(low_rank, tokens()).layers
    assert row.macs == BATCH * TOKENS * 64 + 8 * 2 * 8
    assert (row.connections, row.weights) == (TOKENS * 64, 32)


def test_a_product_with_fixed_numbers_connects_without_weights():
    blur = Of(lambda m, x: x @ m.basis)
    blur.register_buffer("basis", weight(8, 3))
    (row,) = counts(blur, tokens()).layers
    assert (row.connections, row.fan_in, row.weights, row.uses) == (TOKENS * 24, 8, 0, None)


def test_functions_are_rows_of_the_module_they_are_called_in():
    block = Of(
        lambda m, x: F.linear(F.relu(F.conv1d(m.act(x), m.w)), m.v) @ x,
        w=weight(4, TOKENS, 3),
        v=weight(TOKENS, WIDTH - 2),
        act=nn.ReLU(),
    )
    found = rows(nn.Sequential(block), tokens())
    assert list(found) == ["0.act", "0:conv1d", "0:linear", "0:matmul"]
    assert found["0:conv1d"].parameters == 4 * TOKENS * 3
    assert found["0:linear"].macs == BATCH * 4 * TOKENS * (WIDTH - 2)
    assert found["0:matmul"].connections is None
    assert found["0:matmul"].macs == BATCH * 4 * TOKENS * WIDTH


def test_a_network_of_functions_alone_has_a_row_for_each():
    net = Of(
        lambda m, x: F.conv2d(F.relu(F.conv2d(x, m.w, m.b)), m.v),
        w=weight(6, 3, 3, 3),
        v=weight(5, 6, 3, 3),
        b=weight(6),
    )
    found = rows(net, torch.zeros(1, 3, 8, 8))
    assert list(found) == ["", ":conv2d", ":conv2d_1"]
    assert [row.parameters for row in found.values()] == [6, 162, 270]
    assert [row.macs for row in found.values()] == [0, 36 * 162, 16 * 270]


def test_a_loop_is_one_row():
    net = Of(
        lambda m, x: [F.linear(m.act(x[:, t]), m.w) for t in range(5)],
        w=weight(4, 8),
        act=nn.ReLU(),
    )
    found = rows(net, tokens())
    assert (found[":linear"].calls, found[":linear"].macs) == (5, BATCH * 5 * 32)


def test_a_weight_taken_from_a_layer_that_nobody_calls_is_the_layers():
    net = Of(lambda m, x: F.linear(x, m.layer.weight), layer=nn.Linear(8, 3))
    row = rows(net, tokens())["layer"]
    assert (row.kind, row.macs, row.parameters) == ("Linear", BATCH * TOKENS * 24, 27)


def test_an_exported_program():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
    net, x = nn.Sequential(*layers).eval(), torch.zeros(2, 3, 8, 8)
    program = torch.export.export(net, (x,))
    found, plain = rows(program, x), rows(net, x)
    for name in ("0", "3"):
        for figure in ("macs", "connections", "fan_in", "parameters", "weights", "uses"):
            assert getattr(found[name], figure) == getattr(plain[name], figure)
    assert counts(program, x).total == counts(net, x).total


def test_figures_are_those_of_one_item():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    one, three = counts(net, torch.zeros(1, 3, 8, 8)), counts(net, torch.zeros(3, 3, 8, 8))
    assert three.total.macs == 3 * one.total.macs
    assert three.total.connections == one.total.connections
    for a, b in zip(one.layers, three.layers, strict=True):
        assert (a.inputs, a.outputs, a.uses, a.sharing) == (b.inputs, b.outputs, b.uses, b.sharing)
    (row,) = counts(nn.Conv2d(3, 4, 3), torch.zeros(3, 8, 8)).layers  # no batch at all
    assert (row.inputs, row.outputs) == (192, 144)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_only_the_numbers_that_a_sparse_matrix_stores():
    for matrix in (torch.eye(WIDTH).to_sparse(), torch.eye(WIDTH).to_sparse_csr()):
        net = Of(lambda m, x, matrix=matrix: torch.sparse.mm(matrix, x))
        assert counts(net, torch.randn(WIDTH, 3)).total.macs == WIDTH * 3
