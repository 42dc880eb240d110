"""Each wrong argument is refused with what was expected, what came and how to mend it."""

import pytest
import torch

import symconv as sc
from symconv.models import all_cnn, convnext, resnet, twin, unet, wide_resnet

CASES = {
    "depth": (lambda: resnet(19), r"depth among 18, 34, 50, 101, 152, or 6 n \+ 2"),
    "depth of 2": (lambda: resnet(2), "depth among"),
    "depths of stages": (lambda: resnet([2, 2, 2, 2]), "depth among"),
    "wide depth": (lambda: wide_resnet(29), r"6 n \+ 4"),
    "widen": (lambda: wide_resnet(28, 0), "widen as a whole number of at least 1"),
    "width": (lambda: resnet(18, width=0), "width as a whole number of at least 1, got 0"),
    "fraction": (lambda: unet(1, width=1.5), "width as a whole number"),
    "classes": (lambda: resnet(18, classes=True), "classes as a whole number"),
    "channels": (lambda: resnet(18, in_channels=0), "channels as a number of at least 1"),
    "stem": (
        lambda: resnet(18, stem="big"),
        "stem as one of 'standard', 'half', 'small', got 'big'",
    ),
    "windows": (lambda: resnet(18, windows="any"), "windows as one of 'even', 'odd'"),
    "windows of all_cnn": (lambda: all_cnn(windows="any"), "windows as one of"),
    "match": (lambda: resnet(18, "C4", match="flops"), "match as one of 'params', 'macs', 'width'"),
    "dimension": (lambda: resnet(18, dimension=4), "dimension as one of 1, 2, 3"),
    "group's dimension": (lambda: resnet(18, "C4", dimension=3), "a group of 3 axes"),
    "group": (lambda: resnet(18, "C5x"), "a group name"),
    "field of another group": (
        lambda: unet(sc.groups.parse("D4").vector(1), "C4", match=None),
        "two fields of one group",
    ),
    "depths": (lambda: convnext("tiny"), "blocks of each stage"),
    "no depths": (lambda: convnext(()), "blocks of each stage"),
    "drop_path": (lambda: convnext(drop_path=1.0), "drop_path from 0 up to 1"),
    "layer_scale": (lambda: convnext(layer_scale=-1), "layer_scale of at least 0"),
    "dropout": (lambda: all_cnn(dropout=(0.2, 1.0)), "dropout from 0 up to 1"),
    "one dropout": (lambda: all_cnn(dropout=0.5), r"two probabilities .* got 0.5"),
    "up": (lambda: unet(1, up="cubic"), "up as one of 'transposed', 'nearest', 'linear'"),
    "levels": (lambda: unet(1, levels=0), "levels as a whole number"),
    "one copy is too much": (
        lambda: resnet(8, "Oh", width=4, match="width"),
        r"width within 10% of .* one copy is 48 channels: a larger width, a smaller group",
    ),
    "copies too coarse": (lambda: resnet(8, "D4", width=4, match="width"), "within 10%"),
    "params of one copy": (lambda: unet(1, "Oh", width=2, levels=1, match="params"), "params with"),
    "twin of anything": (lambda: twin(torch.nn.ReLU()), "a network of symconv.models, got ReLU"),
    "twin's match": (lambda: twin(resnet(8, width=4), "C4", None), "match as one of"),
    "twin's dimension": (lambda: twin(resnet(8, width=4), "O"), "a group of 2 axes"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_refused(case):
    call, message = CASES[case]
    with pytest.raises(sc.StructureError, match=message):
        call()


@pytest.mark.parametrize("group", ["C4", None])
def test_inputs_that_do_not_fit(group):
    net = resnet(8, group, width=8, classes=3)
    for shape in [(3, 8, 8), (1, 4, 8, 8), (1, 3, 8), (1, 3, 8, 8, 8)]:
        with pytest.raises(sc.StructureError, match=r"\(N, 3, height, width\)"):
            net(torch.zeros(shape))
    deep = unet(2, group, width=8, levels=2)
    for size, near in [((10, 12), r"\(8, 12\)"), ((7, 3), r"\(8, 4\)"), ((4, 1), r"\(4, 4\)")]:
        with pytest.raises(sc.StructureError, match=f"multiples of 4.*{near}"):
            deep(torch.zeros(1, 3, *size))


def test_a_match_that_cannot_be_met_leaves_other_matches():
    with pytest.raises(sc.StructureError):
        resnet(8, "D4", width=4, classes=3)
    assert resnet(8, "D4", width=4, classes=3, match="params").kit.group.order == 8
