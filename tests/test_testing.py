"""The assertions for users' own tests: they pass what is right and fail what is not."""

import copy

import pytest
import torch
from torch import nn

import symconv as sc
from symconv.testing import assert_equivariant, assert_matches_structure

C4, D4 = sc.groups.parse("C4"), sc.groups.parse("D4")


class Pooled(nn.Module):
    """A small classifier: scores that no turn changes."""

    def __init__(self, reduce):
        super().__init__()
        self.lift = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(2), 3)
        self.reduce = reduce

    def forward(self, x):
        return self.reduce(self.lift(x).relu().mean((-2, -1)))


def test_invariant_and_regular_outputs_without_space():
    invariant = Pooled(lambda y: y.unflatten(1, (2, 4)).mean(2))
    assert_equivariant(invariant, C4.trivial(1), None, 8)
    assert_equivariant(invariant, C4.trivial(1), C4.trivial(2), 8)
    regular = Pooled(lambda y: y)
    assert_equivariant(regular, C4.trivial(1), C4.regular(2), 8)
    with pytest.raises(AssertionError, match=r"Pooled is not equivariant under C4.elements\[1\]"):
        assert_equivariant(regular, C4.trivial(1), None, 8)
    wrong = Pooled(lambda y: y[:, :2])
    with pytest.raises(AssertionError, match="of the largest value"):
        assert_equivariant(wrong, C4.trivial(1), None, 8)


def test_a_small_asymmetry_is_found_and_named():
    layer = sc.nn.GroupConv2d(D4.regular(1), D4.regular(1), 3, padding=1)
    conv = layer.double().to_conv()
    assert_equivariant(conv, D4.regular(1), D4.regular(1), (5, 6))
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(AssertionError, match=r"elements\[1\], \[\[0, -1\], \[1, 0\]\]: error"):
        assert_equivariant(conv, D4.regular(1), D4.regular(1), (5, 6))
    assert_equivariant(conv, D4.regular(1), D4.regular(1), (5, 6), tolerance=1e-3)
    assert_equivariant(conv, D4.regular(1), D4.regular(1), (5, 6), elements=D4.elements[:1])


def test_integers_leave_no_rounding_and_the_module_alone():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3)
    before = copy.deepcopy(layer.state_dict())
    assert_equivariant(layer, C4.trivial(1), C4.regular(1), 6, integers=True)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    halves = nn.Sequential(layer, nn.Softmax(1), nn.Softmax(1))
    assert_equivariant(halves, C4.trivial(1), C4.regular(1), 6)


def test_shapes_nan_types_and_generators():
    class Crop(nn.Module):
        def forward(self, x):
            return x[..., 1:]

    class Nothing(nn.Module):
        def forward(self, x):
            return x * torch.nan

    with pytest.raises(AssertionError, match="shape"):
        assert_equivariant(Crop(), C4.trivial(1), C4.trivial(1), 5)
    with pytest.raises(AssertionError, match="error nan"):
        assert_equivariant(Nothing(), C4.trivial(1), C4.trivial(1), 5)
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    assert_equivariant(layer, C4.trivial(1), C4.regular(1), 6, generator=generator)
    with pytest.raises(sc.StructureError, match="one group"):
        assert_equivariant(layer, C4.trivial(1), D4.regular(1), 6)
    with pytest.raises(sc.StructureError, match="size"):
        assert_equivariant(layer, C4.trivial(1), C4.regular(1), (6, 6, 6))


def test_zero_outputs_test_nothing():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3, bias=False)
    assert_equivariant(layer, C4.trivial(1), C4.regular(1), 6)
    nn.init.zeros_(next(layer.parameters()))
    with pytest.raises(AssertionError, match="nothing was tested"):
        assert_equivariant(layer, C4.trivial(1), C4.regular(1), 6)


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_left_as_found(fails):
    class Fickle(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            self.eval()
            self.register_buffer("seen", x)
            return y[..., 1:] if fails else y

    def made():
        module = Fickle(sc.nn.FieldBatchNorm(C4.regular(1)), nn.Identity()).train()
        module.register_buffer("seen", torch.ones(2))
        module[1].eval()
        return module

    changed, module = made(), made()
    changed(torch.ones(1, 4, 2, 2))  # negative control: a call does change it
    assert not changed.training
    assert int(changed[0].num_batches_tracked) == 1
    held, before = dict(module.named_buffers()), copy.deepcopy(module.state_dict())
    try:
        assert_equivariant(module, C4.regular(1), C4.regular(1), 6, tolerance=10.0)
        assert not fails
    except AssertionError:
        assert fails
    assert [part.training for part in module.modules()] == [True, True, False]
    after = dict(module.named_buffers())
    assert all(after[name] is held[name] for name in held)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_layers_are_their_structures():
    assert_matches_structure(nn.Linear(5, 3))
    assert_matches_structure(nn.ConvTranspose1d(2, 4, 3, stride=2), 5)
    assert_matches_structure(sc.nn.GroupConv2d(D4.vector(1), D4.regular(1), 3), (4, 5))


@pytest.mark.parametrize("broken", ["value", "shape"])
def test_a_layer_that_is_not_its_structure_is_found(broken):
    class Wrong(nn.Conv1d):
        def structure(self, size):
            other = sc.Structure.of(nn.Conv1d(2, 3, 3, padding=int(broken == "shape")), size)
            return other

        def forward(self, x):
            return super().forward(x) * (2 if broken == "value" else 1)

    with pytest.raises(AssertionError, match=r"is not the matrix|says otherwise"):
        assert_matches_structure(Wrong(2, 3, 3), 6)
