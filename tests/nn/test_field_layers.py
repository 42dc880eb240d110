"""Layers on fields: against their definitions, torch's own layers, and broken twins."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import symconv as sc
from symconv.nn import OffCentreWarning

C4, D4, B1 = (sc.groups.parse(name) for name in ("C4", "D4", "mirror"))
D2, B3 = sc.groups.parse("D2"), sc.groups.parse("B3")
PLAIN = D4.trivial(2) + D4.regular(2) + D4.quotient("C4", 3)
MIXED = D4.trivial(1) + D4.vector(2) + D4.regular(1) + D4.sign(3)
FIELDS = [B1.regular(3) + B1.sign(2), PLAIN, MIXED, D4.vector(3), B3.regular(1) + B3.vector(1)]


def draw(field, size=None, batch=2, integers=True, dtype=torch.float64, seed=0):
    size = size or (5, 4, 3)[: field.group.dimension]
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, field.channels, *size)
    if integers:
        return torch.randint(-6, 7, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=dtype)


def shake(layer):
    """Random parameters and statistics, so that no default hides an error."""
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + (0.5 if "var" in name else -0.3))
    return layer


def errors(layer, x, in_field, out_field):
    """Largest change of the layer's output against the moved one, for each element."""
    y = layer(x).detach()
    return [
        float((sc.act(g, y, out_field) - layer(sc.act(g, x, in_field)).detach()).abs().max())
        for g in in_field.group.elements
    ]


def components(x, field):
    """The copies of x (N, C, *S) as arrays (N, size, *S) with their signedness, one by one."""
    start = 0
    for representation, copies in field.parts:
        for _ in range(copies):
            yield x[:, start : start + representation.size].numpy(), representation.signed
            start += representation.size


def states(layer):
    return list(layer.state_dict().values())


def names(field):
    return str(field)


# Equivariance of each layer


POINTWISE = [
    lambda f: sc.nn.FieldBatchNorm(f).double().eval(),
    lambda f: sc.nn.FieldNormReLU(f).double(),
    lambda f: sc.nn.GroupPool(f),
    lambda f: sc.nn.GroupPool(f, reduce="mean"),
]


@pytest.mark.parametrize("field", FIELDS, ids=names)
@pytest.mark.parametrize("build", POINTWISE)
def test_pointwise_layers_commute_exactly(build, field):
    layer = shake(build(field))
    out_field = getattr(layer, "out_field", field)
    assert max(errors(layer, draw(field), field, out_field)) == 0


@pytest.mark.parametrize("field", FIELDS, ids=names)
@pytest.mark.parametrize("over", ["batch", "position", "sample"])
def test_norms_by_their_own_statistics_commute(field, over):
    kind = (
        sc.nn.FieldBatchNorm(field) if over == "batch" else sc.nn.FieldLayerNorm(field, over=over)
    )
    layer = shake(kind.double())
    assert max(errors(layer, draw(field), field, field)) < 1e-13


def test_gates_commute_exactly():
    layer = sc.nn.FieldGated(MIXED)
    assert layer.in_field == MIXED + D4.trivial(5)
    x = draw(layer.in_field)
    assert max(errors(layer, x, layer.in_field, layer.out_field)) == 0
    assert torch.equal(layer(x)[:, 1:3], x[:, 1:3] * x[:, MIXED.channels, None].sigmoid())


def test_broken_twins_fail():
    x = draw(PLAIN)
    norm = shake(nn.BatchNorm2d(PLAIN.channels).double())
    assert max(errors(norm, x, PLAIN, PLAIN)) > 0.1
    assert max(errors(nn.ReLU(), draw(MIXED), MIXED, MIXED)) > 0.1
    assert max(errors(nn.LayerNorm(4).double(), draw(PLAIN, (4, 4)), PLAIN, PLAIN)) > 0.1
    arrows = D4.vector(4) + D4.sign(1)  # taken for permutations, their mean is subtracted
    norm = sc.nn.FieldBatchNorm(D4.regular(1) + D4.trivial(1)).double()
    assert max(errors(norm, draw(arrows) + 3, arrows, arrows)) > 0.1
    pool = sc.nn.GroupPool(C4.trivial(8))
    assert max(errors(pool, draw(C4.regular(2)), C4.regular(2), C4.trivial(8))) > 0.1


# Batch norm


def by_definition(x, field, eps=1e-5):
    """The copies normalised with numpy, one by one, with their means and variances."""
    rows, means, variances = [], [], []
    for each, signed in components(x, field):
        mean = 0.0 if signed else each.mean()
        variance = ((each - mean) ** 2).mean()
        rows.append((each - mean) / np.sqrt(variance + eps))
        if not signed:
            means.append(mean)
        variances.append(variance * (1 if signed else each.size / (each.size - 1)))
    return torch.from_numpy(np.concatenate(rows, 1)), torch.tensor(means), torch.tensor(variances)


@pytest.mark.parametrize("field", FIELDS, ids=names)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_its_definition(field, momentum):
    layer = sc.nn.FieldBatchNorm(field, momentum=momentum).double()
    for seed in range(3):
        x = draw(field, integers=False, seed=seed)
        y, mean, variance = by_definition(x, field)
        before = copy.deepcopy(layer)
        torch.testing.assert_close(layer(x), y)
        step = momentum or 1 / (seed + 1)
        torch.testing.assert_close(layer.running_var, before.running_var.lerp(variance, step))
        if layer.running_mean is not None and len(mean):
            torch.testing.assert_close(layer.running_mean, before.running_mean.lerp(mean, step))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False])
def test_on_trivial_fields_it_is_torch_s_batch_norm(n, momentum, track):
    arguments = dict(momentum=momentum, track_running_stats=track, dtype=torch.float64)
    field = sc.groups.hyperoctahedral(n).trivial(5)
    ours = sc.nn.FieldBatchNorm(field, **arguments)
    torchs = getattr(nn, f"BatchNorm{n}d")(5, **arguments)
    torchs.load_state_dict(shake(ours).state_dict())
    for _ in range(2):
        x = draw(field, integers=False).requires_grad_()
        z = x.detach().clone().requires_grad_()
        ours(x).square().sum().backward()
        torchs(z).square().sum().backward()
        torch.testing.assert_close(x.grad, z.grad)
        for mine, theirs in zip(states(ours), states(torchs), strict=True):
            torch.testing.assert_close(mine, theirs)
    ours.eval(), torchs.eval()
    torch.testing.assert_close(ours(x), torchs(x))


@pytest.mark.parametrize("field", [PLAIN, MIXED], ids=names)
def test_batch_norm_gradients(field):
    layer = shake(sc.nn.FieldBatchNorm(field, track_running_stats=False).double())
    x = draw(field, (2, 2), integers=False).requires_grad_()

    def of(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    values = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(of, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(of, values, fast_mode=True)


@pytest.mark.parametrize("over", ["position", "sample"])
def test_layer_norm_gradients(over):
    layer = shake(sc.nn.FieldLayerNorm(MIXED, over=over).double())
    x = draw(MIXED, (2, 2), integers=False).requires_grad_()
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("field", [PLAIN, MIXED], ids=names)
def test_half_precision_is_summed_in_float32(field):
    x = draw(field, (64, 64), integers=False).add(3)
    layer = sc.nn.FieldBatchNorm(field)
    y = layer(x.bfloat16())
    reference = sc.nn.FieldBatchNorm(field).double()
    torch.testing.assert_close(y.double(), reference(x.bfloat16().double()), atol=0.02, rtol=0.01)
    torch.testing.assert_close(layer.running_var.double(), reference.running_var, atol=0, rtol=1e-5)
    assert y.dtype == torch.bfloat16
    assert sc.nn.FieldBatchNorm(field).bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("field", [PLAIN, MIXED], ids=names)
def test_an_empty_batch_leaves_the_statistics(field):
    layer = shake(sc.nn.FieldBatchNorm(field))
    before = copy.deepcopy(layer)
    assert layer(torch.zeros(0, field.channels, 4, 4)).shape[0] == 0
    torch.testing.assert_close(layer.running_var, before.running_var)
    for other in (sc.nn.FieldLayerNorm(field), sc.nn.FieldNormReLU(field), sc.nn.GroupPool(field)):
        assert other(torch.zeros(0, field.channels, 4, 4)).shape[0] == 0


# Layer norm


def test_layer_norm_is_torch_s_on_trivial_fields():
    field = D4.trivial(6)
    x = draw(field, integers=False)
    for over in ("position", "sample"):
        layer = shake(sc.nn.FieldLayerNorm(field, over=over).double())
        if over == "sample":
            wanted = F.group_norm(x, 1, layer.weight, layer.bias)
        else:
            wanted = F.layer_norm(x.movedim(1, -1), (6,), layer.weight, layer.bias).movedim(-1, 1)
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("over", ["position", "sample"])
def test_layer_norm_is_its_definition(over):
    x = draw(MIXED, integers=False)
    y = sc.nn.FieldLayerNorm(MIXED, over=over).double()(x)
    signed = torch.tensor((MIXED.signs < 0).any(0))
    axes = 1 if over == "position" else (1, 2, 3)
    plain, arrows = x[:, ~signed], x[:, signed]
    var, mean = torch.var_mean(plain, axes, correction=0, keepdim=True)
    torch.testing.assert_close(y[:, ~signed], (plain - mean) / (var + 1e-5).sqrt())
    power = arrows.square().mean(axes, keepdim=True)
    torch.testing.assert_close(y[:, signed], arrows / (power + 1e-5).sqrt())


# Group pool, activations, dropout


def test_group_pool_is_its_definition():
    x = draw(MIXED)
    pool = sc.nn.GroupPool(MIXED)
    assert pool.out_field == D4.trivial(MIXED.copies)
    for row, (each, signed) in zip(pool(x).unbind(1), components(x, MIXED), strict=True):
        wanted = np.sqrt((each**2).sum(1)) if signed else each.max(1)
        np.testing.assert_array_equal(row.numpy(), wanted)


def test_ties_share_the_gradient_of_the_maximum():
    x = torch.ones(1, 4, 2, 2, requires_grad=True)
    sc.nn.GroupPool(C4.regular(1))(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.25))


def test_lengths_have_no_infinite_gradient():
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    field = C4.vector(1)
    layer = nn.init.constant_(sc.nn.FieldNormReLU(field).bias, 0.5)
    norm = sc.nn.FieldNormReLU(field)
    norm.bias = layer
    (norm(x).sum() + sc.nn.GroupPool(field)(x).sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_norm_relu_is_its_definition():
    layer = shake(sc.nn.FieldNormReLU(MIXED).double())
    x, biases = draw(MIXED), iter(layer.bias.tolist())
    y = layer(x)
    for got, (each, signed) in zip(
        components(y.detach(), MIXED), components(x, MIXED), strict=True
    ):
        length = np.sqrt((each**2).sum(1, keepdims=True))
        if signed:
            ratio = np.maximum(length + next(biases), 0) / np.where(length > 0, length, 1)
            np.testing.assert_allclose(got[0], each * ratio, atol=1e-14)
        else:
            np.testing.assert_array_equal(got[0], each.clip(0))


@pytest.mark.parametrize("spatial", [False, True])
def test_dropout_drops_whole_copies(spatial):
    torch.manual_seed(0)
    layer = sc.nn.FieldDropout(MIXED, 0.4, spatial=spatial)
    y = layer(torch.ones(200, MIXED.channels, 3, 3))
    for each, _ in components(y, MIXED):
        assert (each == each[:, :1]).all()
        assert (each == each[..., :1, :1]).all() == spatial
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.6))}
    assert abs(float((y == 0).double().mean()) - 0.4) < 0.05
    x = torch.ones(1, MIXED.channels, 2)
    assert layer.eval()(x) is x


# Pools and upsampling


POOLS = {
    n: (getattr(sc.nn, f"FieldMaxPool{n}d"), getattr(sc.nn, f"FieldAvgPool{n}d")) for n in (1, 2, 3)
}
GROUPS = {n: sc.groups.hyperoctahedral(n) for n in (1, 2, 3)}
SIZES = {1: [(8,), (9,)], 2: [(8, 8), (9, 9), (8, 6), (7, 10)], 3: [(4, 4, 4), (5, 4, 3)]}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "window", [(2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 3, 0), (4, 3, 1), (1, 3, 0)]
)
@pytest.mark.parametrize("kind", [0, 1], ids=["max", "mean"])
def test_pools_are_torch_s_where_centred_and_aligned_elsewhere(n, window, kind):
    field = GROUPS[n].regular(1)
    k, s, p = window
    torchs = getattr(F, ("max_pool", "avg_pool")[kind] + f"{n}d")
    for size in SIZES[n]:
        if min(size) < k:
            continue
        x = draw(field, size, batch=1)
        centred = all((length + 2 * p - k) % s == 0 for length in size)
        aligned, loose = (POOLS[n][kind](field, k, s, p, align=align) for align in (True, False))
        assert max(errors(aligned, x, field, field)) == 0
        assert torch.isfinite(aligned(x)).all()
        if centred:
            assert torch.equal(loose(x), torchs(x, k, s, p))
            assert torch.equal(aligned(x), loose(x))
        else:
            with pytest.warns(OffCentreWarning, match=r"size .* would be exact"):
                y = loose(x)
            assert torch.equal(y, torchs(x, k, s, p))
            assert max(errors(loose, x, field, field)) > 0.5  # and it warns but once


def test_the_warning_names_sizes_that_are_exact():
    pool = sc.nn.FieldMaxPool2d(C4.regular(1), 2)
    with pytest.warns(OffCentreWarning, match=r"\(34, 34\) or \(32, 32\)"):
        pool(torch.zeros(1, 4, 33, 33))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool(torch.zeros(1, 4, 31, 31))  # warned already
        sc.nn.FieldMaxPool2d(C4.regular(1), 2)(torch.zeros(1, 4, 32, 32))
        flip = sc.groups.flip(2, 1)  # an axis that no element reverses may be off-centre
        sc.nn.FieldMaxPool2d(flip.regular(1), 2)(torch.zeros(1, 2, 33, 32))


@pytest.mark.parametrize("include", [True, False])
def test_aligned_means_are_over_what_exists(include):
    field = B1.trivial(1)
    pool = sc.nn.FieldAvgPool1d(field, 4, 3, 1, count_include_pad=include, align=True)
    x = torch.arange(1.0, 7.0)[None, None]  # 6 + 2 - 4 is one short of a multiple of 3
    y = pool(x)
    assert y.shape == (1, 1, 3)
    torch.testing.assert_close(y, 7 - y.flip(-1)) if not include else None
    ones = sc.nn.FieldAvgPool1d(field, 4, 3, count_include_pad=include, align=True)
    torch.testing.assert_close(ones(torch.ones(1, 1, 8)), torch.ones(1, 1, 3))


def test_average_pools_take_signed_fields_and_keep_gradients():
    field = MIXED
    pool = sc.nn.FieldAvgPool2d(field, 2, align=True)
    assert max(errors(pool, draw(field, (5, 7)), field, field)) < 1e-13
    x = draw(field, (3, 5), integers=False).requires_grad_()
    assert torch.autograd.gradcheck(pool, x, fast_mode=True)
    maximum = sc.nn.FieldMaxPool2d(PLAIN, 2, align=True)
    assert torch.autograd.gradcheck(maximum, draw(PLAIN, (3, 4), integers=False).requires_grad_())


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2, 3])
def test_upsampling_is_centred(n, mode, factor):
    field = GROUPS[n].regular(1) + GROUPS[n].vector(1)
    layer = sc.nn.FieldUpsample(field, factor, mode)
    exact = mode == "nearest" or factor == 2
    for size in SIZES[n]:
        error = max(errors(layer, draw(field, size, batch=1), field, field))
        assert error == 0 if exact else error < 1e-13
        assert layer(draw(field, size)).shape[2:] == tuple(factor * s for s in size)
    corner = draw(field, SIZES[n][0])
    wanted = corner
    for axis in range(2, 2 + n):
        wanted = wanted.repeat_interleave(factor, axis)
    if mode == "nearest":
        assert torch.equal(layer(corner), wanted)


def test_off_centre_upsampling_fails():
    field = C4.trivial(1)
    loose = nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((0, 1, 0, 1)))
    assert max(errors(loose, draw(field), field, field)) > 0.5


# What every layer can do


EVERY = [
    sc.nn.FieldBatchNorm(PLAIN),
    sc.nn.FieldBatchNorm(MIXED, momentum=None, eps=1e-3),
    sc.nn.FieldBatchNorm(D4.vector(3), affine=False),
    sc.nn.FieldLayerNorm(PLAIN),
    sc.nn.FieldLayerNorm(MIXED, over="sample", affine=False),
    sc.nn.GroupPool(MIXED),
    sc.nn.GroupPool(PLAIN, reduce="mean"),
    sc.nn.FieldDropout(MIXED, 0.3, spatial=True),
    sc.nn.FieldNormReLU(MIXED),
    sc.nn.FieldNormReLU(D4.vector(3), bias=False),
    sc.nn.FieldGated(MIXED),
    sc.nn.FieldMaxPool2d(PLAIN, 3, stride=2, padding=1, align=True),
    sc.nn.FieldMaxPool2d(PLAIN, 2),
    sc.nn.FieldAvgPool2d(MIXED, 3, stride=2, align=True),
    sc.nn.FieldAvgPool2d(D2.vector(2), (2, 3), count_include_pad=False),
    sc.nn.FieldUpsample(MIXED, 2, mode="linear"),
    sc.nn.FieldUpsample(D2.vector(2), (2, 3)),
]


def input_of(layer, dtype=torch.float32):
    field = getattr(layer, "in_field", getattr(layer, "field", None))
    return draw(field, (6, 6), batch=3, integers=False, dtype=dtype)


@pytest.mark.parametrize("layer", EVERY, ids=repr)
def test_copies_pickles_and_repr_give_the_layer_back(layer):
    layer = copy.deepcopy(layer)
    space = {"C4": C4, "D4": D4, "D2": D2, **vars(sc.nn)}
    twin = eval(repr(layer), space)
    assert repr(twin) == repr(layer)
    twin.load_state_dict(shake(layer).state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    copies.append(torch.load(file, weights_only=False))
    x = input_of(layer)
    for mode in (True, False):
        outs = []
        for each in (layer, *copies):
            torch.manual_seed(0)
            outs.append(each.train(mode)(x))
        assert all(torch.equal(out, outs[0]) for out in outs)
    keys = list(layer.state_dict())
    assert keys == list(layer.train().state_dict()) == list(layer.eval().state_dict())


@pytest.mark.parametrize("layer", EVERY, ids=repr)
@pytest.mark.parametrize("train", [True, False])
def test_compiles_as_one_graph(layer, train):
    if train and not isinstance(layer, sc.nn.FieldBatchNorm):
        return  # in training the others do the same, and dropout's mask is random
    layer = copy.deepcopy(layer).train(train)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = input_of(layer)
    torch.testing.assert_close(compiled(x), layer(x))
    for mine, theirs in zip(states(layer), states(compiled), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("layer", EVERY, ids=repr)
def test_autocast_channels_last_and_devices(layer):
    layer = copy.deepcopy(layer).eval()
    x = input_of(layer)
    y = layer(x)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), y)
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(x.bfloat16())
    torch.testing.assert_close(z.float(), y, atol=0.1, rtol=0.05)
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer.to("meta")(x.to("meta")).shape == y.shape


def test_autocast_of_signed_layer_norms_does_not_warn():
    layer = sc.nn.FieldLayerNorm(MIXED)
    x = input_of(layer).bfloat16()
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        assert layer(x).dtype == torch.float32  # as torch's layer norm under autocast


@pytest.mark.parametrize("layer", EVERY, ids=repr)
def test_plain_layers_are_equal(layer):
    layer = shake(copy.deepcopy(layer).double()).eval()
    x = input_of(layer, torch.float64)
    if getattr(layer, "align", False):
        with pytest.raises(sc.StructureError, match="align"):
            layer.to_plain()
        return
    plain = layer.to_plain().eval()
    assert not any(type(m).__module__.startswith("symconv") for m in plain.modules())
    torch.testing.assert_close(plain(x), layer(x), atol=1e-12, rtol=1e-12)


# Bad input


BAD = {
    "no field": (lambda: sc.nn.FieldBatchNorm(8), "a field"),
    "no channels": (lambda: sc.nn.FieldBatchNorm(C4.regular(0)), "a field with channels"),
    "reduce": (lambda: sc.nn.GroupPool(PLAIN, "sum"), "reduce"),
    "over": (lambda: sc.nn.FieldLayerNorm(PLAIN, over="channel"), "over"),
    "p": (lambda: sc.nn.FieldDropout(PLAIN, 1.5), "probability"),
    "nothing to gate": (lambda: sc.nn.FieldGated(PLAIN), "use nn.ReLU"),
    "signed maximum": (lambda: sc.nn.FieldMaxPool2d(MIXED, 2), "average pool"),
    "dimension": (lambda: sc.nn.FieldMaxPool3d(PLAIN, 2), "3 axes"),
    "oblong window": (lambda: sc.nn.FieldMaxPool2d(PLAIN, (2, 3)), "exchanges"),
    "oblong stride": (lambda: sc.nn.FieldAvgPool2d(PLAIN, 2, (1, 2)), "exchanges"),
    "padding": (lambda: sc.nn.FieldAvgPool2d(PLAIN, 2, 2, 2), "half the kernel_size"),
    "oblong factor": (lambda: sc.nn.FieldUpsample(PLAIN, (2, 3)), "exchanges"),
    "factor": (lambda: sc.nn.FieldUpsample(PLAIN, 1.5), "scale_factor"),
    "mode": (lambda: sc.nn.FieldUpsample(PLAIN, 2, "cubic"), "mode"),
    "one value": (lambda: sc.nn.FieldBatchNorm(C4.trivial(2))(torch.zeros(1, 2)), "more than one"),
    "no plain equal": (
        lambda: sc.nn.FieldBatchNorm(PLAIN, track_running_stats=False).to_plain(),
        "track_running_stats",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_was_wanted(name):
    build, message = BAD[name]
    with pytest.raises(sc.StructureError, match=message):
        build()


@pytest.mark.parametrize("layer", EVERY, ids=repr)
def test_other_channels_are_refused(layer):
    with pytest.raises(sc.StructureError, match=r"channels|field"):
        layer(torch.zeros(1, 7, 4, 4))
