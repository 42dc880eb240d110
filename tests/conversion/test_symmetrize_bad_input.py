"""What cannot be symmetrised is named, with what was expected and how to mend it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import symconv as sc
from symconv.conversion import Canonicaliser, boxes, prior_loss
from symconv.conversion.symmetrizing.exact import bits_for

C4, D4 = sc.groups.parse("C4"), sc.groups.parse("D4")
NET = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 5))
MAP = nn.Conv2d(3, 2, 3, padding=1)
POSE = Canonicaliser(D4.trivial(3), width=1)
X = torch.rand(2, 3, 8, 8)

ARGUMENTS = {
    "a model": ((lambda x: x, "D4"), {}, "a model as a torch module"),
    "how": ((NET, "D4", "mean"), {}, 'how="average" or "canonical"'),
    "output": ((NET, "D4"), {"output": "logits"}, '"scores", "map" or a callable'),
    "ties": ((NET, "D4", "canonical"), {"ties": "last"}, 'ties="average" or "first"'),
    "chunk": ((NET, "D4"), {"chunk": 0}, "chunk"),
    "group": ((NET, "K9"), {}, "a group name"),
    "dimensions": ((NET, "translations(4)"), {}, "a group name"),
    "inexact": ((NET, "C8"), {}, "maps the lattice onto itself.*C4"),
    "needless pose": ((NET, "D4"), {"canonicaliser": POSE}, 'only with how="canonical"'),
    "needless ties": ((NET, "D4"), {"ties": "first"}, 'only with how="canonical"'),
    "no pose": ((NET, "D4", "canonical"), {"canonicaliser": len}, "canonicaliser as a torch mod"),
    "needless field": ((NET, "D4"), {"field": D4.trivial(2)}, 'a field only with output="map"'),
    "other field": ((MAP, "D4"), {"field": C4.trivial(2), "output": "map"}, "field over D4"),
    "no field": ((MAP, "D4"), {"in_field": 3}, "in_field over D4"),
    "period of a group": ((NET, "D4"), {"period": 4}, 'period only with group="translations"'),
    "period of one shift": ((NET, "translations", "canonical"), {"period": 4}, "period only with"),
    "period 0": ((NET, "translations"), {"period": 0}, "period"),
    "field of shifts": ((NET, "translations"), {"in_field": C4.trivial(3)}, "no field"),
    "pose of shifts": ((NET, "translations", "canonical"), {"canonicaliser": POSE}, "no field and"),
    "the wrong way round": (
        (sc.symmetrize(NET, "D4"), "translations", "canonical"), {}, "translations first"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name):
    given, options, message = ARGUMENTS[name]
    with pytest.raises(sc.StructureError, match=message):
        sc.symmetrize(*given, **options)


class Giving(nn.Module):
    """A model that gives what it is told to, and may not be reached at all."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def unreached(x):
    raise AssertionError("the model was called")


INPUTS = {
    "no batch": (("D4",), {}, X[0], r"add the batch with x\[None\]"),
    "no space": (("D4",), {}, X.flatten(1), "2 axes of space"),
    "no tensor": (("D4",), {}, [1.0], "as a tensor, got list"),
    "not square": (("C4",), {}, X[..., :6], r"equal sizes.*\(8, 6\).*D2"),
    "not a cube": (("O",), {}, torch.rand(1, 2, 3, 3, 4), "equal sizes"),
    "other channels": (("D4",), {"in_field": D4.regular(1)}, X, "8 channels"),
    "complex": (("D4",), {}, X + 0j, "real numbers"),
    "nothing in it": (("D4",), {}, X[:, :0], "something in it"),
    "shifts without batch": (("translations(2)",), {}, X[0], "add the batch"),
    "period": (("translations",), {"period": 3}, X, "multiples of the period 3"),
}


@pytest.mark.parametrize("how", ["average", "canonical"])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name, how):
    group, options, x, message = INPUTS[name]
    if "period" in options and how == "canonical":
        return
    made = sc.symmetrize(Giving(unreached), *group, how, **options)
    with pytest.raises(sc.StructureError, match=message):
        made(x)


OUTPUTS = {
    "map as scores": ({}, lambda x: x, 'give output="map"'),
    "scores as map": ({"output": "map"}, lambda x: x.mean((2, 3)), 'give output="scores"'),
    "no batch": ({}, lambda x: x.mean(), "an output for each of"),
    "other batch": ({}, lambda x: x[:1].flatten(1), "an output for each of"),
    "classes": ({}, lambda x: x.flatten(1).argmax(1), "an output that can be averaged"),
    "a dict": ({}, lambda x: {"out": x}, "one tensor for output='scores', got dict.*callable"),
    "an odd map": ({"output": "map"}, lambda x: x[..., :5], "map of equal sizes"),
    "a field": ({"output": "map", "field": D4.regular(1)}, lambda x: x, "8 channels"),
    "no tensors": ({"output": lambda g, y: y}, lambda x: "a string", "tensors, in dicts"),
    "lost samples": ({"output": lambda g, y: y[:0]}, lambda x: x, "samples back"),
    "lost entries": ({"output": lambda g, y: {}}, lambda x: {"a": x}, "same dict"),
    "nothing": ({"output": lambda g, y: None}, lambda x: x, "samples back"),
}


@pytest.mark.parametrize("how", ["average", "canonical"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(name, how):
    options, make, message = OUTPUTS[name]
    with pytest.raises(sc.StructureError, match=message):
        sc.symmetrize(Giving(make), "D4", how, **options)(X)


def test_a_map_of_another_size_cannot_be_shifted_back():
    made = sc.symmetrize(nn.AvgPool2d(2), "translations", "canonical", output="map")
    with pytest.raises(sc.StructureError, match="a map of the input's size"):
        made(X)


def test_scores_of_another_group():
    made = sc.symmetrize(NET, "D4", "canonical", canonicaliser=Canonicaliser(C4.trivial(3)))
    with pytest.raises(sc.StructureError, match="8 scores a sample"):
        made(X)
    made.canonicaliser = Giving(lambda x: None)
    with pytest.raises(sc.StructureError, match="8 scores a sample"):
        made(X)


def test_canonicalisers_and_priors():
    for given, options, message in (
        ((3,), {}, "in_field as a field"),
        ((D4.trivial(3),), {"kernel_size": 4}, "an odd kernel_size"),
        ((D4.trivial(3),), {"width": 0}, "width"),
        ((D4.trivial(3),), {"shrink": 0}, "shrink"),
    ):
        with pytest.raises(sc.StructureError, match=message):
            Canonicaliser(*given, **options)
    with pytest.raises(sc.StructureError, match="multiples of shrink=3"):
        Canonicaliser(D4.trivial(3), shrink=3)(X)
    for scores, prior, message in (
        (torch.zeros(3), None, "scores"),
        (torch.zeros(3, 4), torch.zeros(3), "a prior of 4 elements"),
        (torch.zeros(3, 4), torch.ones(4), "sum to 1"),
        (torch.zeros(3, 4), torch.tensor([1.0, 1.0, -1.0, 0.0]), "sum to 1"),
    ):
        with pytest.raises(sc.StructureError, match=message):
            prior_loss(scores, prior)


def test_boxes_and_sizes():
    with pytest.raises(sc.StructureError, match="a size"):
        boxes((4, 4, 4))
    with pytest.raises(sc.StructureError, match=r"boxes \(\.\.\., 4\)"):
        boxes()(C4.elements[1], torch.zeros(2, 3))
    with pytest.raises(sc.StructureError, match="an element of a planar group"):
        boxes()((1, 2), torch.zeros(2, 4))
    with pytest.raises(sc.StructureError, match="values a sample"):
        bits_for(2**40, 10)
