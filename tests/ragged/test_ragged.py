"""Random networks on random sizes: each item equals that item alone, whatever the padding holds."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import symconv as sc
from ragged.alone import assert_alone, error, items_of, parts, poisoned
from symconv.ragged.pack import canvases

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
POINTWISE = [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus(), nn.Hardswish(), nn.Tanh()]
CHANNELS = 4


class Poisoned(nn.Module):
    """A layer, with NaN in the padding of what it gives."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return poisoned(y) if isinstance(y, sc.Ragged) else y


class Residual(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return x + self.inside(x)


class Dense(nn.Module):
    def __init__(self, inside, mix):
        super().__init__()
        self.inside, self.mix = inside, mix

    def forward(self, x):
        return self.mix(torch.cat([x, self.inside(x)], 1))


class Gated(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.squeeze = nn.Sequential(GLOBAL[n](1), CONV[n](CHANNELS, CHANNELS, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.squeeze(x)


@st.composite
def layers(draw, n, batch_norm=True):
    """One layer of CHANNELS channels that no size of 8 and more is too small for, thrice."""
    kinds = ["conv", "same", "pool", "norm", "pointwise", "residual", "dense", "gate", "up"]
    kind = draw(st.sampled_from(kinds))
    if kind == "conv":
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        dilation, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
        padding = draw(st.integers(dilation * (kernel - 1) // 2, kernel))
        bias, mode = draw(st.booleans()), draw(st.sampled_from(["zeros", "zeros", "replicate"]))
        options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        return CONV[n](CHANNELS, CHANNELS, kernel, **options, bias=bias, padding_mode=mode)
    if kind == "same":
        return CONV[n](CHANNELS, CHANNELS, draw(st.sampled_from([1, 3, 5])), padding="same")
    if kind == "pool":
        kernel, ceil = draw(st.integers(2, 3)), draw(st.booleans())
        options = dict(stride=draw(st.integers(1, 2)), padding=kernel // 2, ceil_mode=ceil)
        if draw(st.booleans()):
            return MAX[n](kernel, **options)
        return MEAN[n](kernel, **options, count_include_pad=draw(st.booleans()))
    if kind == "norm":
        made = [nn.GroupNorm(2, CHANNELS), INSTANCE_NORM[n](CHANNELS, affine=True)]
        return draw(st.sampled_from([*made, BATCH_NORM[n](CHANNELS)] if batch_norm else made))
    if kind == "pointwise":
        return draw(st.sampled_from(POINTWISE))
    if kind == "residual":
        conv = CONV[n](CHANNELS, CHANNELS, 3, padding=1)
        return Residual(nn.Sequential(conv, nn.ReLU(inplace=True)))
    if kind == "dense":
        return Dense(CONV[n](CHANNELS, CHANNELS, 3, padding=1), CONV[n](2 * CHANNELS, CHANNELS, 1))
    if kind == "gate":
        return Gated(n)
    return TRANSPOSED[n](CHANNELS, CHANNELS, 2, stride=draw(st.integers(1, 2)))


@st.composite
def networks(draw, n, pooled):
    """A network of a few layers, NaN in the padding after each, in double precision."""
    torch.manual_seed(draw(st.integers(0, 1 << 16)))
    body = [Poisoned(draw(layers(n))) for _ in range(draw(st.integers(1, 5)))]
    end = [GLOBAL[n](draw(st.integers(1, 3))), nn.Flatten(1)] if pooled else []
    return nn.Sequential(*body, *end).double().eval()


@st.composite
def sizes(draw, n, least=8):
    most = {1: 40, 2: 20, 3: 12}[n]
    one = st.tuples(*[st.integers(least, most)] * n)
    return draw(st.lists(one, min_size=1, max_size=5))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("pooled", [True, False])
@settings(max_examples=34, deadline=None)
@given(data=st.data())
def test_random_networks(n, pooled, data):
    model = data.draw(networks(n, pooled))
    items = items_of(data.draw(sizes(n)), channels=CHANNELS, grad=True)
    assert_alone(model, items, parameters=list(model.parameters()))


def joined_cells(x):
    """All valid cells as one row of a batch of one."""
    return torch.cat([item.flatten(1) for item in x], 1)[None]


@pytest.mark.parametrize("n", [1, 2, 3])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_batch_norm_in_training_is_that_of_all_valid_cells(n, data):
    torch.manual_seed(0)
    momentum = data.draw(st.sampled_from([0.1, 0.7, None]))
    options = dict(momentum=momentum, affine=data.draw(st.booleans()))
    norm = BATCH_NORM[n](CHANNELS, **options).double()
    reference = nn.BatchNorm1d(CHANNELS, **options).double()
    items = items_of(data.draw(sizes(n, 2)), channels=CHANNELS, grad=True)
    for _ in range(2):
        got = joined_cells(norm(poisoned(sc.Ragged(items))).unbind())
        wanted = reference(joined_cells(items))
        assert error(got, wanted) <= 1e-12
    for name, value in norm.state_dict().items():
        assert error(value, reference.state_dict()[name]) <= 1e-12
    weights = torch.randn_like(wanted)
    leaves = lambda layer: [*items, *layer.parameters()]  # noqa: E731
    pairs = zip(
        torch.autograd.grad((got * weights).sum(), leaves(norm)),
        torch.autograd.grad((wanted * weights).sum(), leaves(reference)),
        strict=True,
    )
    scale = float(weights.abs().max())
    for one, other in pairs:
        assert float((one - other).abs().max()) <= 1e-11 * scale


def test_batch_norm_does_not_depend_on_the_packing():
    items = items_of([(90, 90), (8, 8), (9, 30), (100, 20)], channels=CHANNELS)
    norm = nn.BatchNorm2d(CHANNELS).double()
    batches = [sc.Ragged(items), sc.Ragged(items, multiple_of=128)]
    assert len(batches[0].canvases) > len(batches[1].canvases) == 1
    one, other = (norm(x).unbind() for x in batches)
    assert all(error(a, b) < 1e-12 for a, b in zip(one, other, strict=True))


def test_second_derivatives():
    items = items_of([(5, 4), (3, 6)], channels=2, grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def network(weight, *items):
        y = torch.nn.functional.conv2d(sc.Ragged(items).tanh() * 2 + 1, weight, padding=1)
        return torch.nn.functional.conv2d(y, weight, padding=1).mean((2, 3))

    assert torch.autograd.gradcheck(network, (weight, *items))
    assert torch.autograd.gradgradcheck(network, (weight, *items))


# The batch itself


def test_what_a_batch_tells():
    items = items_of([(9, 7), (120, 130), (5, 14)], channels=3, dtype=torch.float32)
    x = sc.Ragged(items)
    assert x.sizes == [(9, 7), (120, 130), (5, 14)]
    assert all(map(torch.equal, x.unbind(), items))
    assert all(map(torch.equal, x, items))
    assert len(x) == x.shape[0] == x.size(0) == 3
    assert x.shape[1] == x.size(1) == 3
    assert x.shape[2].values() == [9, 120, 5]
    assert (x.shape[2] // 2 + 1).values() == [5, 61, 3]
    assert x.dim() == x.ndim == 4
    assert x.dtype == torch.float32
    assert "120x130" in repr(x)
    assert x.to(torch.float64).dtype == x.double().dtype == torch.float64
    assert x.map(lambda item: item[:2, 1:]).sizes == [(8, 7), (119, 130), (4, 14)]
    assert x.cells().shape == (sum(item[0].numel() for item in items), 3)
    assert x.shape == (2 * x).shape
    assert x.shape != x[:, :, 1:].shape


def test_batches_of_equal_sizes_are_one_canvas_without_padding():
    items = items_of([(8, 6)] * 5, channels=3)
    x = sc.Ragged(items)
    assert len(x.canvases) == 1
    assert x.valid[0].full
    assert torch.equal(x.canvases[0], torch.stack(items))
    assert int(x.shape[2]) == 8
    assert x.flatten(1).shape == (5, 3 * 8 * 6)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "save"])
def test_copies(how, tmp_path):
    x = sc.Ragged(items_of([(9, 7), (120, 130), (5, 14)], channels=3))
    if how == "pickle":
        y = pickle.loads(pickle.dumps(x))
    elif how == "deepcopy":
        y = copy.deepcopy(x)
    else:
        torch.save(x, tmp_path / "x.pt")
        y = torch.load(tmp_path / "x.pt", weights_only=False)
    assert y.sizes == x.sizes
    assert all(map(torch.equal, x, y))
    conv = nn.Conv2d(3, 4, 3).double()
    assert all(map(torch.equal, conv(x), conv(y)))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_canvases_hold_every_item_once(data):
    n = data.draw(st.integers(1, 3))
    given_sizes = data.draw(
        st.lists(st.tuples(*[st.integers(1, 300)] * n), min_size=1, max_size=20)
    )
    multiple = data.draw(st.sampled_from([1, 8, 32]))
    made = canvases(given_sizes, multiple)
    assert sorted(k for items, _ in made for k in items) == list(range(len(given_sizes)))
    for items, size in made:
        assert all(s % multiple == 0 for s in size)
        for axis, s in enumerate(size):
            largest = max(given_sizes[k][axis] for k in items)
            assert s == -(-largest // multiple) * multiple


def test_float32_and_bfloat16():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(2, 8), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    sizes = [(20, 33), (64, 40), (9, 12)]
    assert_alone(model, items_of(sizes, 3, torch.float32), dtype=torch.float32)
    low = items_of(sizes, 3, torch.bfloat16)
    assert_alone(model.bfloat16(), low, dtype=torch.bfloat16)


def test_the_check_sees_a_wrong_size():
    conv = nn.Conv2d(3, 3, 3, padding=1).double()

    def wrong(x):
        y = conv(x)
        if isinstance(x, sc.Ragged):
            y.valid = tuple(type(v)([[a - 1, b] for a, b in v.lists()], False) for v in y.valid)
        return y

    with pytest.raises(AssertionError):
        assert_alone(wrong, items_of([(6, 6), (5, 7)], 3))


def test_items_in_order_after_pooling():
    items = [
        torch.full((1, *size), float(k)) for k, size in enumerate([(9, 9), (200, 200), (4, 4)])
    ]
    pooled = nn.AdaptiveAvgPool2d(1)(sc.Ragged(items)).flatten()
    assert pooled.tolist() == [0, 1, 2]
    assert [float(p) for p in parts(pooled)] == [0, 1, 2]


def test_second_derivatives_of_batch_norm_in_training():
    items = items_of([(3, 2), (2, 4)], channels=2, grad=True)
    weight, bias = (torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def network(weight, bias, *items):
        y = nn.functional.batch_norm(sc.Ragged(items), None, None, weight, bias, True)
        return (y.sigmoid() * y).mean((2, 3))

    assert torch.autograd.gradcheck(network, (weight, bias, *items))
    assert torch.autograd.gradgradcheck(network, (weight, bias, *items))
