"""Scale convolutions: against a plain definition, and equivariant as far as they say."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft
from skimage import data, transform
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import symconv as sc
from symconv.nn._scale_basis import functions

OCTAVES = sc.groups.scales(2, 3)
HALVES = sc.groups.scales(2**0.5, 4)
CONVS = {1: sc.nn.ScaleConv1d, 2: sc.nn.ScaleConv2d}


def pictures(size=192):
    """Natural pictures (3, 1, size, size), centred."""
    grey = [
        torch.from_numpy(p[40 : 40 + size, 60 : 60 + size].mean(-1) / 255)
        for p in (data.astronaut(), data.coffee(), data.chelsea())
    ]
    x = torch.stack(grey)[:, None]
    return x - x.mean()


def stack(scales, **options):
    torch.manual_seed(0)
    first = sc.nn.ScaleConv2d(scales.trivial(1), scales.regular(8), **options)
    second = sc.nn.ScaleConv2d(scales.regular(8), scales.regular(8), **options)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).double()


def shrunk(x, size):
    """By another method than the layer's: scikit-image's Gaussian and cubic splines."""
    flat = x.flatten(0, -3).numpy()
    rows = [transform.resize(p, size, order=3, mode="symmetric", anti_aliasing=True) for p in flat]
    return torch.from_numpy(np.stack(rows)).view(*x.shape[:-2], *size)


def error(net, scales, x, resize=None, lost=1):
    """Relative squared error in the interior, on the scales that both sides have."""
    size = round(x.shape[-1] / scales.factor)
    resize = resize or (lambda v, s: sc.rescale(v, s[0] / v.shape[-1]))
    with torch.no_grad():
        small, large = net(resize(x, (size, size))), resize(net(x), (size, size))
    small, large = (v.unflatten(1, (-1, scales.count)) for v in (small, large))
    inside = (..., *(slice(size // 5, -(size // 5)),) * 2)
    small, large = small[:, :, :-lost][inside], large[:, :, 1 : scales.count - lost + 1][inside]
    return float((small - large).square().sum() / large.square().sum())


@pytest.mark.parametrize("scales", [OCTAVES, HALVES], ids=str)
@pytest.mark.parametrize("basis", ["hermite", "discrete"])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_two_layers_with_relu_follow_a_change_of_size(scales, basis, kernel):
    net = stack(scales, kernel_size=kernel, basis=basis)
    assert error(net, scales, pictures()) < 1e-3
    linear = nn.Sequential(net[0], net[2])
    assert error(linear, scales, pictures()) < 1e-4  # zeros at the border reach inwards
    mirrored = stack(scales, kernel_size=kernel, basis=basis, padding_mode="reflect")
    assert error(nn.Sequential(mirrored[0], mirrored[2]), scales, pictures()) < 1e-20


@pytest.mark.parametrize("scales", [OCTAVES, HALVES], ids=str)
def test_so_they_do_when_others_resize(scales):
    net = stack(scales, kernel_size=5, padding_mode="reflect")
    assert error(net, scales, pictures(), shrunk) < 1e-3


def test_a_plain_network_does_not_follow():
    """The negative control: the same filter on the full grid for every scale."""
    plain = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2))
    scales = sc.groups.scales(2, 2)
    repeated = nn.Sequential(plain.double(), Repeated(2))
    assert error(repeated, scales, pictures()) > 0.05


class Repeated(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        return x.repeat_interleave(self.times, 1)


def test_scales_in_the_wrong_order_are_seen():
    net = stack(OCTAVES)
    turned = nn.Sequential(net, Turned(3))
    assert error(turned, OCTAVES, pictures()) > 0.05


class Turned(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return x.unflatten(1, (-1, self.count)).flip(2).flatten(1, 2)


def test_interscale_lacks_one_scale_a_layer():
    net = stack(OCTAVES, padding_mode="reflect")
    second = sc.nn.ScaleConv2d(OCTAVES.regular(8), OCTAVES.regular(8), interscale=2).double()
    net = nn.Sequential(net[0], net[1], second, nn.ReLU())
    assert error(net, OCTAVES, pictures(), lost=2) < 1e-3 < error(net, OCTAVES, pictures(), lost=1)


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("interscale", [1, 2])
def test_dyadic_is_exact_for_its_own_action(dimension, interscale):
    options = {"padding_mode": "circular", "basis": "dyadic", "kernel_size": 3}
    conv, blur = CONVS[dimension], (sc.nn.BlurPool1d, sc.nn.BlurPool2d)[dimension - 1]
    net = nn.Sequential(
        conv(OCTAVES.trivial(2), OCTAVES.regular(3), **options),
        nn.ReLU(),
        conv(OCTAVES.regular(3), OCTAVES.regular(4), interscale=interscale, **options),
        nn.ReLU(),
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape, generator=generator))
    size = (32, 24)[:dimension]
    x = torch.randint(0, 256, (2, 2, *size), generator=generator).double() * 2**20
    small = net(blur(5, 2, "circular").double()(x)).unflatten(1, (4, 3))
    large = net(x).unflatten(1, (4, 3))[(..., *(slice(None, None, 2),) * dimension)]
    kept = 3 - interscale
    assert torch.equal(small[:, :, :kept], large[:, :, 1 : kept + 1])
    assert small[:, :, :kept].any()
    assert not torch.equal(small[:, :, :kept], large[:, :, :kept])


def resized(v, size):
    """Scipy's cosine transform, cut or filled, and back."""
    axes = tuple(range(-len(size), 0))
    before = v.shape[-len(size) :]
    coefficients = fft.dctn(v.numpy(), axes=axes)
    kept = [min(a, b) for a, b in zip(before, size, strict=True)]
    wide = np.zeros((*v.shape[: -len(size)], *size))
    cut = (..., *(slice(0, k) for k in kept))
    wide[cut] = coefficients[cut]
    return torch.from_numpy(fft.idctn(wide, axes=axes) * math.prod(size) / math.prod(before))


def strided(layer, space):
    return [math.ceil(n / s) for n, s in zip(space, layer.stride, strict=True)]


def slow(layer, x):
    """Scale by scale with scipy's cosine transforms and torch's convolution, in double."""
    scales, n, filters = layer.scales, layer.dimension, layer.filters().detach()
    space = x.shape[2:]

    rows = []
    for level in range(scales.count):
        size = [round(length / scales.sizes[level]) for length in space]
        y = 0
        for j in range(layer.interscale):
            if level + j >= scales.count:
                continue
            read = x if layer.lifting else x[:, level + j :: scales.count]
            padded = F.pad(resized(read, size), [k // 2 for k in layer.kernel_size[::-1]
                                                 for _ in (0, 1)])  # fmt: skip
            convolve = F.conv1d if n == 1 else F.conv2d
            y = y + convolve(padded, filters[:, :, j], groups=layer.groups)
        y = y + layer.bias.detach().view(-1, *(1,) * n)
        rows.append(resized(resized(y, list(space)), strided(layer, space)))
    return torch.stack(rows, 2).flatten(1, 2)


@given(
    dimension=st.sampled_from([1, 2]),
    lifting=st.booleans(),
    basis=st.sampled_from(["hermite", "discrete"]),
    factor=st.sampled_from([2.0, 2**0.5, 1.3]),
    size=st.lists(st.integers(14, 21), min_size=2, max_size=2),
    stride=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2]),
    interscale=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
)
def test_against_a_plain_definition(
    dimension, lifting, basis, factor, size, stride, groups, interscale, kernel
):
    scales = sc.groups.scales(factor, 3)
    into = scales.trivial(2) if lifting else scales.regular(2)
    interscale = 1 if lifting else interscale
    layer = CONVS[dimension](
        into, scales.regular(4), kernel, stride, groups=groups, basis=basis, interscale=interscale
    ).double()  # fmt: skip
    nn.init.normal_(layer.bias)
    x = torch.randn(2, into.channels, *size[:dimension], dtype=torch.float64)
    wanted = slow(layer, x)
    if kernel == 1 and not lifting and interscale == 1:  # copies are mixed where they are
        mixed = torch.einsum(
            "oi,nik...->nok...",
            torch.block_diag(*layer.filters()[:, :, 0].flatten(1).split(4 // groups)),
            x.unflatten(1, (2, 3)),
        )
        wanted = (mixed + layer.bias.view(-1, 1, *(1,) * dimension)).flatten(1, 2).detach()
        wanted = resized(wanted, strided(layer, x.shape[2:]))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-10, atol=1e-10)


def test_bases():
    for basis in ("hermite", "discrete"):
        found = functions(basis, (5, 5), 2, 1.0, 2.0)
        assert found.shape == (6, 5, 5)
        np.testing.assert_allclose((found**2).sum((1, 2)), 1)
        parity = found[:, ::-1, ::-1] / np.where(abs(found) > 1e-9, found, np.inf)
        assert set(np.unique(parity.round(6))) <= {-1.0, 0.0, 1.0}  # even or odd
    octave, half = (functions("discrete", (5, 5), 2, 1.0, f) for f in (2.0, 2**0.5))
    assert abs(octave - half).max() > 0.05  # each for its factor
    slow_wave = functions("discrete", (9,), 3, 1.0, 2.0)
    spectrum = abs(np.fft.rfft(slow_wave, 512)) ** 2
    held = spectrum[:, :129].sum(1) / spectrum.sum(1)  # up to a quarter
    assert (held[:3] > 0.9).all()
    assert (np.diff(held) < 0).all()


def test_scale_pool_and_norms():
    field = OCTAVES.regular(4)
    x = torch.randn(2, 12, 6, 6)
    assert torch.equal(sc.nn.ScalePool(field)(x), x.unflatten(1, (4, 3)).amax(2))
    assert torch.equal(sc.nn.ScalePool(field, "mean")(x), x.unflatten(1, (4, 3)).mean(2))
    assert sc.nn.ScalePool(field).out_field == OCTAVES.trivial(4)
    norm = sc.nn.FieldBatchNorm(field)
    y = norm(x).unflatten(1, (4, 3))
    torch.testing.assert_close(y.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-6, rtol=0)
    assert norm.weight.shape == (4,)  # one for all scales of a copy
    dropped = sc.nn.FieldDropout(field, 0.5)(torch.ones(2, 12, 6, 6)).unflatten(1, (4, 3))
    assert (dropped == dropped[:, :, :1]).all()  # a copy at all scales or at none
    assert dropped.any()
    assert not dropped.all()


LAYERS = {
    "lifting": lambda **k: sc.nn.ScaleConv2d(OCTAVES.trivial(2), OCTAVES.regular(2), 3, **k),
    "hidden": lambda **k: sc.nn.ScaleConv2d(
        HALVES.regular(2), HALVES.regular(2), 3, 2, basis="discrete", interscale=2,
        padding_mode="circular", bias=False, **k
    ),
    "dyadic": lambda **k: sc.nn.ScaleConv1d(
        OCTAVES.regular(2), OCTAVES.regular(4), 3, groups=2, basis="dyadic", **k
    ),
    "pointwise": lambda **k: sc.nn.ScaleConv1d(OCTAVES.regular(2), OCTAVES.regular(4), 1, **k),
}  # fmt: skip
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def pair(make, **kind):
    torch.manual_seed(0)
    layer = make(**kind)
    return layer, torch.randn(2, layer.in_field.channels, *(16,) * layer.dimension, **kind)


@every_layer
def test_linear_with_derivatives(make):
    layer, x = pair(make, dtype=torch.float64)
    x = x.requires_grad_()
    layer.weight.requires_grad_(False)
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)
    other = torch.randn_like(x)
    zero = layer(torch.zeros_like(x))
    torch.testing.assert_close(layer(2 * x - other) - zero, 2 * layer(x) - layer(other) - zero)
    layer.weight.requires_grad_()
    back = torch.randn_like(zero)
    (to_weight,) = torch.autograd.grad((layer(x) * back).sum(), layer.weight)
    step = 1e-6 * torch.randn_like(layer.weight)
    with torch.no_grad():
        before = (layer(x) * back).sum()
        layer.weight += step
        change = (layer(x) * back).sum() - before
    torch.testing.assert_close(change, (to_weight * step).sum(), rtol=1e-5, atol=1e-9)


@every_layer
def test_compiles_exports_and_copies(make):
    layer, x = pair(make)
    wanted = layer(x)
    torch._dynamo.reset()
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x), wanted)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (x,), dynamic_shapes=(batch,))
    other = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(program.module()(other), layer(other))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), wanted)
    fresh = make()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), wanted)
    assert repr(eval(repr(layer), vars(sc.nn) | {"scales": sc.groups.scales})) == repr(layer)


def test_one_program_for_every_size():
    """Rounded sizes are more than a range of named sizes can promise: they are left open."""
    layer, x = pair(LAYERS["lifting"])
    open_sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(layer, (x,), dynamic_shapes=(open_sizes,))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    whole = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    graphs = set()
    for size in ((16, 19), (31, 20), (48, 65), (33, 33)):
        other = torch.randn(2, x.shape[1], *size)
        torch.testing.assert_close(program.module()(other), layer(other))
        torch.testing.assert_close(whole(other), layer(other))
        graphs.add(counter.frame_count)
    assert len(graphs) == 1, "nothing is compiled again"


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_equals_eager():
    layer, x = pair(LAYERS["lifting"])
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(layer.eval(), (x,), dynamo=True, dynamic_shapes=batch)
    assert program is not None
    other = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(program(other)[0], layer(other), rtol=1e-4, atol=1e-5)


@every_layer
def test_types_layouts_batches(make):
    layer, x = pair(make)
    wanted = layer(x)
    if x.ndim == 4:
        torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), wanted)
    torch.testing.assert_close(layer(x[0]), wanted[0])
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), wanted, rtol=0.1, atol=0.1)
    y = layer.bfloat16()(x.bfloat16())
    torch.testing.assert_close(y.float(), wanted, rtol=0.1, atol=0.1)


def test_types_round_once():
    """A stay in half precision does not change the functions that filters are made of."""
    layer, x = pair(LAYERS["lifting"])
    wanted, state = layer(x), copy.deepcopy(layer.state_dict())
    layer.bfloat16().float().load_state_dict(state)
    assert torch.equal(layer(x), wanted)
    assert layer.bfloat16().functions.dtype == torch.bfloat16


def test_a_coarse_grid_as_large_as_the_fine_one_changes_nothing():
    """Four positions at a step of 1.1 are four: exported, too, no frequency may go."""
    near = sc.groups.scales(1.1, 2)
    layer = sc.nn.ScaleConv2d(near.trivial(1), near.regular(2), 3, padding_mode="circular")
    x = torch.randn(2, 1, 4, 4)
    assert layer.grids((4, 4)) == [(4, 4)] * 2
    y = layer(x).unflatten(1, (2, 2))
    assert torch.equal(y[:, :, 0], y[:, :, 1])
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_pointwise_layers_take_maps_of_any_size():
    layer = sc.nn.ScaleConv2d(OCTAVES.regular(2), OCTAVES.regular(3), 1)
    x = torch.randn(2, 6, 1, 1)
    wide = layer(x.expand(-1, -1, 8, 8))
    torch.testing.assert_close(layer(x), wide[..., :1, :1])


def test_trains_after_inference():
    """Matrices are kept from call to call; those first wanted in inference must serve training."""
    layer, x = sc.nn.ScaleConv2d(OCTAVES.trivial(1), OCTAVES.regular(2)), torch.randn(1, 1, 53, 47)
    with torch.inference_mode():
        layer(x)
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_one_axis_equals_a_row():
    one = sc.nn.ScaleConv1d(OCTAVES.regular(2), OCTAVES.regular(3), 3).double()
    two = sc.nn.ScaleConv2d(OCTAVES.regular(2), OCTAVES.regular(3), (1, 3)).double()
    torch.testing.assert_close(two.functions, one.functions[:, None])
    with torch.no_grad():
        two.weight.copy_(one.weight)
    x = torch.randn(2, 6, 24, dtype=torch.float64)
    torch.testing.assert_close(two(x[:, :, None].expand(-1, -1, 24, -1))[:, :, 12], one(x))


def test_bad_input():
    C4, lift = sc.groups.parse("C4"), sc.nn.ScaleConv2d
    with pytest.raises(sc.StructureError, match="field over scales as in_field"):
        lift(C4.trivial(1), OCTAVES.regular(2))
    with pytest.raises(sc.StructureError, match="same scales"):
        lift(OCTAVES.regular(2), HALVES.regular(2))
    with pytest.raises(sc.StructureError, match="regular out_field"):
        lift(OCTAVES.trivial(1), OCTAVES.trivial(2))
    with pytest.raises(sc.StructureError, match="odd kernel_size"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), 4)
    with pytest.raises(sc.StructureError, match="factor 2 for the dyadic"):
        lift(HALVES.trivial(1), HALVES.regular(2), basis="dyadic")
    with pytest.raises(sc.StructureError, match="basis among"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), basis="fourier")
    with pytest.raises(sc.StructureError, match='padding="same"'):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), padding=1)
    with pytest.raises(sc.StructureError, match="interscale"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), interscale=2)
    with pytest.raises(sc.StructureError, match="an integer order from 0 to 2"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), 3, order=3)
    for order in (1.5, 2.0, True, "2", -1):
        with pytest.raises(sc.StructureError, match="an integer order from 0 to 4"):
            lift(OCTAVES.trivial(1), OCTAVES.regular(2), order=order)
    for sigma in (-1.0, 0, math.inf, math.nan, "1"):
        with pytest.raises(sc.StructureError, match="positive finite sigma"):
            lift(OCTAVES.trivial(1), OCTAVES.regular(2), sigma=sigma)
    for sigma in (0.1, 1e5):
        with pytest.raises(
            sc.StructureError, match=r"6 different functions on 5 x 5 taps.*quarter"
        ):
            lift(OCTAVES.trivial(1), OCTAVES.regular(2), sigma=sigma)
    with pytest.raises(sc.StructureError, match=r"padding=\"same\" and dilation=1"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), dilation=(1, 2))
    with pytest.warns(UserWarning, match="sigma=0.5 under 0.8"):
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), sigma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lift(OCTAVES.trivial(1), OCTAVES.regular(2), 3)
    layer = lift(OCTAVES.trivial(1), OCTAVES.regular(2), 5)
    with pytest.raises(sc.StructureError, match="at least 19 positions"):
        layer(torch.zeros(1, 1, 18, 32))
    layer(torch.zeros(1, 1, 19, 19))
    with pytest.raises(sc.StructureError, match="1 channels"):
        layer(torch.zeros(1, 2, 32, 32))
    with pytest.raises(sc.StructureError, match="field over scales"):
        sc.nn.ScalePool(C4.regular(2))
