"""Maps of any size become vectors: against loops in numpy, plain and of mixed sizes."""

import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

import symconv as sc

DIMENSIONS = (1, 2, 3)
LARGEST = {1: 20, 2: 9, 3: 5}


def pyramid(n, *arguments, **options):
    return getattr(sc.nn, f"SpatialPyramidPool{n}d")(*arguments, **options)


def attention(n, *arguments, seed=0, **options):
    """A layer whose scores are no longer zero."""
    torch.manual_seed(seed)
    layer = getattr(sc.nn, f"AttentionPool{n}d")(*arguments, **options, dtype=torch.float64)
    torch.nn.init.normal_(layer.score[-1].weight)
    return layer


def pyramid_by_loops(x, grids, reduce):
    """He et al.'s appendix A for one map (C, *S), bin by bin."""
    values = []
    for grid in grids:
        level = np.empty((len(x), *grid))
        for bin_ in np.ndindex(*grid):
            cut = tuple(
                slice(math.floor(i * s / bins), math.ceil((i + 1) * s / bins))
                for i, s, bins in zip(bin_, x.shape[1:], grid, strict=True)
            )
            block = x[(slice(None), *cut)].reshape(len(x), -1)
            level[(slice(None), *bin_)] = block.max(1) if reduce == "max" else block.mean(1)
        values.append(level.ravel())
    return np.concatenate(values)


def attention_by_loops(x, layer):
    """The formula for one map (C, *S), head by head."""
    flat = x.reshape(len(x), -1)
    first, last = layer.score[0], layer.score[-1].weight.detach().numpy()
    hidden = flat
    if layer.hidden is not None:
        weight, bias = (p.detach().numpy() for p in (first.weight, first.bias))
        hidden = np.tanh(weight.reshape(layer.hidden, -1) @ flat + bias[:, None])
    weights = softmax(last.reshape(layer.heads, -1) @ hidden, axis=1)
    each = len(x) // layer.heads
    return np.array([weights[c // each] @ row for c, row in enumerate(flat)])


@st.composite
def pyramids(draw):
    n = draw(st.sampled_from(DIMENSIONS))
    one = st.integers(1, 4)
    level = st.one_of(one, st.tuples(*[one] * n))
    levels = draw(st.lists(level, min_size=1, max_size=3))
    return n, tuple(levels), draw(st.sampled_from(("max", "mean")))


@st.composite
def attentions(draw):
    n, heads = draw(st.sampled_from(DIMENSIONS)), draw(st.integers(1, 3))
    hidden = draw(st.one_of(st.none(), st.integers(1, 4)))
    channels = heads * draw(st.integers(1, 3))
    return attention(n, channels, heads, hidden, seed=draw(st.integers(0, 99)))


def maps(draw, n, channels, count):
    side = st.integers(1, LARGEST[n])
    sizes = [draw(st.tuples(*[side] * n)) for _ in range(count)]
    return [torch.randn(channels, *size, dtype=torch.float64) for size in sizes]


def close(found, wanted):
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


@given(pyramids(), st.data())
def test_the_pyramid_is_its_bins_one_by_one(case, data):
    n, levels, reduce = case
    layer = pyramid(n, levels, reduce)
    (x,) = maps(data.draw, n, 3, 1)
    grids = [(level,) * n if isinstance(level, int) else level for level in levels]
    wanted = pyramid_by_loops(x.numpy(), grids, reduce)
    assert wanted.shape == (3 * layer.bins,)
    close(layer(x[None])[0], wanted)


@given(attentions(), st.data())
def test_attention_is_the_softmax_of_its_scores(layer, data):
    (x,) = maps(data.draw, layer.dimension, layer.channels, 1)
    close(layer(x[None])[0], attention_by_loops(x.numpy(), layer))


@given(pyramids(), st.data())
def test_a_pyramid_over_mixed_sizes_is_that_over_each_map(case, data):
    n, levels, reduce = case
    items = maps(data.draw, n, 3, data.draw(st.integers(1, 5)))
    layer = pyramid(n, levels, reduce)
    found, wanted = layer(sc.Ragged(items)), torch.cat([layer(x[None]) for x in items])
    close(found, wanted)
    assert reduce == "mean" or torch.equal(found, wanted)


@given(attentions(), st.data())
def test_attention_over_mixed_sizes_is_that_over_each_map(layer, data):
    items = maps(data.draw, layer.dimension, layer.channels, data.draw(st.integers(1, 5)))
    found = layer(sc.Ragged(items))
    close(found, torch.cat([layer(x[None]) for x in items]).detach().numpy())
    gradients = torch.autograd.grad(found.square().sum(), list(layer.parameters()))
    alone = sum(layer(x[None]).square().sum() for x in items)
    for g, w in zip(gradients, torch.autograd.grad(alone, list(layer.parameters())), strict=True):
        close(g, w.numpy())


def test_scores_far_below_zero_do_not_spoil_the_gradient():
    """Outside a map a score is 0, and may be far above its own: exp(900) would be infinite."""
    layer = attention(1, 1)
    with torch.no_grad():
        layer.score[0].weight.fill_(-900.0)
    items = [torch.ones(1, length, dtype=torch.float64).requires_grad_() for length in (2, 3, 7)]
    y = layer(sc.Ragged(items))
    close(y, np.ones((3, 1)))
    (gradient,) = torch.autograd.grad(y.sum(), layer.score[0].weight, retain_graph=True)
    assert gradient.isfinite().all()
    for item, length in zip(torch.autograd.grad(y.sum(), items), (2, 3, 7), strict=True):
        close(item, np.full((1, length), 1 / length))


def test_a_pyramid_that_pads_before_it_pools_would_be_seen():
    """The negative control: pooling a padded map is something else."""
    layer, items = pyramid(2), [torch.randn(2, 9, 5), torch.randn(2, 4, 8)]
    padded = torch.zeros(2, 2, 9, 8)
    for canvas, item in zip(padded, items, strict=True):
        canvas[:, : item.shape[1], : item.shape[2]] = item
    wanted = torch.cat([layer(x[None]) for x in items])
    assert not torch.allclose(layer(padded), wanted)
    assert torch.equal(layer(sc.Ragged(items)), wanted)


@pytest.mark.parametrize("n", DIMENSIONS)
def test_gradients_and_double_gradients(n):
    layer = attention(n, 4, 2, 3)
    x = torch.randn(2, 4, *[3] * n, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)
    assert torch.autograd.gradcheck(pyramid(n, (1, 2), "mean"), x)


def test_attention_starts_as_the_mean_and_its_first_step_moves_the_scores():
    layer = sc.nn.AttentionPool2d(6, heads=3, hidden=4)
    x = torch.randn(4, 6, 5, 7)
    torch.testing.assert_close(layer(x), x.mean((2, 3)))
    layer(x).square().sum().backward()
    assert layer.score[-1].weight.grad.abs().min() > 0


@pytest.mark.parametrize(
    "layer",
    [
        sc.nn.SpatialPyramidPool2d((1, (2, 3)), "mean"),
        sc.nn.SpatialPyramidPool1d(),
        sc.nn.AttentionPool3d(8, heads=2, hidden=4),
        sc.nn.AttentionPool1d(8),
    ],
    ids=str,
)
def test_the_repr_and_a_pickle_give_the_layer_back(layer):
    assert repr(eval(f"sc.nn.{layer}")) == repr(layer)
    assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    layer.load_state_dict(torch.load(buffer))


@pytest.mark.parametrize(
    "layer", [sc.nn.SpatialPyramidPool2d((1, 3)), attention(2, 4, 2, 3).float()], ids=str
)
def test_plain_maps_compile_and_export(layer):
    x = torch.randn(3, 4, 8, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    y = torch.randn(5, 4, 8, 6)
    torch.testing.assert_close(program.module()(y), layer(y))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: sc.nn.SpatialPyramidPool2d(()), "levels"),
        (lambda: sc.nn.SpatialPyramidPool2d(3), "levels"),
        (lambda: sc.nn.SpatialPyramidPool2d((1, 0)), "level"),
        (lambda: sc.nn.SpatialPyramidPool2d((1, (2, 3, 4))), "level"),
        (lambda: sc.nn.SpatialPyramidPool2d(reduce="sum"), 'reduce="max" or "mean"'),
        (lambda: sc.nn.SpatialPyramidPool2d()(torch.zeros(3, 8, 8)), r"\(N, C, H, W\)"),
        (lambda: sc.nn.AttentionPool2d(8, heads=3), "heads that divide 8"),
        (lambda: sc.nn.AttentionPool2d(0), "channels"),
        (lambda: sc.nn.AttentionPool2d(8, hidden=0), "hidden"),
        (lambda: sc.nn.AttentionPool2d(8)(torch.zeros(8, 4, 4)), r"\(N, 8, H, W\)"),
        (lambda: sc.nn.AttentionPool2d(8)(torch.zeros(1, 4, 4, 4)), "8 channels"),
        (lambda: sc.nn.AttentionPool2d(8)(sc.Ragged([torch.zeros(4, 4, 4)])), "8 channels"),
    ],
)
def test_bad_input_is_named(build, said):
    with pytest.raises(sc.StructureError, match=said):
        build()
