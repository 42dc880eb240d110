"""Group convolution off the lattice: C_N and D_N for any N, by filters that are steered."""

import copy
import io
import itertools
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import symconv as sc
from symconv.kernels.tied import expand, reference_expand
from symconv.lattice.filters import pair_tie
from symconv.testing import assert_equivariant, assert_matches_structure

parse = sc.groups.parse
C8, D8 = parse("C8"), parse("D8")
OFF_LATTICE = ["C3", "C6", "C8", "C12", "C16", "D3", "D6", "D8"]


def kinds(group):
    quotient = group.quotient(group.subgroup([group.order // 2]), 1)
    return [group.trivial(2), group.regular(1), quotient, group.trivial(1) + group.regular(1)]


@st.composite
def layers(draw, transposed=False):
    """A random layer whose sampling grid is centred, and a size."""
    group = parse(draw(st.sampled_from(OFF_LATTICE)))
    into, out = (draw(st.sampled_from(kinds(group))) for _ in "io")
    blocks = draw(st.sampled_from([1, 1, 2]))
    if blocks == 2:
        into, out = group.regular(2), group.trivial(2)
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    dilation, padding = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    extent = dilation * (kernel - 1) + 1
    size = (draw(st.integers(1, 3)) - 1) * stride + extent - 2 * padding
    size += stride * max(0, -(-(3 - size) // stride))
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=blocks)
    if not transposed:
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "circular"]))
    make = sc.nn.GroupConvTranspose2d if transposed else sc.nn.GroupConv2d
    return make(into, out, kernel, **options, dtype=torch.float64), size


@settings(max_examples=60, deadline=None)
@given(layers())
def test_exact_at_quarter_turns_and_equal_to_its_matrix(drawn):
    layer, size = drawn
    assert_equivariant(
        layer, layer.in_field, layer.out_field, (size, size + 0), batch=1, tolerance=1e-12
    )
    assert_matches_structure(layer, size)
    structure = layer.structure(size)
    assert structure.parameters == layer.weight.numel()
    live = layer.filter().abs().sum() if structure.connections else torch.ones(())
    assert live > 0


@settings(max_examples=30, deadline=None)
@given(layers(transposed=True))
def test_transposes(drawn):
    layer, size = drawn
    try:
        layer.structure(size)
    except sc.StructureError:  # padding leaves nothing
        return
    assert_equivariant(layer, layer.in_field, layer.out_field, size, batch=1, tolerance=1e-12)
    assert_matches_structure(layer, size)


@pytest.mark.parametrize("name", ["C8", "D6"])
def test_expand_against_its_reference(name):
    group = parse(name)
    for into, out in itertools.product(kinds(group)[:3], repeat=2):
        tie = pair_tie(into.parts[0][0], out.parts[0][0], (3, 3))
        free = torch.randn(2, 3, tie.count, dtype=torch.float64)
        basis = torch.from_numpy(tie.basis)
        fast = expand(free, torch.from_numpy(tie.index), basis)
        torch.testing.assert_close(fast, reference_expand(free, tie), rtol=0, atol=1e-13)
        wrong = expand(free, torch.from_numpy(tie.index), basis.roll(1, 1))
        assert not torch.allclose(fast, wrong)


def smooth(size, blur, channels=1):
    """Noise blurred by a Gaussian, fading out towards the inscribed circle: turns without error."""
    torch.manual_seed(7)
    frequency = 2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64)
    low = torch.exp(-0.5 * blur**2 * (frequency[:, None] ** 2 + frequency**2))
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(1, channels, size, size).double()) * low).real
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    return x * torch.exp(-9 * (axis[:, None] ** 2 + axis**2))


def turn_error(layer, x, element, run=None):
    """Relative error of layer(g x) against g layer(x), in the middle; `run` in its place."""
    run = run or layer
    moved = run(sc.act(element, x, layer.in_field))
    wanted = sc.act(element, run(x), layer.out_field)
    quarter = x.shape[-1] // 4
    inner = (..., slice(quarter, -quarter), slice(quarter, -quarter))
    return float((moved - wanted)[inner].norm() / wanted[inner].norm())


@pytest.mark.parametrize("group", [C8, D8, parse("C6")], ids=str)
@pytest.mark.parametrize(("kernel", "bound"), [(3, 0.008), (4, 0.0015), (5, 0.002), (7, 0.002)])
def test_other_turns_are_close_on_smooth_input(group, kernel, bound):
    torch.manual_seed(0)
    for into, out in ((group.trivial(1), group.regular(8)), (group.regular(2), group.regular(4))):
        layer = sc.nn.GroupConv2d(into, out, kernel, bias=False, dtype=torch.float64)
        x = smooth(64, blur=2, channels=into.channels)
        with torch.no_grad():
            assert turn_error(layer, x, group.elements[1]) < bound
            control = turn_error(layer, x, group.elements[1], spoilt(layer))
            assert control > 5 * bound


def spoilt(layer):
    """The equal convolution with each copy's filters in reverse order."""
    conv = layer.to_conv()
    copies = conv.weight.data.unflatten(0, (-1, layer.out_field.group.order))
    conv.weight.data = copies.flip(1).flatten(0, 1)
    return conv


@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives(transposed):
    make = sc.nn.GroupConvTranspose2d if transposed else sc.nn.GroupConv2d
    layer = make(C8.trivial(1) + C8.regular(1), C8.regular(1), 3, padding=1, dtype=torch.float64)
    x = torch.randn(1, 9, 4, 4, dtype=torch.float64, requires_grad=True)

    def forward(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    values = x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(forward, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, values, fast_mode=True)


def make(**options):
    torch.manual_seed(1)
    return sc.nn.GroupConv2d(C8.regular(2), D8.regular(1).restrict("C8"), 3, padding=1, **options)


def test_to_conv_state_and_copies():
    layer, x = make(), torch.randn(2, 16, 9, 9)
    wanted = layer(x)
    assert torch.equal(layer.to_conv()(x), wanted)
    assert "basis" not in " ".join(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(twin(x), wanted)
    with torch.device("meta"):
        empty = make()
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(layer.eval().state_dict())
    assert torch.equal(empty(x), wanted)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), wanted)
        layer.weight.mul_(2)
        assert not torch.equal(layer(x), wanted)
    double = layer.double()
    assert double.filter().dtype == torch.float64
    turned = double.filter()[:8, 0]  # of the first copy: element after element, 45 degrees on
    assert turned.shape == (8, 3, 3)


@pytest.mark.parametrize("how", ["assigned", "loaded", "in a call"])
def test_weights_of_another_type_put_in_place(how):
    layer, x = make(), torch.randn(2, 16, 9, 9, dtype=torch.float64)
    wanted = copy.deepcopy(layer).double()(x)
    state = {name: value.double() for name, value in layer.state_dict().items()}
    if how == "in a call":
        single = layer(x.float())
        assert torch.equal(torch.func.functional_call(layer, state, x), wanted)
        assert torch.equal(layer(x.float()), single)
        return
    if how == "loaded":
        layer.load_state_dict(state, assign=True)
    else:
        layer.weight, layer.bias = (nn.Parameter(state[name]) for name in ("weight", "bias"))
    assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("make", [sc.nn.GroupConv2d, sc.nn.GroupConvTranspose2d])
def test_pairs_of_fields_without_filters_beside_others_with(make):
    # from sign to trivial a filter has angular frequency 8, beyond any small kernel
    signed, mixed = D8.sign(2) + D8.regular(1), D8.trivial(2) + D8.regular(1)
    layer = make(signed, mixed, 3, padding=1, dtype=torch.float64)
    assert_equivariant(layer, signed, mixed, size=6, tolerance=1e-12)
    assert_matches_structure(layer, 6)
    x = torch.randn(1, 18, 6, 6, dtype=torch.float64)
    x[:, 2:] = 0
    assert torch.equal(layer(x)[:, :2], layer(0 * x)[:, :2])
    assert not torch.equal(layer(x)[:, 2:], layer(0 * x)[:, 2:])


def test_it_is_pasted_back():
    layer = make()
    again = eval(repr(layer), {"GroupConv2d": sc.nn.GroupConv2d, "C8": C8, "D8": D8})
    assert repr(again) == repr(layer)
    assert again.weight.shape == layer.weight.shape


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_compiles_as_one_graph_with_its_gradients(backend):
    layer, x = make(), torch.randn(2, 16, 8, 8)
    torch._dynamo.reset()
    fast = torch.compile(layer, fullgraph=True, backend=backend)
    layer(x).sum().backward()
    wanted = layer.weight.grad.clone()
    layer.zero_grad()
    y = fast(x)
    torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, wanted, rtol=1e-3, atol=1e-3)


def test_exports_with_any_batch_and_size():
    layer, dims = make().eval(), {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=3),
                                  3: torch.export.Dim("w", min=3)}  # fmt: skip
    program = torch.export.export(layer, (torch.randn(2, 16, 8, 9),), dynamic_shapes=(dims,))
    x = torch.randn(3, 16, 12, 7)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
def test_onnx_equals_eager(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer, path = make().eval(), tmp_path / "layer.onnx"
    x = torch.randn(2, 16, 8, 8)
    torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), layer(x), rtol=1e-4, atol=1e-5)


def test_half_precision_channels_last_and_empty_batches():
    layer, x = make(), torch.randn(2, 16, 8, 8)
    wanted = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        assert half.dtype == torch.bfloat16
        turned = layer(sc.act(C8.elements[2], x, C8.regular(2)))
        again = sc.act(C8.elements[2], half, layer.out_field)
        torch.testing.assert_close(turned, again, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.float(), wanted, rtol=0.05, atol=0.05)
    last = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, wanted, rtol=1e-4, atol=1e-5)
    assert layer(x[:0]).shape == (0, 16, 8, 8)
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
def test_initial_filters_have_the_spread_of_a_plain_convolution(kernel):
    torch.manual_seed(0)
    layer = sc.nn.GroupConv2d(C8.regular(8), C8.regular(16), kernel)
    plain = nn.Conv2d(64, 128, kernel)
    ratio = layer.filter().detach().std() / plain.weight.detach().std()
    assert float(ratio) == pytest.approx(1, abs=0.03)


def test_a_network_scores_the_same_after_quarter_turns():
    torch.manual_seed(0)
    net = nn.Sequential(
        sc.nn.GroupConv2d(D8.trivial(1), D8.regular(2), 5, padding=2),
        sc.nn.FieldBatchNorm(D8.regular(2)), nn.ReLU(), sc.nn.FieldMaxPool2d(D8.regular(2), 2),
        sc.nn.GroupConv2d(D8.regular(2), D8.regular(2), 2, stride=2), nn.ReLU(),
        sc.nn.GroupPool(D8.regular(2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5),
    ).double()  # fmt: skip
    net(torch.randn(8, 1, 16, 16).double())
    assert_equivariant(net.eval(), D8.trivial(1), None, 16, tolerance=1e-12)
    net[0] = net[0].to_conv()
    net[0].weight.data[0, 0, 0, 0] += 1
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(net.eval(), D8.trivial(1), None, 16, tolerance=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: sc.nn.GroupConv2d(C8.trivial(1), C8.regular(1), (3, 5)), "equal kernel_size"),
        (
            lambda: sc.nn.GroupConv2d(C8.trivial(1), parse("C4").regular(1), 3),
            "fields of one group",
        ),
        (lambda: sc.nn.GroupConv1d(C8.trivial(1), C8.regular(1), 3), "group of 1 axes"),
        (lambda: sc.nn.GroupConv3d(D8.trivial(1), D8.regular(1), 3), "group of 3 axes"),
        (lambda: sc.nn.GroupConv2d(D8.trivial(1), D8.sign(1), 5), "frequency 8.*up to 2"),
        (lambda: sc.nn.GroupConv2d(C8.trivial(1), C8.vector(1), 3), "permutes the axes"),
        (
            lambda: sc.nn.GroupConv2d(C8.trivial(1), C8.regular(1), 2, padding="same"),
            "equal padding at both ends",
        ),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(sc.StructureError, match=message):
        wrong()
