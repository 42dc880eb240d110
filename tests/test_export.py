"""Export: equal networks of plain torch layers, which load without this package."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import symconv as sc

C4, D4 = sc.groups.parse("C4"), sc.groups.parse("D4")


def lift(group=D4):
    """A small classifier with every layer that permutation fields use."""
    first = group.regular(2) + group.trivial(1)
    second = group.regular(3)
    return nn.Sequential(
        sc.nn.GroupConv2d(group.trivial(1), first, 3, padding=1),
        sc.nn.FieldBatchNorm(first),
        nn.ReLU(),
        sc.nn.FieldMaxPool2d(first, 2),
        sc.nn.GroupConv2d(first, second, 4, stride=2, padding=1),
        sc.nn.FieldLayerNorm(second),
        nn.ReLU(),
        sc.nn.FieldDropout(second, 0.3),
        sc.nn.GroupConvTranspose2d(second, second, 2, stride=2),
        sc.nn.FieldAvgPool2d(second, 2),
        sc.nn.FieldUpsample(second, 2, mode="linear"),
        sc.nn.GroupPool(second),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )


def signed():
    """The same for signed fields."""
    field = D4.vector(2) + D4.regular(1) + D4.sign(1)
    gated = sc.nn.FieldGated(field)
    return nn.Sequential(
        sc.nn.GroupConv2d(D4.trivial(1), field, 3, padding=1),
        sc.nn.FieldBatchNorm(field),
        sc.nn.FieldNormReLU(field),
        sc.nn.FieldLayerNorm(field, over="sample"),
        sc.nn.GroupConv2d(field, gated.in_field, 3, padding=1),
        gated,
        sc.nn.GroupPool(field, reduce="mean"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Twice(nn.Module):
    """A residual network that uses one layer twice, and another module inside a container."""

    def __init__(self):
        super().__init__()
        field = C4.regular(2)
        self.enter = sc.nn.GroupConv2d(C4.trivial(1), field, 3, padding=1)
        self.step = nn.ModuleList([sc.nn.GroupConv2d(field, field, 3, padding=1)] * 2)
        self.again = self.step[0]
        self.pool = sc.nn.GroupPool(field)

    def forward(self, x):
        x = self.enter(x)
        for step in self.step:
            x = x + step(x).relu()
        return self.pool(self.again(x))


NETWORKS = {"permutations": lift, "signed": signed, "twice": Twice}


def prepared(name, dtype=torch.float64):
    """A network whose norms have seen a batch."""
    torch.manual_seed(0)
    model = NETWORKS[name]().to(dtype)
    model(torch.randn(8, 1, 16, 16, dtype=dtype))
    return model


def ours(model):
    return [m for m in model.modules() if type(m).__module__.split(".")[0] == "symconv"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", [True, False])
def test_the_plain_network_is_equal_and_the_model_untouched(name, mode):
    model = prepared(name).train(mode)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    plain = sc.export.plain(model)
    assert ours(model)
    assert not ours(plain)
    assert not plain.training
    assert dict(model.named_modules()) == modules
    assert all(m.training == mode for m in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    for size in ((16, 16), (24, 16)):
        x = torch.randn(3, 1, *size, dtype=torch.float64)
        torch.testing.assert_close(plain(x), model(x), atol=1e-12, rtol=1e-12)
    with torch.no_grad():  # a copy: what becomes of it does not reach the model
        for value in plain.parameters():
            value.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_layer_that_occurs_twice_stays_one():
    plain = sc.export.plain(prepared("twice"))
    assert plain.step[0] is plain.step[1] is plain.again
    assert type(plain.again) is nn.Conv2d


def test_a_single_layer_and_a_plain_network():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(2), 3)
    assert type(sc.export.plain(layer)) is nn.Conv2d
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
    assert repr(sc.export.plain(net)) == repr(net)
    assert sc.export.plain(net)[0] is not net[0]


def test_layers_without_a_plain_equal_stay():
    tiled = sc.nn.TiledConv2d(1, 2, 3, tile=2)
    pool = sc.nn.FieldMaxPool2d(C4.trivial(2), 2, align=True)
    net = nn.Sequential(tiled, pool, sc.nn.SparseLinear(4, 3, fan_in=2)).double().eval()
    plain = sc.export.plain(net)
    assert [type(m) for m in plain] == [type(tiled), type(pool), nn.Linear]
    assert type(sc.export.plain(sc.nn.TiledConv2d(1, 2, 3, tile=1))) is nn.Conv2d
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(plain(x), net(x))


def test_methods_of_other_packages_are_theirs():
    class Foreign(nn.Linear):
        def to_conv(self):
            raise AssertionError("not ours to call")

        to_linear = to_conv

    class Willing(nn.Identity):
        def to_plain(self):
            return nn.Tanh()

    net = nn.Sequential(Foreign(3, 3), Willing(), sc.nn.SparseLinear(3, 2, fan_in=1))
    assert [type(m) for m in sc.export.plain(net)] == [Foreign, nn.Tanh, nn.Linear]


@pytest.mark.parametrize("field", [C4.regular(2), D4.vector(2) + D4.trivial(1)], ids=str)
def test_batch_norm_after_the_mean_over_space(field):
    norm = sc.nn.FieldBatchNorm(field)
    norm(torch.randn(8, field.channels, 4, 4) + 3)
    plain = sc.export.plain(norm)
    norm.eval()
    for shape in ((5, field.channels), (5, field.channels, 3, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(plain(x), norm(x))
        torch.testing.assert_close(plain.train()(x), norm(x))
        program = torch.export.export(plain.eval(), (x,))
        torch.testing.assert_close(program.module()(x), norm(x))
    assert not torch.allclose(plain(x), norm.train()(x))  # negative control: batch statistics


def test_what_was_not_replaced_would_be_seen():
    assert ours(nn.Sequential(sc.nn.GroupPool(C4.regular(1))))
    assert not ours(nn.Sequential(nn.ReLU()))


def test_it_loads_without_this_package(tmp_path):
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    models = [prepared(name).eval() for name in ("permutations", "signed")]
    path = tmp_path / "plain.pt"
    torch.save((x, [(sc.export.plain(model), model(x)) for model in models]), path)
    program = (
        "import sys, torch; sys.modules['symconv'] = None\n"
        f"x, pairs = torch.load({str(path)!r}, weights_only=False)\n"
        "for model, y in pairs:\n"
        "    torch.testing.assert_close(model(x), y, atol=1e-12, rtol=1e-12)\n"
        "    model(torch.zeros(5, 1, 24, 32).double())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def any_shape(name):
    """Any batch and size; of multiples of four where the network halves the size twice."""
    batch, high, wide = (torch.export.Dim(n, min=2, max=64) for n in ("batch", "high", "wide"))
    by = 4 if name == "permutations" else 1
    return ({0: batch, 2: by * high, 3: by * wide},)


@pytest.mark.parametrize(("name", "plain"), [("permutations", True), ("signed", False)])
def test_torch_export_with_any_batch_and_size(name, plain):
    model = prepared(name).eval()
    network = sc.export.plain(model) if plain else model
    program = torch.export.export(
        network,
        (torch.randn(4, 1, 16, 24, dtype=torch.float64),),
        dynamic_shapes=any_shape(name),
    )
    for shape in ((4, 1, 16, 24), (7, 1, 32, 12)):
        x = torch.randn(*shape, dtype=torch.float64)
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-12, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["permutations", "signed"])
def test_onnx_at_a_size_and_batch_that_were_not_traced(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = prepared(name, torch.float32).eval()
    if name == "signed":  # what the other network has not, as the exporter is slow
        model = model[:4]
    path = tmp_path / "plain.onnx"
    torch.onnx.export(
        sc.export.plain(model),
        (torch.randn(4, 1, 16, 24),),
        path,
        dynamo=True,
        dynamic_shapes=any_shape(name),
        verbose=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((4, 1, 16, 24), (7, 1, 32, 12)):
        x = torch.randn(*shape)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, model(x).detach().numpy(), atol=1e-4, rtol=1e-4)


def test_the_plain_network_keeps_the_symmetry():
    model = prepared("permutations")
    head = nn.Sequential(*list(sc.export.plain(model))[:12])
    sc.testing.assert_equivariant(head, D4.trivial(1), D4.trivial(3), 16)
    broken = copy.deepcopy(head)
    with torch.no_grad():
        broken[0].weight[0] += 1
    with pytest.raises(AssertionError, match="not equivariant"):
        sc.testing.assert_equivariant(broken, D4.trivial(1), D4.trivial(3), 16)
