"""Polyphase layers: exact under every whole circular shift, torch's layers in all else."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from torch import nn
from torch.nn import functional as F

import symconv as sc

POOLS = {1: sc.nn.PolyphasePool1d, 2: sc.nn.PolyphasePool2d, 3: sc.nn.PolyphasePool3d}
CONVS = {1: sc.nn.PolyphaseConv1d, 2: sc.nn.PolyphaseConv2d, 3: sc.nn.PolyphaseConv3d}
UPS = {1: sc.nn.PolyphaseUpsample1d, 2: sc.nn.PolyphaseUpsample2d, 3: sc.nn.PolyphaseUpsample3d}
TORCH = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def cases(draw):
    """Integer features, a stride and a window that fit each other, and a shift."""
    n = draw(st.integers(1, 3))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(n))
    kernel = tuple(draw(st.sampled_from([1, 3] if s == 1 else [1, 2, 3, 4])) for s in stride)
    size = [s * draw(st.integers(-(-k // s), 4)) for s, k in zip(stride, kernel, strict=True)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randint(-50, 51, (2, 2, *size), generator=generator).double()
    return x, stride, kernel, tuple(draw(st.integers(-4, 4)) for _ in stride)


def follows(layer, x, shift, stride):
    """Whether the layer's output moves as the phases say, to the bit."""
    space = tuple(range(2, x.ndim))
    moved = x.roll(shift, space)
    phases = layer.phase(x), layer.phase(moved)
    steps = phases[0] + torch.tensor(shift) - phases[1]
    assert not (steps % torch.tensor(stride)).any()
    for one, other, by in zip(layer(x), layer(moved), steps // torch.tensor(stride), strict=True):
        if not torch.equal(other, one.roll(by.tolist(), tuple(range(1, x.ndim - 1)))):
            return False
    return True


@given(cases(), st.sampled_from(["max", "mean"]))
def test_pools_follow_every_shift(case, reduce):
    x, stride, kernel, shift = case
    pool = POOLS[len(stride)](stride, kernel, reduce)
    if reduce == "mean":  # a mean of integers over this many is exact
        x = x * 6**3 * 4
    assert follows(pool, x, shift, stride)


@given(cases())
def test_convolutions_follow_every_shift(case):
    x, stride, kernel, shift = case
    padding = tuple((k - 1) // 2 for k in kernel)
    conv = CONVS[len(stride)](2, 3, kernel, stride, padding, padding_mode="circular")
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape))
    assert follows(conv.double(), x, shift, stride)


def test_a_plain_stride_does_not_follow(monkeypatch):
    """The negative control: the same layers, with the phase of every item taken to be 0."""
    x = torch.randint(-9, 10, (2, 2, 8, 8)).double()
    for name in ("polyphase_pool", "polyphase_conv"):
        monkeypatch.setattr(
            f"symconv.nn.{name}.polyphase", lambda x, stride: torch.zeros(len(x), 2).long()
        )
    pool = sc.nn.PolyphasePool2d(2)
    assert not torch.equal(pool(x).sum((2, 3)), pool(x.roll(1, 3)).sum((2, 3)))
    conv = sc.nn.PolyphaseConv2d(2, 3, 3, 2, 1, padding_mode="circular").double()
    scores = [conv(v).square().sum((2, 3)) for v in (x, x.roll(1, 3))]
    assert not torch.allclose(*scores)


@pytest.mark.parametrize("kernel", [2, 3])
def test_pools_are_torchs_on_phase_zero(kernel):
    x = torch.randn(2, 3, 8, 6)
    zero = torch.zeros(2, 2, dtype=torch.int64)
    for reduce, pool in (("max", F.max_pool2d), ("mean", F.avg_pool2d)):
        ours = sc.nn.PolyphasePool2d(2, kernel, reduce, "zeros")(x, zero)
        assert torch.equal(ours, pool(x, kernel, 2, padding=(kernel - 1) // 2))


@given(cases(), st.sampled_from(["circular", "zeros", "reflect"]))
def test_convolutions_are_torchs_on_a_rolled_input(case, mode):
    x, stride, kernel, _ = case
    padding = tuple((k - 1) // 2 for k in kernel)
    n = len(stride)
    if mode == "reflect":
        padding = tuple(min(p, s - 1) for p, s in zip(padding, x.shape[2:], strict=True))
    theirs = TORCH[n](2, 4, kernel, stride, padding, groups=2, padding_mode=mode).double()
    ours = CONVS[n](2, 4, kernel, stride, padding, groups=2, padding_mode=mode).double()
    ours.load_state_dict(theirs.state_dict())
    for phase in itertools.islice(itertools.product(*map(range, stride)), 4):
        offsets = torch.tensor([phase, (0,) * n])
        patches = all(k <= s for k, s in zip(kernel, stride, strict=True)) and not any(padding)
        moved = sc.translate(
            x[:1], [-p for p in phase], "circular" if mode == "circular" or patches else "zeros"
        )
        torch.testing.assert_close(ours(x, offsets), theirs(torch.cat([moved, x[1:]])))
    if set(stride) == {1}:
        torch.testing.assert_close(ours(x), theirs(x))


@given(cases())
def test_upsampling_undoes_the_pool(case):
    x, stride, _, shift = case
    n = len(stride)
    pool, moved = POOLS[n](stride), x.roll(shift, tuple(range(2, x.ndim)))
    for mode in ("nearest", "zeros"):
        up = UPS[n](stride, mode)
        phase = pool.phase(x)
        y = pool(x, phase)
        assert torch.equal(pool(up(y, phase), phase), y)
        # there and back it commutes with every shift, as maps do, not only up to a coarse one
        there = up(pool(moved), pool.phase(moved))
        assert torch.equal(there, up(y, phase).roll(shift, tuple(range(2, x.ndim))))


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_linear_upsampling_is_circular_interpolation(dimension):
    x = torch.randn(2, 3, *(3, 4, 5)[:dimension], dtype=torch.float64)
    phase = torch.zeros(2, dimension, dtype=torch.int64)
    y = UPS[dimension](2, "linear")(x, phase)
    one = UPS[dimension](2, "linear")(x.roll(1, -1), phase)
    torch.testing.assert_close(one, y.roll(2, -1))
    inner = F.interpolate(
        x, scale_factor=2.0, mode=("linear", "bilinear", "trilinear")[dimension - 1]
    )
    cut = (..., *(slice(1, -1),) * dimension)
    torch.testing.assert_close(y[cut], inner[cut])


class Block(nn.Module):
    """A residual block whose two branches lie on one grid."""

    def __init__(self, channels, out, stride):
        super().__init__()
        circular = {"padding_mode": "circular", "bias": False}
        self.first = sc.nn.PolyphaseConv2d(channels, out, 3, stride, 1, **circular)
        self.second = nn.Conv2d(out, out, 3, 1, 1, **circular)
        self.short = sc.nn.PolyphaseConv2d(channels, out, 1, stride, **circular)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(3))

    def forward(self, x, shared=True):
        phase = self.first.phase(x)
        y = self.norms[0](self.first(x, phase)).relu()
        short = phase if shared else torch.zeros_like(phase)
        return (self.norms[1](self.second(y)) + self.norms[2](self.short(x, short))).relu()


class Net(nn.Module):
    """As ResNet-18 is made, narrow: stem, pool, four stages, scores."""

    def __init__(self, shared=True):
        super().__init__()
        torch.manual_seed(0)
        self.shared = shared
        self.stem = sc.nn.PolyphaseConv2d(3, 8, 7, 2, 3, padding_mode="circular")
        self.pool = sc.nn.PolyphasePool2d(2, 3)
        widths = (8, 8, 16, 16, 32)
        self.blocks = nn.ModuleList(
            Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(self.stem(x).relu())
        for block in self.blocks:
            x = block(x, self.shared)
        return self.head(x.mean((2, 3)))


def pictures():
    astronaut = torch.from_numpy(data.astronaut()[100:164, 200:264].copy()).movedim(-1, 0) / 255
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(3, 64, 64)
    checker = (torch.arange(64)[:, None] + torch.arange(64)).float().remainder(2).expand(3, 64, 64)
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    return torch.stack([astronaut, noise, stripes, torch.ones(3, 64, 64), checker])


SHIFTS = [(1, 0), (0, 1), (1, 1), (3, 5), (-7, 2), (16, 31), (32, 9), (-1, -30)]


def change(net, x):
    with torch.no_grad():
        y = net(x)
        return max(float((net(x.roll(t, (2, 3))) - y).abs().max() / y.abs().max()) for t in SHIFTS)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_scores_of_a_network_do_not_change(dtype, bar):
    assert change(Net().to(dtype).eval(), pictures().to(dtype)) <= bar


def test_branches_on_their_own_grids_are_found_out():
    assert change(Net(shared=False).double().eval(), pictures()[:2].double()) > 1e-3


LAYERS = {
    "pool": lambda: sc.nn.PolyphasePool2d(2),
    "mean pool": lambda: sc.nn.PolyphasePool2d((2, 1), 3, "mean"),
    "conv": lambda: sc.nn.PolyphaseConv2d(2, 4, 3, 2, 1, padding_mode="circular"),
    "conv, zeros": lambda: sc.nn.PolyphaseConv2d(2, 4, 3, 2, 1),
    "there and back": lambda: Back(),
}


class Back(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.up = sc.nn.PolyphasePool2d(2), sc.nn.PolyphaseUpsample2d(2, "linear")

    def forward(self, x):
        phase = self.pool.phase(x)
        return self.up(self.pool(x, phase), phase)


every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@every_layer
def test_compiles_exports_and_copies(make):
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, 2, 8, 6)
    wanted = layer(x)
    torch._dynamo.reset()
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x), wanted)
    shapes = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (x,), dynamic_shapes=(shapes,))
    other = torch.randn(5, 2, 8, 6)
    torch.testing.assert_close(program.module()(other), layer(other))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), wanted)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_equals_eager(tmp_path):
    layer, x = Back().eval(), torch.randn(3, 2, 8, 6)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(layer, (x,), dynamo=True, dynamic_shapes=shapes)
    assert program is not None
    other = torch.randn(5, 2, 8, 6)
    torch.testing.assert_close(program(other)[0], layer(other))


@every_layer
def test_types_layouts_and_empty_batches(make):
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, 2, 8, 6)
    wanted = layer(x)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), wanted, rtol=0.05, atol=0.05)
    for dtype in (torch.bfloat16, torch.float16):
        layer.to(dtype)(x.to(dtype))
    layer.float()
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])


@every_layer
def test_derivatives(make):
    layer = make().double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


def test_reprs_give_the_layers_back():
    for text in (
        "PolyphasePool3d((1, 2, 2), kernel_size=(1, 3, 3), reduce='mean', padding_mode='zeros')",
        "PolyphaseUpsample2d(2, mode='linear')",
        "BlurPool2d(kernel_size=5, stride=(2, 1), padding_mode='circular')",
        "PolyphaseConv2d(2, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), "
        "padding_mode=circular)",
    ):
        names = vars(sc.nn) | {"circular": "circular"}  # torch's own repr leaves the quotes out
        assert repr(eval(text, names)) == text


def test_bad_input():
    x = torch.zeros(1, 2, 7, 8)
    with pytest.raises(sc.StructureError, match=r"multiples of the stride \(2, 2\), got \(7, 8\)"):
        sc.nn.PolyphasePool2d(2)(x)
    with pytest.raises(sc.StructureError, match="multiples of the stride"):
        sc.nn.PolyphasePool2d(2)(x, torch.zeros(1, 2).long())
    with pytest.raises(sc.StructureError, match="multiples of the stride"):
        sc.nn.PolyphaseConv2d(2, 3, 3, 2, 1, padding_mode="circular")(x)
    with pytest.raises(sc.StructureError, match="padding that keeps"):
        sc.nn.PolyphaseConv2d(2, 3, 3, 2, padding_mode="circular")
    with pytest.raises(sc.StructureError, match="reduce"):
        sc.nn.PolyphasePool2d(2, reduce="min")
    with pytest.raises(sc.StructureError, match=r"\(N, C, H, W\)"):
        sc.nn.PolyphasePool2d(2)(x[0])
    with pytest.raises(sc.StructureError, match="whole offsets"):
        sc.nn.PolyphaseUpsample2d(2)(x, torch.zeros(1, 3).long())
    with pytest.raises(sc.StructureError, match="at least"):
        sc.nn.PolyphasePool2d(2, 7)(torch.zeros(1, 1, 2, 2))
