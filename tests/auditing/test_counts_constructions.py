"""Every construction that contracts, against its formula; on fake tensors as with numbers."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auditing.counting import BATCH, TOKENS, WIDTH, Of, counts, tokens, weight
from symconv.auditing.call import Call
from symconv.auditing.counts import _tabulated, _watch, count
from symconv.auditing.state import left_as_found

# Torch's own words on its slower paths, said once a process: whichever test comes first hears them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]


HEADS = 2


def heads(number=HEADS, length=TOKENS, width=WIDTH // HEADS):
    return torch.randn(BATCH, number, length, width)


def attend(queries, keys, width=WIDTH, value=WIDTH):
    """Scores and values, all heads."""
    return BATCH * queries * keys * (width + value)


LINEAR = BATCH * TOKENS * WIDTH * WIDTH
ENCODER = 4 * LINEAR + 2 * 2 * LINEAR + attend(TOKENS, TOKENS)


def native_attention(model, x):
    layer = model.layer
    weights = layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias
    return torch._native_multi_head_attention(x, x, x, WIDTH, HEADS, *weights, need_weights=False)[
        0
    ]


def native_encoder(model, x):
    e = model.layer
    a = e.self_attn
    return torch._transformer_encoder_layer_fwd(
        x, WIDTH, HEADS, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias,
        False, False, 1e-5, e.norm1.weight, e.norm1.bias, e.norm2.weight, e.norm2.bias,
        e.linear1.weight, e.linear1.bias, e.linear2.weight, e.linear2.bias,
    )  # fmt: skip


def multi_head():
    return nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)


def encoder_layer():
    return nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)


def self_attention(need_weights):
    return Of(lambda m, x: m.layer(x, x, x, need_weights=need_weights)[0], layer=multi_head())


def flex(model, q):
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, q, q, score_mod=lambda score, b, h, i, j: score + i - j)


def sdpa(model, q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


GROUPED = dict(enable_gqa=True)
MASK = torch.zeros(TOKENS, TOKENS, dtype=torch.bool).logical_not().tril()
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

ATTENTION = {  # model, input, MACs
    "scaled dot product": (Of(sdpa), (heads(), heads(), heads()), attend(TOKENS, TOKENS)),
    "causal": (
        Of(lambda m, q: sdpa(m, q, q, q, is_causal=True)),
        heads(),
        attend(TOKENS, TOKENS),
    ),
    "masked": (
        Of(lambda m, q: sdpa(m, q, q, q, attn_mask=MASK)),
        heads(),
        attend(TOKENS, TOKENS),
    ),
    "across": (Of(sdpa), (heads(), heads(length=7), heads(length=7)), attend(TOKENS, 7)),
    "values of another width": (
        Of(sdpa),
        (heads(), heads(), heads(width=3)),
        attend(TOKENS, TOKENS, WIDTH, 3 * HEADS),
    ),
    "double precision": (Of(sdpa), (heads().double(),) * 3, attend(TOKENS, TOKENS)),
    "keys shared by heads": (
        Of(lambda m, q, k: sdpa(m, q, k, k, enable_gqa=True)),
        (heads(number=4), heads(number=2)),
        attend(TOKENS, TOKENS, 16, 16),
    ),
    "flex": (Of(flex), heads(width=16), attend(TOKENS, TOKENS, 32, 32)),
    "multi-head": (self_attention(False), tokens(), 4 * LINEAR + attend(TOKENS, TOKENS)),
    "multi-head with weights": (
        self_attention(True),
        tokens(),
        4 * LINEAR + attend(TOKENS, TOKENS),
    ),
    "multi-head across": (
        Of(lambda m, x, y: m.layer(x, y, y)[0], layer=multi_head()),
        (tokens(), tokens(7)),
        2 * LINEAR + 2 * LINEAR // TOKENS * 7 + attend(TOKENS, 7),
    ),
    "multi-head fast path": (
        Of(native_attention, layer=multi_head()),
        tokens(),
        4 * LINEAR + attend(TOKENS, TOKENS),
    ),
    "encoder layer": (encoder_layer(), tokens(), ENCODER),
    "encoder layer fast path": (Of(native_encoder, layer=encoder_layer()), tokens(), ENCODER),
    "encoder, padded": (
        nn.TransformerEncoder(encoder_layer(), 2),
        {"src": tokens(), "src_key_padding_mask": PADDED},
        2 * ENCODER,
    ),
    "decoder layer": (
        nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True),
        (tokens(), tokens(7)),
        ENCODER + 2 * LINEAR + 2 * LINEAR // TOKENS * 7 + attend(TOKENS, 7),
    ),
    "by einsum": (
        Of(lambda m, x: torch.einsum("bij,bjk->bik", torch.einsum("bik,bjk->bij", x, x), x)),
        tokens(),
        attend(TOKENS, TOKENS),
    ),
}

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def recurrent(kind, layers=1, directions=1, hidden=6, projected=0, steps=TOKENS, items=BATCH):
    """Every gate sees the input and the state; deeper layers see all directions below."""
    seen, state, macs = WIDTH, projected or hidden, 0
    for _ in range(layers):
        gates = GATES[kind] * hidden * (seen + state)
        macs += directions * items * steps * (gates + projected * hidden)
        seen = directions * state
    return macs


def recurrent_cases():
    for kind in GATES:
        layer = getattr(nn, kind)
        yield kind, (layer(WIDTH, 6, batch_first=True), tokens(), recurrent(kind))
        yield (
            f"{kind}, two layers, both directions",
            (
                layer(WIDTH, 6, 2, bidirectional=True, batch_first=True),
                tokens(),
                recurrent(kind, 2, 2),
            ),
        )
        yield (
            f"{kind} without bias, time first",
            (layer(WIDTH, 6, bias=False), torch.randn(7, BATCH, WIDTH), recurrent(kind, steps=7)),
        )
        yield (
            f"{kind} cell",
            (
                getattr(nn, f"{kind}Cell")(WIDTH, 6),
                torch.randn(3, WIDTH),
                recurrent(kind, steps=1, items=3),
            ),
        )
    yield (
        "LSTM with projection",
        (
            nn.LSTM(WIDTH, 6, 2, proj_size=3, bidirectional=True, batch_first=True),
            tokens(),
            recurrent("LSTM", 2, 2, projected=3),
        ),
    )


def _autocast(layer, x):
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x)


def _traced(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, x)


PRODUCTS = {
    "linear": (nn.Linear(WIDTH, 3), tokens(), BATCH * TOKENS * WIDTH * 3),
    "linear of one vector": (nn.Linear(WIDTH, 3), torch.randn(WIDTH), WIDTH * 3),
    "matmul": (Of(lambda m, x: x @ m.w, w=weight(WIDTH, 3)), tokens(), BATCH * TOKENS * WIDTH * 3),
    "from the left": (
        Of(lambda m, x: m.w @ x, w=weight(3, TOKENS)),
        tokens(),
        BATCH * 3 * TOKENS * WIDTH,
    ),
    "a matrix for each": (
        Of(lambda m, x: torch.bmm(x, m.w), w=weight(BATCH, WIDTH, 3)),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "addmm": (
        Of(lambda m, x: torch.addmm(m.b, x, m.w), w=weight(WIDTH, 3), b=weight(3)),
        torch.randn(4, WIDTH),
        4 * WIDTH * 3,
    ),
    "baddbmm": (
        Of(lambda m, x: torch.baddbmm(m.b, x, x.mT), b=weight(1, TOKENS, TOKENS)),
        tokens(),
        BATCH * TOKENS * TOKENS * WIDTH,
    ),
    "addbmm": (
        Of(lambda m, x: torch.addbmm(m.b, x, x.mT), b=weight(TOKENS, TOKENS)),
        tokens(),
        BATCH * TOKENS * TOKENS * WIDTH,
    ),
    "mv": (Of(lambda m, x: torch.mv(m.w, x), w=weight(3, WIDTH)), torch.randn(WIDTH), 3 * WIDTH),
    "addmv": (
        Of(lambda m, x: torch.addmv(m.b, m.w, x), w=weight(3, WIDTH), b=weight(3)),
        torch.randn(WIDTH),
        3 * WIDTH,
    ),
    "dot": (Of(lambda m, x: torch.dot(m.w, x), w=weight(WIDTH)), torch.randn(WIDTH), WIDTH),
    "einsum": (
        Of(lambda m, x: torch.einsum("bic,cd->bid", x, m.w), w=weight(WIDTH, 3)),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "tensordot": (
        Of(lambda m, x: torch.tensordot(x, m.w, dims=2), w=weight(TOKENS, WIDTH, 3)),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "bilinear": (
        nn.Bilinear(3, 4, 5),
        (torch.randn(BATCH, 3), torch.randn(BATCH, 4)),
        BATCH * 5 * 3 * 4,
    ),
    "distances": (
        Of(lambda m, x: torch.cdist(x, m.c), c=weight(40, WIDTH)),
        torch.randn(30, WIDTH),
        30 * 40 * WIDTH,
    ),
    "few distances": (
        Of(lambda m, x: torch.cdist(x, m.c), c=weight(4, WIDTH)),
        torch.randn(3, WIDTH),
        3 * 4 * WIDTH,
    ),
    "complex": (
        Of(lambda m, x: x @ m.w, w=torch.randn(WIDTH, 3, dtype=torch.complex64)),
        tokens().to(torch.complex64),
        4 * BATCH * TOKENS * WIDTH * 3,
    ),
    "by hand": (
        Of(lambda m, x: (x[:, :, :, None] * m.w).sum(2), w=weight(WIDTH, 3)),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "functional convolution": (
        Of(lambda m, x: F.conv1d(x, m.w), w=weight(4, TOKENS, 3)),
        tokens(),
        BATCH * 4 * TOKENS * 3 * (WIDTH - 2),
    ),
    "gradient in the forward": (
        Of(
            lambda m, x: torch.func.grad(lambda y: m.layer(y).square().sum())(x),
            layer=nn.Linear(WIDTH, 3),
        ),
        tokens(),
        2 * BATCH * TOKENS * WIDTH * 3,
    ),
    "half precision by autocast": (
        Of(lambda m, x: _autocast(m.layer, x), layer=nn.Linear(WIDTH, 3)),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "embedding": (nn.Embedding(10, WIDTH), torch.zeros(BATCH, TOKENS, dtype=torch.long), 0),
    "bag of embeddings": (
        nn.EmbeddingBag(10, WIDTH),
        torch.zeros(BATCH, TOKENS, dtype=torch.long),
        0,
    ),
    "vmap": (
        Of(lambda m, x: torch.func.vmap(lambda row: m.w @ row)(x), w=weight(3, WIDTH)),
        torch.randn(4, WIDTH),
        4 * 3 * WIDTH,
    ),
    "checkpointed": (
        Of(
            lambda m, x: torch.utils.checkpoint.checkpoint(m.layer, x, use_reentrant=False),
            layer=nn.Linear(WIDTH, 3),
        ),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
    "scripted": (
        _traced(nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU()), tokens()),
        tokens(),
        BATCH * TOKENS * WIDTH * 3,
    ),
}


CASES = {**ATTENTION, **dict(recurrent_cases()), **PRODUCTS}


@pytest.mark.parametrize("name", CASES)
def test_macs_of(name):
    model, x, macs = CASES[name]
    total = counts(model, x).total
    assert total.macs == macs
    assert total.parameters == sum(p.numel() for p in model.parameters())
    assert not total.unknown


@pytest.mark.parametrize("name", CASES)
def test_fake_tensors_change_nothing(name):
    model, x, _ = CASES[name]
    call = Call.of(model, x)
    with left_as_found(model), torch.no_grad():
        real = _tabulated(call, *_watch(call, numbers=True))
    assert real.total.macs == count(call).total.macs
