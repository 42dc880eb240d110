"""Which layers `check_pointwise` lets pass."""

import pytest
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import symconv as sc

C4 = sc.groups.parse("C4")
REGULAR, VECTOR = C4.regular(2), C4.vector(2)


class Block(nn.Sequential):
    """A container that says what comes out of it."""

    out_field = VECTOR


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Softmax(1), nn.LogSoftmax(1), nn.Softmax2d()],
    ids=str,
)
def test_pools_and_softmaxes_on_signed_fields(layer):
    sc.nn.check_pointwise(layer, REGULAR)
    sc.nn.check_pointwise(nn.AvgPool2d(2), VECTOR)
    with pytest.raises(sc.StructureError, match="commute with signs"):
        sc.nn.check_pointwise(layer, VECTOR)


def test_a_container_does_not_set_the_field_of_its_own_layers():
    convolution = sc.nn.GroupConv2d(REGULAR, VECTOR, 3)
    sc.nn.check_pointwise(Block(nn.ReLU(), convolution), REGULAR)
    with pytest.raises(sc.StructureError, match="odd nonlinearity"):
        sc.nn.check_pointwise(nn.Sequential(Block(nn.ReLU(), convolution), nn.ReLU()), REGULAR)


def test_a_parametrized_layer_sets_it():
    convolution = weight_norm(sc.nn.GroupConv2d(VECTOR, REGULAR, 3))
    sc.nn.check_pointwise(nn.Sequential(convolution, nn.ReLU()), VECTOR)


@pytest.mark.parametrize("field", [None, 8, "C4"])
def test_what_is_no_field_is_refused(field):
    with pytest.raises(sc.StructureError, match="a field, such as"):
        sc.nn.check_pointwise(nn.ReLU(), field)
