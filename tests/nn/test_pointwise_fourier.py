"""Pointwise layers through the Fourier transform against torch's dense convolution."""

import contextlib
import copy
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import symconv as sc
from symconv.errors import StructureError
from symconv.kernels import pointwise as kernel
from symconv.lattice.fourier import fourier
from symconv.nn import _fourier
from symconv.testing import assert_equivariant

parse = sc.groups.parse
C4, D4, C8 = parse("C4"), parse("D4"), parse("C8")
LAYERS = {1: sc.nn.GroupConv1d, 2: sc.nn.GroupConv2d, 3: sc.nn.GroupConv3d}
# torch's forward derivatives and traces warn of torch's own parts.
old_torch = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
GROUPS = ["C2", "C3", "C4", "C5", "C8", "D1", "D2", "D3", "D4", "D6", "mirror"]


@contextlib.contextmanager
def fourier_path(times=1, chunk=None):
    """Take the path at any size, in chunks of `chunk` bytes, and see that it is taken."""
    with (
        mock.patch.object(_fourier, "pays", return_value=True),
        mock.patch.object(kernel, "BYTES", chunk or kernel.BYTES),
        mock.patch.object(_fourier, "pointwise", wraps=kernel.pointwise) as spy,
    ):
        yield
    assert spy.call_count == times


@st.composite
def cases(draw):
    """A layer, an input, and the bytes of a chunk."""
    group = parse(draw(st.sampled_from(GROUPS)))
    if group.dimension == 1 and draw(st.booleans()):
        group = sc.groups.flip(3, draw(st.integers(0, 2)))
    blocks = draw(st.integers(1, 3))
    copies = [blocks * draw(st.integers(1, 3)) for _ in range(2)]
    torch.manual_seed(draw(st.integers(0, 2**20)))
    layer = LAYERS[group.dimension](
        *map(group.regular, copies), 1, groups=blocks, bias=draw(st.booleans()), dtype=torch.float64
    )
    size = draw(st.lists(st.integers(1, 4), min_size=group.dimension, max_size=group.dimension))
    batch = draw(st.lists(st.integers(1, 4), max_size=1))  # or no batch axis
    x = torch.randn(*batch, layer.in_channels, *size, dtype=torch.float64)
    return layer, x, draw(st.sampled_from([1, 500, 2000, 10**6]))


def close(got, wanted, tolerance=1e-12):
    scale = max(1.0, wanted.abs().max().item())
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max().item() <= tolerance * scale


@given(cases())
def test_equals_the_dense_convolution_and_its_derivatives(case):
    layer, x, chunk = case
    x.requires_grad_()
    dense = torch.func.functional_call
    with fourier_path(chunk=chunk):
        y = layer(x)
    conv = getattr(torch.nn.functional, f"conv{layer.dimension}d")
    wanted = conv(x, layer.filter(), layer.full_bias(), groups=layer.groups)
    close(y.detach(), wanted.detach())
    close(y.detach(), dense(layer.to_conv(), {}, (x,)).detach())
    inputs, back = [x, *layer.parameters()], torch.randn_like(y)
    with mock.patch.object(kernel, "BYTES", chunk):
        first = torch.autograd.grad(y, inputs, back, retain_graph=True)
    again = torch.autograd.grad(y, inputs, back, create_graph=True)
    plain = torch.autograd.grad(wanted, inputs, back, create_graph=True)
    for one, two, expected in zip(first, again, plain, strict=True):
        close(one, expected.detach())
        close(two.detach(), expected.detach())
    seconds = [
        torch.autograd.grad(sum(g.square().sum() for g in grads), inputs, allow_unused=True)
        for grads in (again, plain)
    ]
    for got, expected in zip(*seconds, strict=True):
        assert (got is None) == (expected is None)
        if expected is not None:
            close(got, expected)


@old_torch
@pytest.mark.parametrize("name", ["C4", "D4", "C5", "D2"])
def test_gradients_against_differences(name):
    group = parse(name)
    layer = sc.nn.GroupConv2d(group.regular(2), group.regular(2), 1, groups=2, dtype=torch.float64)
    x = torch.randn(2, layer.in_channels, 2, 3, dtype=torch.float64, requires_grad=True)

    def forward(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    values = x, *(p.detach().requires_grad_() for p in layer.parameters())
    with mock.patch.object(_fourier, "pays", return_value=True):
        assert torch.autograd.gradcheck(forward, values, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(forward, values)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_gradients_that_are_asked_for(wanted):
    layer = sc.nn.GroupConv2d(D4.regular(2), D4.regular(3), 1)
    x = torch.randn(2, 16, 3, 3)
    tensors = x, layer.weight, layer.bias
    for tensor, needed in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(needed)
    with fourier_path():
        layer(x).sum().backward()
    got = [tensor.grad for tensor in tensors]
    assert [g is not None for g in got] == list(wanted)
    layer.zero_grad()
    x.grad = None
    layer(x).sum().backward()
    for tensor, gradient in zip(tensors, got, strict=True):
        if gradient is not None:
            close(gradient, tensor.grad, 1e-5)


@pytest.mark.parametrize("name", ["mirror", "C2", "C4", "D1", "D2", "D4"])
def test_exact_on_integers(name):
    group = parse(name)
    layer = LAYERS[group.dimension](group.regular(3), group.regular(2), 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape))
    x = torch.randint(-9, 10, (2, layer.in_channels, *[4, 5][: group.dimension])).float()
    with fourier_path():
        assert torch.equal(layer(x), layer.to_conv()(x))
    with mock.patch.object(_fourier, "pays", return_value=True):
        assert_equivariant(layer, layer.in_field, layer.out_field, size=4, integers=True)


@pytest.mark.parametrize("name", ["C3", "C8", "D6", "C16"])
def test_other_turns_in_single_precision(name):
    field = parse(name).regular(4)
    layer, x = sc.nn.GroupConv2d(field, field, 1), torch.randn(2, field.channels, 5, 4)
    with fourier_path():
        close(layer(x).detach(), layer.to_conv()(x).detach(), 1e-5)


def test_a_wrong_transform_is_noticed():
    layer, x = sc.nn.GroupConv2d(D4.regular(2), D4.regular(2), 1), torch.randn(1, 16, 3, 3)
    plan = layer._fourier
    layer.__dict__["_fourier"] = plan._replace(table=plan.table[::-1].copy())
    with fourier_path(), pytest.raises(AssertionError):
        close(layer(x).detach(), layer.to_conv()(x).detach(), 1e-5)


def wide():
    """A layer and an input for which the path pays."""
    field = D4.regular(64)
    return sc.nn.GroupConv2d(field, field, 1), torch.randn(8, 512, 16, 16)


def test_it_is_taken_where_it_pays():
    layer, x = wide()
    with mock.patch.object(_fourier, "pointwise", wraps=kernel.pointwise) as spy:
        close(layer(x).detach(), layer.to_conv()(x).detach(), 1e-5)
        assert spy.call_count == 1
        layer(x[:0]), layer(x[:1, :, :2, :2])
        sc.nn.GroupConv2d(D4.regular(4), D4.regular(4), 1)(torch.zeros(8, 32, 16, 16))
        assert spy.call_count == 1


@given(
    st.sampled_from(["C2", "C4", "C8", "D2", "D4"]), st.integers(1, 64), st.integers(1, 64),
    st.integers(0, 16), st.integers(0, 64),
)  # fmt: skip
def test_more_work_never_pays_less(name, inputs, outputs, samples, pixels):
    transform = fourier(parse(name).product)
    small = kernel.pays(transform, (inputs, outputs), 1, samples, pixels)
    twice = kernel.pays(transform, (2 * inputs, 2 * outputs), 1, 4 * samples, pixels)
    assert twice >= small
    assert not kernel.pays(transform, (inputs, outputs), 1, samples, 0)


NOT_POINTWISE = {
    "kernel": lambda: sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 3, padding=1),
    "stride": lambda: sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 1, stride=2),
    "padding": lambda: sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 1, padding=1),
    "lifting": lambda: sc.nn.GroupConv2d(C4.trivial(8), C4.regular(2), 1),
    "quotient": lambda: sc.nn.GroupConv2d(D4.quotient("C2", 2), D4.regular(1), 1),
    "mixed": lambda: sc.nn.GroupConv2d(C4.regular(1) + C4.trivial(4), C4.regular(2), 1),
    "no turns": lambda: sc.nn.GroupConv2d(parse("C1").regular(8), parse("C1").regular(2), 1),
    "octahedral": lambda: sc.nn.GroupConv3d(parse("O").regular(1), parse("O").regular(1), 1),
}


@pytest.mark.parametrize("make", NOT_POINTWISE.values(), ids=NOT_POINTWISE.keys())
def test_other_layers_stay_dense(make):
    layer = make()
    x = torch.randn(2, layer.in_channels, *[3] * layer.dimension)
    with fourier_path(times=0):
        assert torch.equal(layer(x), layer.to_conv()(x))


def test_fields_written_as_a_sum_take_the_path():
    layer = sc.nn.GroupConv2d(C4.regular(1) + C4.regular(2), C4.regular(2), 1)
    x = torch.randn(1, 12, 3, 3)
    with fourier_path():
        close(layer(x).detach(), layer.to_conv()(x).detach(), 1e-5)


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        Watching,
        lambda: FlopCounterMode(display=False),
    ],
    ids=["autocast", "function mode", "dispatch mode"],
)
def test_what_watches_operations_sees_a_convolution(around):
    layer, x = sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 1), torch.randn(2, 8, 3, 3)
    with fourier_path(times=0), around():
        y = layer(x)
        assert torch.equal(y, layer.to_conv()(x))


@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_under_autocast_of_a_forward_without(name, create_graph):
    field = parse(name).regular(2)
    layer, x = sc.nn.GroupConv2d(field, field, 1), torch.randn(2, field.channels, 3, 3)
    x.requires_grad_()
    with fourier_path():
        y = layer(x)
    g = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(y, x, g, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = torch.autograd.grad(y, x, g, create_graph=create_graph)
    close(got.detach(), wanted, 1e-6)


def test_types_layouts_and_places_without_measurements_stay_dense():
    layer, x = sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 1), torch.randn(2, 8, 3, 3)
    with fourier_path(times=0):
        y = layer(x.contiguous(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y.detach(), layer.to_conv()(x).detach(), 1e-5)
        half = copy.deepcopy(layer).bfloat16()
        assert half(x.bfloat16()).dtype == torch.bfloat16
        assert copy.deepcopy(layer).to("meta")(x.to("meta")).shape == y.shape
        with pytest.raises(RuntimeError, match="type"):
            layer(x.double())


@old_torch
def test_compiled_and_exported_it_is_a_convolution():
    layer, x = wide()
    layer.eval()
    expected = layer(x).detach()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    close(compiled(x).detach(), expected, 1e-5)
    sizes = {0: torch.export.Dim("n", min=2), 2: torch.export.Dim("h", min=2)}
    program = torch.export.export(layer, (x,), dynamic_shapes=(sizes,))
    assert any("conv" in str(node.target) for node in program.graph.nodes)
    close(program.module()(x).detach(), expected, 1e-5)
    close(program.module()(x[:3, :, :5]).detach(), layer(x[:3, :, :5]).detach(), 1e-5)
    traced = torch.jit.trace(layer, x[:2], check_trace=False)
    assert "conv" in str(traced.graph)
    close(traced(x).detach(), expected, 1e-5)


@old_torch
def test_function_transforms():
    layer = sc.nn.GroupConv2d(D4.regular(1), D4.regular(2), 1, dtype=torch.float64)
    conv, x = layer.to_conv(), torch.randn(3, 2, 8, 2, 2, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    def both():
        yield torch.vmap(layer)(x)
        yield torch.func.jacrev(layer)(x[0])
        yield torch.func.jvp(layer, (x[0],), (x[1],))[1]
        yield from torch.func.grad(loss)(parameters, x[0]).values()
        each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        yield from each.values()

    with mock.patch.object(_fourier, "pays", return_value=True):
        got = list(both())
    for one, expected in zip(got, both(), strict=True):
        close(one.detach(), expected.detach())
    close(got[0].detach(), torch.stack([conv(part) for part in x]).detach())


def test_only_the_input_is_kept_for_the_gradient():
    layer, x = sc.nn.GroupConv2d(D4.regular(4), D4.regular(4), 1), torch.randn(4, 32, 16, 16)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    x.requires_grad_()
    with fourier_path(), hooks:
        layer(x)
    large = {t.data_ptr() for t in kept if t.numel() >= x.numel()}
    assert large == {x.data_ptr()}


def test_the_kept_blocks_follow_the_weights():
    layer, x = sc.nn.GroupConv2d(C4.regular(2), C4.regular(2), 1).eval(), torch.randn(2, 8, 3, 3)
    with fourier_path(times=6), torch.no_grad():
        for _ in range(3):
            layer(x)
            assert layer._kept is not None
            close(layer(x), layer.to_conv()(x), 1e-5)
            layer.weight.add_(1)
    close(layer(x).detach(), layer.to_conv()(x).detach(), 1e-5)  # the filter instead, then back
    with fourier_path(), torch.inference_mode():
        close(layer(x), layer.to_conv()(x), 1e-5)
    with fourier_path():  # what inference kept does not reach training
        layer(x).sum().backward()
    assert layer.weight.grad is not None


# Chains


def bottleneck(**options):
    layers = [
        sc.nn.GroupConv2d(C8.regular(a), C8.regular(b), 1, dtype=torch.float64, **options)
        for a, b in ((4, 2), (2, 6), (6, 4))
    ]
    return layers, torch.randn(3, 32, 4, 5, dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"groups": 2}])
@pytest.mark.parametrize("chunk", [100, 3000, 10**6])
def test_a_chain_equals_its_layers(options, chunk):
    layers, x = bottleneck(**options)
    chain, plain = sc.nn.PointwiseChain(*layers), nn.Sequential(*layers)
    inputs = [x.requires_grad_(), *chain.parameters()]
    with fourier_path(chunk=chunk):
        y = chain(x)
        got = torch.autograd.grad(y, inputs, y.detach())
    wanted = plain(x)
    close(y.detach(), wanted.detach())
    for one, expected in zip(got, torch.autograd.grad(wanted, inputs, y.detach()), strict=True):
        close(one, expected)
    assert chain.state_dict().keys() == plain.state_dict().keys()


def test_a_chain_transforms_once():
    layers, x = bottleneck()
    with fourier_path(), mock.patch.object(kernel, "_run", wraps=kernel._run) as transforms:
        sc.nn.PointwiseChain(*layers)(x)
    assert transforms.call_count == 2  # there and back


def test_chains_of_d4_are_exact_on_integers():
    layers = [sc.nn.GroupConv2d(D4.regular(a), D4.regular(b), 1) for a, b in ((3, 1), (1, 2))]
    chain = sc.nn.PointwiseChain(*layers)
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.copy_(torch.randint(-5, 6, parameter.shape))
    x = torch.randint(-5, 6, (2, 24, 4, 5)).float()
    with fourier_path():
        got = chain(x)
    assert torch.equal(got, nn.Sequential(*layers)(x))


def test_chains_run_layer_by_layer_where_they_must():
    layers, x = bottleneck()
    chain, seen = sc.nn.PointwiseChain(*layers), []
    handle = layers[1].register_forward_hook(lambda *_: seen.append(1))
    with fourier_path(times=3):
        chain(x)
    assert seen == [1]
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    with fourier_path(times=3):
        chain(x)
    handle.remove()
    assert len(seen) == 5  # the layers and the chain
    expected = chain(x)
    assert torch.equal(chain[:1](x), layers[0](x))
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    close(compiled(x).detach(), expected.detach())
    strided = sc.nn.GroupConv2d(C8.regular(2), C8.regular(4), 3, padding=1, dtype=torch.float64)
    with fourier_path():  # the first layer by itself
        sc.nn.PointwiseChain(layers[0], strided)(x)


def test_chains_of_other_things_are_refused():
    layers, x = bottleneck()
    with pytest.raises(StructureError, match=r"ReLU\(\) at 1"):
        sc.nn.PointwiseChain(layers[0], nn.ReLU())
    with pytest.raises(StructureError, match=r"C8.regular\(2\) into layer 1"):
        sc.nn.PointwiseChain(layers[0], layers[2])
    with pytest.raises(StructureError):
        sc.nn.PointwiseChain(sc.nn.GroupConvTranspose2d(C4.regular(1), C4.regular(1), 1))
    with pytest.raises(StructureError, match="32"):
        sc.nn.PointwiseChain(*layers)(x[:, :8])
