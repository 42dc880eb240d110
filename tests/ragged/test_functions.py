"""Each function on a ragged batch equals itself on each item alone, whatever the padding holds."""

import pytest
import torch
import torch.nn.functional as F

import symconv as sc
from ragged.alone import assert_alone, items_of, poisoned, tensors

SIZES = {
    1: [(9,), (17,), (5,), (9,), (40,)],
    2: [(9, 7), (12, 12), (5, 14), (9, 7), (30, 8)],
    3: [(5, 6, 7), (8, 4, 5), (5, 5, 5), (9, 9, 4)],
}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_MEAN = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


@pytest.fixture(params=[1, 2, 3], name="n")
def dimension(request):
    return request.param


def batch(n=2, grad=True, **options):
    return items_of(SIZES[n], grad=grad, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"padding": 3, "stride": 3},
        {"padding": "same"},
        {"padding": "valid"},
        {"dilation": 2, "padding": 2},
        {"groups": 2, "padding": 1},
    ],
    ids=str,
)
def test_convolution(n, options):
    weight = tensors(4, 6 // options.get("groups", 1), *[3] * n)
    bias = tensors(4)
    assert_alone(lambda x: CONV[n](x, weight, bias, **options), batch(n), parameters=[weight, bias])


def test_convolution_with_positional_arguments_and_even_kernels(n):
    weight = tensors(4, 3, *[2] * n)
    assert_alone(lambda x: CONV[n](x, weight, None, 2, 1, 1, 2), batch(n), parameters=[weight])
    assert_alone(lambda x: CONV[n](x, weight, None, 1, "same", 1, 2), batch(n), parameters=[weight])


def test_pointwise_convolution_keeps_what_the_padding_holds(n):
    weight, bias, wide = tensors(6, 6, *[1] * n), tensors(6), tensors(6, 6, *[3] * n)

    def network(x):
        x = CONV[n](CONV[n](x, weight, stride=2), weight, bias)
        return CONV[n](F.relu(x), wide, padding=1)

    assert_alone(network, batch(n), parameters=[weight, bias, wide])
    assert_alone(lambda x: CONV[n](x, weight, bias, 1, 1), batch(n), parameters=[weight, bias])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2},
        {"groups": 2},
    ],
    ids=str,
)
def test_transposed_convolution(n, options):
    weight, bias = tensors(6, 4, *[3] * n), tensors(4 * options.get("groups", 1))
    assert_alone(
        lambda x: TRANSPOSED[n](x, weight, bias, **options), batch(n), parameters=[weight, bias]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (3,),
        (2, 2),
        (3, 2, 1),
        (2, 1, 0, 2),
        (3, 2, 1, 1, True),
        (3, 3, 0, 1, True),
        (2, 3, 1, 2, True),
    ],
    ids=str,
)
def test_max_pool(n, arguments):
    names = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
    assert_alone(lambda x: MAX[n](x, *arguments), batch(n))
    assert_alone(lambda x: MAX[n](x, **dict(zip(names, arguments, strict=False))), batch(n))


@pytest.mark.parametrize(
    "arguments",
    [
        (3,),
        (2, 2),
        (3, 2, 1),
        (3, 2, 1, True),
        (3, 2, 1, False, False),
        (3, 2, 1, True, False),
        (2, 3, 1, True, True),
        (3, 3, 0, True),
    ],
    ids=str,
)
def test_mean_pool(n, arguments):
    names = ["kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"]
    assert_alone(lambda x: MEAN[n](x, *arguments), batch(n))
    assert_alone(lambda x: MEAN[n](x, **dict(zip(names, arguments, strict=False))), batch(n))
    if n > 1:
        assert_alone(lambda x: MEAN[n](x, *arguments[:1], divisor_override=5), batch(n))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_adaptive_pools(n, size):
    assert_alone(lambda x: ADAPTIVE_MEAN[n](x, size), batch(n))
    assert_alone(lambda x: ADAPTIVE_MAX[n](x, size), batch(n))
    assert_alone(lambda x: ADAPTIVE_MEAN[n](x, (size,) * n), batch(n))


def test_adaptive_pools_of_other_sizes_per_axis():
    assert_alone(lambda x: F.adaptive_avg_pool2d(x, (2, 5)), batch())
    assert_alone(lambda x: F.adaptive_max_pool2d(x, (4, 1)), batch())


def test_norms_of_each_item(n):
    weight, bias = tensors(6), tensors(6)
    given = [weight, bias]
    assert_alone(lambda x: F.group_norm(x, 3, weight, bias), batch(n), parameters=given)
    assert_alone(lambda x: F.instance_norm(x, weight=weight, bias=bias), batch(n), parameters=given)
    assert_alone(lambda x: F.instance_norm(x), batch(n))
    mean, var = tensors(6).detach(), tensors(6).detach().abs()
    assert_alone(lambda x: F.batch_norm(x, mean, var, weight, bias), batch(n), parameters=given)

    def last(x):  # as ConvNeXt's
        return F.layer_norm(x.movedim(1, -1), (6,), weight, bias).movedim(-1, 1)

    assert_alone(last, batch(n), parameters=given)
    assert_alone(
        lambda x: F.rms_norm(x.movedim(1, -1), (6,), weight), batch(n), parameters=[weight]
    )
    assert_alone(lambda x: F.layer_norm(x, x.shape[1:]), batch(n))
    assert_alone(lambda x: F.rms_norm(x, x.shape[1:]), batch(n))
    assert_alone(lambda x: F.local_response_norm(x, 3), batch(n))
    assert_alone(lambda x: F.normalize(x), batch(n))


POINTWISE = {
    "relu": F.relu, "relu6": F.relu6, "gelu": F.gelu, "silu": F.silu, "mish": F.mish,
    "hardswish": F.hardswish, "leaky": lambda x: F.leaky_relu(x, 0.1), "elu": F.elu,
    "sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid, "softplus": F.softplus,
    "tanh": lambda x: x.tanh(), "exp": torch.exp, "abs": abs, "neg": lambda x: -x,
    "log": lambda x: (x.abs() + 0.5).log(), "sqrt": lambda x: (x * x).sqrt(),
    "rsqrt": lambda x: (x * x + 0.1).rsqrt(), "clamp": lambda x: x.clamp(min=0.2),
    "power": lambda x: x**3, "reciprocal": lambda x: 1 / (2 + x.abs()),
    "affine": lambda x: 2 * x + 1,
    "minus": lambda x: 1 - x, "divided": lambda x: x / 3, "swish": lambda x: x * torch.sigmoid(x),
    "own sum": lambda x: x + x.relu(), "own quotient": lambda x: x / (x.abs() + 1),
    "larger": lambda x: torch.maximum(x, -x), "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "filled": lambda x: x.masked_fill(x > 0.5, 0.5), "double": lambda x: x.double(),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0), "hardtanh": lambda x: F.hardtanh(x, 0.1, 2.0),
    "glu": lambda x: F.glu(x, 1), "softmax": lambda x: x.softmax(1), "log_softmax": F.log_softmax,
    "clone": lambda x: x.clone(), "dropout": lambda x: F.dropout(x, 0.5, training=False),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions_before_and_after_convolutions(name):
    weight = tensors(6, 6, 3, 3)
    function = POINTWISE[name]
    if name == "log_softmax":
        function = lambda x: F.log_softmax(x, dim=1)  # noqa: E731
    assert_alone(lambda x: function(x), batch())
    if name == "glu":
        return

    def network(x):
        return F.conv2d(function(F.conv2d(x, weight, padding=1)), weight, padding=1)

    assert_alone(network, batch(), parameters=[weight])


def test_prelu_and_gates():
    slope, gate = tensors(6), tensors(6, 1, 1)
    assert_alone(lambda x: F.prelu(x, slope), batch(), parameters=[slope])
    assert_alone(lambda x: x * gate + gate, batch(), parameters=[gate])
    weight = tensors(6, 6, 1, 1)

    def squeeze_and_excite(x):
        return x * F.conv2d(F.adaptive_avg_pool2d(x, 1), weight).sigmoid()

    assert_alone(squeeze_and_excite, batch(), parameters=[weight])
    assert_alone(lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x, batch())
    assert_alone(lambda x: x * x.mean(1, keepdim=True).sigmoid(), batch())
    assert_alone(lambda x: x * x.mean(3, keepdim=True) + x.amax(2, keepdim=True), batch())


def test_reductions():
    for name in ("mean", "sum", "amax", "amin"):
        for axes in ((2, 3), (-1, -2), (1,), (2,), (1, 2, 3)):
            for keep in (False, True):
                assert_alone(lambda x, a=axes, k=keep, f=name: getattr(x, f)(a, k), batch())
    for function in (torch.var, torch.std):
        assert_alone(lambda x, f=function: f(x, (2, 3)), batch())
        assert_alone(lambda x, f=function: f(x, dim=(2, 3), unbiased=False, keepdim=True), batch())
        assert_alone(lambda x, f=function: f(x, dim=1), batch())
    assert_alone(lambda x: x.logsumexp((2, 3)), batch())
    assert_alone(lambda x: x.norm(dim=(2, 3)), batch())
    assert_alone(lambda x: x.flatten(2).max(2)[0], batch())
    assert_alone(lambda x: x.max(1).values, batch())
    assert_alone(lambda x: x.argmax(1), batch(grad=False))
    x = sc.Ragged(batch(grad=False))
    together = torch.cat([item.flatten() for item in x])
    assert torch.allclose(poisoned(x).mean(), together.mean())
    assert torch.allclose(poisoned(x).sum(), together.sum())
    assert poisoned(x).max() == together.max()
    assert poisoned(x).min() == together.min()
    assert x.numel() == together.numel()


def test_shapes():
    def shuffled(x):  # as ShuffleNet's
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)

    assert_alone(shuffled, batch())
    assert_alone(lambda x: torch.cat([part.relu() for part in x.chunk(3, 1)], 1), batch())
    assert_alone(lambda x: x.split([2, 4], dim=1)[1], batch())
    assert_alone(lambda x: torch.stack(x.split(3, 1), 1).sum(1), batch())
    assert_alone(lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), batch())
    assert_alone(lambda x: x.flatten(2), batch())
    assert_alone(lambda x: x.flatten(2).transpose(1, 2), batch())
    assert_alone(lambda x: x.flatten(2).transpose(1, 2).mean(1), batch())
    assert_alone(lambda x: x.view(*x.shape[:2], -1), batch())
    assert_alone(lambda x: x.reshape(x.size(0), x.size(1), x.size(2) * x.size(3)), batch())
    assert_alone(lambda x: (2 * x.flatten(2)).view(*x.shape), batch())
    assert_alone(lambda x: F.relu(x.unflatten(1, (2, 3))).flatten(1, 2), batch())
    assert_alone(lambda x: x.unsqueeze(1).squeeze(1), batch())
    assert_alone(lambda x: x.transpose(2, 3), batch())
    assert_alone(lambda x: F.max_pool2d(x.transpose(2, 3), 2), batch())
    assert_alone(lambda x: x.mean(3), batch())
    assert_alone(lambda x: F.conv1d(x.mean(3), torch.ones(2, 6, 3, dtype=x.dtype)), batch())
    assert_alone(lambda x: x.mean((2, 3)).flatten(1), batch())
    assert_alone(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), batch())
    assert_alone(lambda x: x.roll(2, 1).flip(1), batch())


def test_indexing():
    for index in (
        (slice(None), slice(1, 4)),
        (slice(None), 2),
        (..., slice(None, None, 2), slice(None, None, 2)),
        (slice(None), slice(None), slice(1, None), slice(2, None)),
        (slice(None), slice(None), slice(None, -1), slice(1, -1)),
        (slice(None), slice(None), slice(None, 3), slice(None, 100)),
        (slice(None), slice(None), 0),
        (..., 0, 1),
        (slice(None), [0, 2, 4]),
        (slice(None), None),
    ):
        assert_alone(lambda x, i=index: x[i], batch())
        assert_alone(lambda x, i=index: x[i].relu(), batch())
    items = batch(grad=False)
    x = sc.Ragged(items)
    for k, item in enumerate(items):
        assert torch.equal(x[k], item)
        assert torch.equal(x[k, 1], item[1])
    assert torch.equal(x[-1], items[-1])
    assert [len(x), len(x[1:3]), len(x[[0, 2]])] == [5, 2, 2]
    assert torch.equal(x[[4, 0]][1], items[0])
    assert torch.equal(x[torch.tensor([False, True, False, False, True])][0], items[1])
    with pytest.raises(IndexError, match="item 7"):
        x[7]


def test_joining():
    weight = tensors(6, 12, 3, 3)
    assert_alone(lambda x, y: torch.cat([x, y.relu()], 1), batch(), batch(seed=3))
    assert_alone(
        lambda x, y: F.conv2d(torch.cat((x, y + 1), dim=1), weight), batch(), batch(seed=3)
    )
    assert_alone(lambda x, y: x * y - y, batch(), batch(seed=3))
    assert_alone(lambda x, y: torch.stack([x, y], 1), batch(), batch(seed=3))
    one, two = batch(grad=False), batch(grad=False, seed=3)
    joined = torch.cat([sc.Ragged(one), sc.Ragged(two)])
    assert all(map(torch.equal, joined.unbind(), one + two))


def test_batches_packed_apart_meet():
    items, other = batch(grad=False), batch(grad=False, seed=3)
    wide = sc.Ragged(items, multiple_of=16)
    for y in (sc.Ragged(other), sc.Ragged(other, multiple_of=64)):
        for a, b, c in zip((wide + y).unbind(), items, other, strict=True):
            assert torch.equal(a, b + c)


INTERPOLATE = [
    {"scale_factor": 2},
    {"scale_factor": 0.5},
    {"scale_factor": 1.7},
    {"scale_factor": 2, "mode": "nearest-exact"},
    {"scale_factor": 2, "mode": "linear"},
    {"scale_factor": 0.6, "mode": "linear"},
    {"scale_factor": 2, "mode": "linear", "align_corners": True},
    {"scale_factor": 1.5, "mode": "linear", "recompute_scale_factor": True},
    {"scale_factor": 2, "mode": "bicubic"},
    {"size": 11},
    {"size": 11, "mode": "linear"},
]


@pytest.mark.parametrize("options", INTERPOLATE, ids=str)
def test_interpolation(n, options):
    options = dict(options)
    if options.get("mode") == "linear":
        options["mode"] = ["linear", "bilinear", "trilinear"][n - 1]
    if options.get("mode") == "bicubic" and n != 2:
        return
    assert_alone(lambda x: F.interpolate(x, **options), batch(n))


def test_interpolation_to_the_sizes_of_another():
    for mode in ("nearest", "bilinear"):

        def up(x, mode=mode):
            return F.interpolate(F.max_pool2d(x, 3, 2), size=x.shape[2:], mode=mode) + x

        assert_alone(up, batch())

    def padded(x):  # as U-Nets match their skips
        y = F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
        rows, columns = x.size(2) - y.size(2), x.size(3) - y.size(3)
        return F.pad(y, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]) + x

    assert_alone(padded, batch())


def test_padding(n):
    amounts = [1, 2, 3, 0, 0, 1][: 2 * n]
    weight = tensors(6, 6, *[3] * n)
    assert_alone(lambda x: F.pad(x, amounts), batch(n))
    assert_alone(lambda x: F.pad(x, amounts, value=2.5), batch(n))
    assert_alone(lambda x: F.pad(x, [-1, -1]), batch(n))
    for mode in ("reflect", "replicate", "circular"):
        assert_alone(lambda x, m=mode: F.pad(x, amounts, mode=m), batch(n))
        assert_alone(lambda x, m=mode: CONV[n](F.pad(x, [1, 1] * n, m), weight), batch(n))


def test_pixel_shuffles():
    items = items_of([(6, 4), (8, 8), (4, 10)], channels=8, grad=True)
    assert_alone(lambda x: F.pixel_shuffle(x, 2), items)
    assert_alone(lambda x: F.pixel_unshuffle(x, 2), items)
    assert_alone(lambda x: F.channel_shuffle(x, 4), items)


def test_attention():
    project, bias = tensors(18, 6), tensors(18)

    def by_function(x):
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        heads = F.linear(tokens, project, bias).reshape(b, h * w, 3, 2, 3).permute(2, 0, 3, 1, 4)
        q, k, v = heads[0], heads[1], heads[2]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return y.transpose(1, 2).reshape(b, c, h, w) + x

    def by_hand(x):
        tokens = x.flatten(2).transpose(1, 2)
        b, n, c = tokens.shape
        q, k, v = (
            F.linear(tokens, project, bias).reshape(b, n, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        )
        scores = (q @ k.transpose(-2, -1)) * 0.6
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return y.mean(1)

    def non_local(x):
        b, c = x.shape[:2]
        flat = x.view(b, c, -1)
        scores = F.softmax(torch.bmm(flat.permute(0, 2, 1), flat), dim=-1)
        return x + torch.matmul(flat, scores.transpose(1, 2)).view(b, c, *x.shape[2:])

    for function in (by_function, by_hand):
        assert_alone(function, batch(), parameters=[project, bias])
    assert_alone(non_local, batch())


def test_multi_head_attention_with_a_class_token():
    layer = torch.nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64)
    token = tensors(1, 1, 6)

    def network(x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([token.expand(x.shape[0], -1, -1), tokens], dim=1)
        return layer(tokens, tokens, tokens, need_weights=False)[0][:, 0]

    assert_alone(network, batch(), parameters=[token, *layer.parameters()])


def test_losses_of_cells():
    items = batch(grad=False)
    labels = [torch.randint(6, item.shape[1:]) for item in items]
    scores = torch.cat([item.flatten(1).t() for item in items])
    wanted = F.cross_entropy(scores, torch.cat([label.flatten() for label in labels]))
    ragged_labels = sc.Ragged([label[None] for label in labels])[:, 0]
    assert torch.allclose(F.cross_entropy(sc.Ragged(items), ragged_labels), wanted)
    other = batch(grad=False, seed=4)
    wanted = F.mse_loss(scores, torch.cat([item.flatten(1).t() for item in other]))
    assert torch.allclose(F.mse_loss(sc.Ragged(items), sc.Ragged(other)), wanted)


def test_functions_that_write_into_their_input():
    weight = tensors(6, 6, 3, 3)

    def residual(x):
        y = F.conv2d(F.relu(F.conv2d(x, weight, padding=1), inplace=True), weight, padding=1)
        y += x
        return F.conv2d(F.relu_(y), weight, padding=1)

    assert_alone(residual, batch(), parameters=[weight])

    def many(x):
        y = F.conv2d(x, weight, padding=1)
        z = y.relu_()
        y.mul_(2)
        y.sigmoid_()
        y.add_(1)
        assert z is y
        return F.conv2d(y, weight, padding=1)

    with torch.no_grad():
        assert_alone(many, batch(grad=False))


def test_a_view_sees_what_is_written_through_another():
    items = [item.detach() for item in batch()]
    x = sc.Ragged([item.clone() for item in items])
    first, _ = x.chunk(2, 1)
    first += 1
    wide = torch.ones(1, 6, 3, 3, dtype=torch.float64)
    for got, item in zip(F.conv2d(x, wide, padding=1).unbind(), items, strict=True):
        item = item.clone()
        item[:3] += 1
        assert torch.allclose(got, F.conv2d(item[None], wide, padding=1)[0])


def test_the_check_notices_naive_padding():
    weight = tensors(6, 6, 3, 3)

    def naive(x):
        if isinstance(x, sc.Ragged):
            y = x.remade(
                [F.conv2d(c, weight, torch.ones(6).double(), padding=1) for c in x.canvases]
            )
            return F.conv2d(y.remade(y.canvases, padding=0), weight, padding=1)
        return F.conv2d(F.conv2d(x, weight, torch.ones(6).double(), padding=1), weight, padding=1)

    with pytest.raises(AssertionError):
        assert_alone(naive, batch(), poison=False)
