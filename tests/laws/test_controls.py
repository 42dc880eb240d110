"""Negative controls: a layer broken on purpose fails the law that it breaks, and only a broken one.

Each breakage is a subtle one: a single weight, tap or position is wrong.
"""

import pytest
import torch
from torch import nn

import symconv as sc
from laws import laws
from laws.cases import Case, integers
from symconv import translate
from symconv.lattice import Window, orbits


class Broken(nn.Module):
    """A layer whose answer passes through `spoil`; the rest is the layer's own."""

    def __init__(self, layer, spoil):
        super().__init__()
        self.layer, self.spoil = layer, spoil

    def forward(self, x):
        return self.spoil(self.layer(x))

    @property
    def weight(self):
        return self.layer.weight

    def structure(self, *size):
        return self.layer.structure(*size)


def make(name):
    torch.manual_seed(0)
    options = dict(padding=1, dtype=torch.float64)
    return {
        "sparse": lambda: Case(sc.nn.SparseLinear(6, 5, 3, dtype=torch.float64), (6,)),
        "local": lambda: Case(sc.nn.LocallyConnected2d(2, 3, 3, (5, 4), **options), (2, 5, 4)),
        "local transpose": lambda: Case(
            sc.nn.LocallyConnectedTranspose2d(2, 3, 3, (5, 4), **options), (2, 5, 4)
        ),
        "region": lambda: Case(
            sc.nn.RegionConv2d(2, 3, 3, torch.arange(20).reshape(5, 4) // 8, **options), (2, 5, 4)
        ),
        "tiled": lambda: Case(sc.nn.TiledConv2d(2, 3, 3, 2, **options), (2, 5, 4)),
    }[name]()


FAMILIES = ["sparse", "local", "local transpose", "region", "tiled"]


def one_output_doubled(y):
    scale = torch.ones_like(y[:1])
    scale.reshape(-1)[1] = 2
    return y * scale


def one_output_squared(y):
    return torch.cat([y.reshape(len(y), -1)[:, :1] ** 2, y.reshape(len(y), -1)[:, 1:]], 1).view_as(
        y
    )


class ForgetsASecondOutput(torch.autograd.Function):
    """Right forward, wrong gradient: the second output's is dropped."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, gradient):
        mask = torch.ones_like(gradient)
        mask.reshape(len(mask), -1)[:, 1] = 0
        return gradient * mask


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_output_breaks_the_matrix_law(family):
    case = make(family)
    laws.equals_its_matrix(case)
    with pytest.raises(AssertionError, match="against the matrix"):
        laws.equals_its_matrix(Case(Broken(case.layer, one_output_doubled), case.shape))


class Stale(nn.Module):
    """A layer whose structure materialises the weights it had before."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight = layer, layer.weight.detach().clone()

    def forward(self, x):
        return self.layer(x)

    def structure(self, *size):
        return self.layer.structure(*size)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_weight_breaks_the_matrix_law(family):
    """The matrix must read the very weights that the layer uses."""
    case = make(family)
    stale = Case(Stale(case.layer), case.shape)
    laws.equals_its_matrix(stale)
    with torch.no_grad():
        # taps on zero padding are weights that nothing uses: take one that the centre does
        used = case.structure().weight_ids().weight
        case.layer.weight.view(-1)[int(used[len(used) // 2])] += 1
    with pytest.raises(AssertionError, match="against the matrix"):
        laws.equals_its_matrix(stale)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nonlinear_output_breaks_linearity(family):
    case = make(family)
    laws.is_linear(case)
    with pytest.raises(AssertionError, match="superposition"):
        laws.is_linear(Case(Broken(case.layer, one_output_squared), case.shape))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_gradient_breaks_the_adjoint_and_the_derivatives(family):
    case = make(family)
    laws.has_right_derivatives(case)
    broken = Case(Broken(case.layer, ForgetsASecondOutput.apply), case.shape)
    with pytest.raises(AssertionError, match="adjoint"):
        laws.is_linear(broken)
    with pytest.raises((AssertionError, RuntimeError)):
        laws.has_right_derivatives(broken)


@pytest.mark.parametrize("shift", [1, 2])
def test_unshared_filters_break_translation(shift):
    """The check that tiled layers pass by the tile fails off the tile, and for local layers."""
    tiled = sc.nn.TiledConv2d(1, 1, 3, 2, padding=1, padding_mode="circular").double()
    local = sc.nn.LocallyConnected2d(1, 1, 3, 4, padding=1, padding_mode="circular")
    for layer in (tiled, local.double()):
        Case(layer, (1, 4, 4)).with_weights_drawn_from(integers)
    x = integers((1, 1, 4, 4))

    def commutes(layer):
        return torch.equal(layer(translate(x, (0, shift))), translate(layer(x), (0, shift)))

    assert commutes(tiled) == (shift == 2)
    assert not commutes(local)


def test_a_missing_generator_leaves_more_weights():
    wiring = sc.Structure.conv(1, 1, Window.of(2, 3, padding=1), (4, 4)).wiring
    both = wiring.generators()
    assert orbits(16 * 9, both).count == 9
    assert orbits(16 * 9, both[:1]).count == 4 * 9


def test_a_transposed_kernel_breaks_the_singleton_law():
    narrow = sc.nn.LocallyConnected1d(1, 1, 3, 5, padding=1, dtype=torch.float64)
    wide = sc.nn.LocallyConnected2d(1, 1, (1, 3), (1, 5), padding=(0, 1), dtype=torch.float64)
    with torch.no_grad():
        wide.weight.copy_(narrow.weight.reshape(wide.weight.shape))
        wide.bias.copy_(narrow.bias.reshape(wide.bias.shape))
    one, two = Case(narrow, (1, 5)), Case(wide, (1, 5))
    laws.flattened_axis_agrees(one, two, 2)
    with torch.no_grad():
        wide.weight.copy_(wide.weight.flip(3))
    with pytest.raises(AssertionError, match="1-D in 2-D"):
        laws.flattened_axis_agrees(one, two, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_that_differs_breaks_the_agreement_of_paths(family):
    case = make(family)

    def only_when_fast(y):
        return one_output_doubled(y) if sc.kernels.info()["path"] == "auto" else y

    laws.path_agrees_with_reference(case, torch.float32, lambda x: x)
    broken = Case(Broken(case.layer, only_when_fast), case.shape)
    with pytest.raises(AssertionError, match="against reference"):
        laws.path_agrees_with_reference(broken, torch.float32, lambda x: x)
