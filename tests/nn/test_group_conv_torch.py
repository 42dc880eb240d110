"""Group convolution in torch's machinery: state, copies, types, compilation, export."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import symconv as sc
from symconv.testing import assert_equivariant

parse = sc.groups.parse
C4, D4 = parse("C4"), parse("D4")


def network():
    mixed = D4.trivial(1) + D4.vector(1) + D4.regular(1)
    return nn.Sequential(
        sc.nn.GroupConv2d(D4.trivial(2), mixed, 3, padding=1), nn.Tanh(),
        sc.nn.GroupConv2d(mixed, mixed, 3, padding=1, padding_mode="circular"),
        sc.nn.GroupConvTranspose2d(mixed, D4.vector(1) + D4.trivial(1), 4, 2, 1),
    )  # fmt: skip


def plain_twin(net):
    return nn.Sequential(*(m.to_conv() if hasattr(m, "to_conv") else m for m in net))


def test_to_conv_is_equal_to_the_last_bit():
    net = network()
    x = torch.randn(2, 2, 8, 6)
    assert torch.equal(plain_twin(net)(x), net(x))
    assert not any("symconv" in type(m).__module__ for m in plain_twin(net))
    options = dict(stride=2, dilation=2, groups=2, padding_mode="reflect", padding=2)
    layer = sc.nn.GroupConv2d(C4.regular(2), C4.regular(4), 3, **options, dtype=torch.float64)
    conv = layer.eval().to_conv()
    assert type(conv) is nn.Conv2d
    assert (conv.training, conv.groups, conv.padding_mode) == (False, 2, "reflect")
    x = torch.randn(1, 8, 9, 9, dtype=torch.float64)
    assert torch.equal(conv(x), layer(x))


def test_state_and_copies():
    net = network()
    assert sorted(net.state_dict()) == sorted(dict(net.named_parameters()))
    evaluated = copy.deepcopy(net).eval()
    x = torch.randn(2, 2, 8, 6)
    with torch.no_grad():
        expected = evaluated(x)
        assert evaluated[0]._kept is not None
    assert list(evaluated.state_dict()) == list(net.state_dict())
    saved = io.BytesIO()
    torch.save(evaluated, saved)
    saved.seek(0)
    reloaded = network()
    reloaded.load_state_dict(evaluated.state_dict())
    for other in (copy.deepcopy(evaluated), pickle.loads(pickle.dumps(evaluated)), reloaded.eval(),
                  torch.load(saved, weights_only=False)):  # fmt: skip
        assert getattr(other[0], "_kept", None) is None
        with torch.no_grad():
            assert torch.equal(other(x), expected)


def test_the_kept_filter_follows_the_weights():
    net = network().eval()
    x = torch.randn(2, 2, 8, 6)

    def agrees():
        with torch.no_grad():
            first, second = net(x), net(x)  # the second from the kept filter
        assert torch.equal(first, second)
        assert torch.equal(first, plain_twin(net)(x))

    agrees()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    net.train()(x).square().mean().backward()
    optimiser.step()
    net.eval()
    agrees()
    for parameter in net.parameters():
        parameter.data.mul_(2)  # leaves the version as it is
    agrees()
    net.load_state_dict(network().state_dict())
    agrees()
    net.load_state_dict(network().state_dict(), assign=True)
    agrees()
    net[0].reset_parameters()
    agrees()
    with torch.inference_mode():
        inside = net(x)
    agrees()
    net(x).sum().backward()  # what inference left behind is not used where gradients are
    assert torch.equal(inside, net(x))
    net.double()
    x = x.double()
    agrees()
    assert net[0].filter().requires_grad


def test_devices_and_types():
    with torch.device("meta"):
        layer = sc.nn.GroupConv2d(D4.regular(1), D4.vector(1), 3)
    assert all(t.is_meta for t in [*layer.parameters(), *layer.buffers()])
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert_equivariant(layer, D4.regular(1), D4.vector(1), 5)
    layer = sc.nn.GroupConv2d(D4.regular(1), D4.vector(1), 3, dtype=torch.float64)
    assert layer(torch.zeros(1, 8, 5, 5, dtype=torch.float64)).dtype == torch.float64


def test_channels_last_autocast_and_empty_batches():
    net, x = network(), torch.randn(2, 2, 8, 6)
    y = net(x)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert torch.allclose(last(x.to(memory_format=torch.channels_last)), y, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), y, atol=0.05)
    low.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert net(torch.zeros(0, 2, 8, 6)).shape == (0, 3, 16, 12)
    assert torch.allclose(net(x[0]), y[0], atol=1e-6)


def test_compile_with_gradients_and_changing_sizes():
    net = network()[0::3]  # the first layer and the transpose: signs, sums, both kinds
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 2, 8, 6), (3, 2, 5, 7)):
        x = torch.randn(shape, requires_grad=True)
        values = [x, *net.parameters()]
        expected = torch.autograd.grad(net(x).square().sum(), values)
        for got, want in zip(torch.autograd.grad(compiled(x).square().sum(), values), expected,
                             strict=True):  # fmt: skip
            assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)
    net.eval()
    with torch.no_grad():
        for factor in (1.0, 2.0):
            for parameter in net.parameters():
                parameter.mul_(factor)
            assert torch.allclose(compiled(x), net(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_compile_with_the_default_backend():
    layer = sc.nn.GroupConv1d(parse("mirror").trivial(1), parse("mirror").regular(2), 3)
    x = torch.randn(2, 1, 9)
    assert torch.allclose(torch.compile(layer, fullgraph=True)(x), layer(x), atol=1e-5)


def exported_sizes():
    batch, height, width = (torch.export.Dim(n, min=3) for n in ("batch", "height", "width"))
    return ({0: batch, 2: height, 3: width},)


@pytest.mark.parametrize("training", [False, True])
def test_export_with_any_batch_and_size(training):
    net = network().train(training)
    shapes = exported_sizes()
    program = torch.export.export(net, (torch.randn(4, 2, 8, 6),), dynamic_shapes=shapes)
    x = torch.randn(5, 2, 9, 11)
    assert torch.allclose(program.module()(x), net(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_in_evaluation_have_the_free_weights():
    net, x = network().eval(), torch.randn(5, 2, 8, 6)
    with torch.no_grad():
        net(x)  # keeps its filters
        traced = torch.jit.trace(net, x[:2])  # which compares two traces
        for parameter in traced.parameters():
            parameter.mul_(2)
        assert torch.allclose(traced(x), net(x), atol=1e-5)


def test_onnx_at_a_size_that_was_not_traced():
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = network().eval(), torch.randn(5, 2, 9, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own parts
        program = torch.onnx.export(
            net, (torch.randn(4, 2, 8, 6),), dynamic_shapes=exported_sizes(), dynamo=True,
            verbose=False,
        )  # fmt: skip
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(got - net(x).detach().numpy()).max() < 1e-5
