"""What does not fit is refused with what was expected, what came and what to do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import symconv as sc
from symconv.errors import StructureError


def batch(*sizes, channels=3):
    return sc.Ragged([torch.randn(channels, *size) for size in sizes or [(9, 7), (12, 20)]])


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "at least one item, got none"),
        ([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)], "3 channels.*item 1 of 1"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4)], "one axes: item 0 has 3, got item 1 with 2"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4).double()], "one dtype.*item 1 with.*float64"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, device="meta")], "one device.*item 1.*meta"),
        ([torch.zeros(3, 4, 0)], "items with cells, got item 0 of shape"),
        ([torch.zeros(1, 3, 4, 4, 4)], "one to three axes of space.*unbind"),
        ([torch.zeros(3)], "one to three axes"),
        ([torch.zeros(3, 4, 4), "picture"], "item 1: str"),
    ],
)
def test_items_that_make_no_batch(items, told):
    with pytest.raises(StructureError, match=told):
        sc.Ragged(items)


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_multiple_of(value):
    with pytest.raises(StructureError, match="multiple_of"):
        sc.Ragged([torch.zeros(1, 4)], multiple_of=value)


def test_an_item_too_small_names_item_and_layer():
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3, stride=2))
    model.add_module("body", nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 5)))
    with pytest.raises(StructureError) as raised:
        model(batch((40, 40), (8, 20), (30, 30)))
    text = str(raised.value)
    assert "item 1 of 3x9, made from 8x20" in text
    assert "body.1: Conv2d(4, 4, kernel_size=(5, 5)" in text
    assert "at least 5x5" in text
    with pytest.raises(StructureError, match=r"item 0 of 2x3.*pad or enlarge"):
        F.max_pool2d(batch((2, 3)), 3)
    with pytest.raises(StructureError, match="avg_pool"):
        F.avg_pool2d(batch((2, 3)), 3)


UNKNOWN = {
    "fft": torch.fft.fft2,
    "einsum": lambda x: torch.einsum("bchw->bc", x),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2)),
    "unfold": lambda x: F.unfold(x, 3),
    "sort": torch.sort,
    "cdist": lambda x: torch.cdist(x, x),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_functions_are_named(name):
    with pytest.raises(StructureError, match=rf"function that sc.Ragged knows.*{name}.*x\.map"):
        UNKNOWN[name](batch())


def test_unknown_functions_name_the_layer():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x)

    with pytest.raises(StructureError, match=r"fft2.*in 1: Fourier"):
        nn.Sequential(nn.ReLU(), Fourier())(batch())


def test_unknown_methods_are_named_and_absent():
    x = batch()
    with pytest.raises(StructureError, match=r"torch\.Tensor\.cumprod"):
        x.cumprod(1)
    assert not hasattr(x, "cumprod")
    with pytest.raises(AttributeError, match="no_such_method"):
        x.no_such_method  # noqa: B018
    with pytest.raises(StructureError, match="one answer"):
        bool(x)


REFUSED = {
    "indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), "indices"),
    "flatten": (lambda x: x.flatten(1), "SpatialPyramidPool"),
    "whole view": (lambda x: x.view(2, -1), "SpatialPyramidPool"),
    "wrong view": (lambda x: x.view(2, 3, 10, 14), "sizes taken from x.shape"),
    "linear on space": (lambda x: F.linear(x, torch.zeros(4, 5)), "last axis without padding"),
    "other rank": (lambda x: F.conv1d(x, torch.zeros(3, 3, 3)), "1 axes of space"),
    "map of one size": (lambda x: x + torch.zeros(1, 1, 9, 7), "size 1 along ragged axes"),
    "other sizes": (lambda x: x + x[:, :, 1:], "items of the same sizes"),
    "other count": (lambda x: x + x[:1], "batch of 2 items"),
    "fixed cat": (lambda x: torch.cat([x, torch.zeros(2, 3, 1, 1)], 1), "ragged batches"),
    "split space": (lambda x: x.chunk(2, 2), "without padding"),
    "flip space": (lambda x: x.flip(2), "without padding"),
    "mean of batch": (lambda x: x.mean((0,)), "items and space together"),
    "adaptive None": (lambda x: F.adaptive_avg_pool2d(x, (None, 2)), "whole number"),
    "layer norm": (lambda x: F.layer_norm(x, (7,)), "GroupNorm"),
    "antialias": (
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), "antialias"
    ),
    "reflect": (lambda x: F.pad(x, (8, 8), mode="reflect"), "more cells"),
    "attention mask": (
        lambda x: F.scaled_dot_product_attention(
            *[x.flatten(2).transpose(1, 2)] * 3, attn_mask=torch.zeros(63, 63)
        ),
        "attn_mask",
    ),
    "negative cell": (lambda x: x[:, :, -1], "every item has"),
    "far cell": (lambda x: x[:, :, 9], "every item has"),
    "branch": (lambda x: x if x.shape[2] > 10 else -x, "one answer"),
    "fixed size": (lambda x: int(x.shape[2]), "one size for all items"),
    "dropped batch": (lambda x: x.transpose(0, 1).flatten(0, 1), "keeps items apart"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    function, told = REFUSED[name]
    with pytest.raises(StructureError, match=told):
        function(batch())


def test_layers_of_one_size():
    layer = sc.nn.LocallyConnected2d(3, 4, 3, (8, 8))
    same = [torch.randn(3, 8, 8) for _ in range(3)]
    for got, item in zip(layer(sc.Ragged(same)), same, strict=True):
        assert torch.allclose(got, layer(item), atol=1e-6)
    for mixed in (batch((8, 8), (8, 9)), batch((7, 7), (7, 7))):
        with pytest.raises(StructureError, match="size"):
            layer(mixed)


def test_batch_norm_of_a_single_cell():
    with pytest.raises(StructureError, match="more than one cell"):
        nn.BatchNorm2d(3)(batch((1, 1)))
    norm = nn.BatchNorm2d(3)
    y = norm(batch((1, 1), (1, 2)))
    assert y.sizes == [(1, 1), (1, 2)]
