"""Operations that sum over axes: reductions, statistics, products, attention, recurrence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from symconv.auditing.receptive.seen import Digit, Seen, together
from symconv.auditing.receptive.steps import Step


def reduce(s: Step) -> list[Seen]:
    """Sums, means, extrema and the like over axes."""
    dims = s.dims()
    x = s.x.whole(*dims)
    kept = len(s.shape) == len(x.axes)
    axes = [(Digit(1),) if k in dims else a for k, a in enumerate(x.axes) if kept or k not in dims]
    return [x.arranged(axes)] * len(s.shapes)


def along(s: Step) -> list[Seen]:
    """Every position of the named axes sees all of them: softmax, sort, a Fourier transform."""
    dims = s.dims()
    x = s.x.whole(*dims)
    return [
        x.arranged(
            a if n == m else (Digit(n),) for a, n, m in zip(x.axes, shape, x.shape, strict=True)
        )
        for shape in s.shapes
    ]


def normalise(s: Step) -> list[Seen]:
    """Statistics over the last axes, or over all but one."""
    x = s.x
    n = len(x.axes)
    if "normalized_shape" in s.args:
        axes = range(n - len(s.args["normalized_shape"]), n)
    elif "group" in s.name:
        axes = range(1, n)
    elif s.args.get("training", s.args.get("train", "no_training" not in s.name)):
        axes = [k for k in range(n) if k != 1]
    else:
        axes = []
    normed = x.whole(*axes) if len(axes) else x
    return [normed, *(x.unknown(shape, "statistics") for shape in s.shapes[1:])]


def product(a: Seen, b: Seen, shape: Sequence[int]) -> Seen:
    """Matrix product: (*, n, k) with (*, k, m)."""
    one = (Digit(1),)
    a, b = a.summed(len(a.axes) - 1), b.summed(len(b.axes) - 2)
    columns = {d: (Digit(d.size),) for d in b.axes[-1]}  # may be a's rows, too
    a = a.arranged((*a.axes[:-1], one))
    b = b.arranged((*b.axes[:-2], one, b.axes[-1])).rewritten(columns)
    return together([a, b], shape)


def matmul(s: Step) -> Seen:
    """Matrix products of every shape, with what is added to them."""
    given = [v for v in s.args.values() if isinstance(v, Tensor)]
    left, right = map(s.seen, given[-2:])
    one = (Digit(1),)
    vector = len(left.axes) == 1, len(right.axes) == 1
    left = left.arranged((one, *left.axes)) if vector[0] else left
    right = right.arranged((*right.axes, one)) if vector[1] else right
    shape = (*s.shape, *(1 for v in vector if v))
    if vector[0] and not vector[1]:
        shape = (*s.shape[:-1], 1, s.shape[-1])
    out = product(left, right, shape)
    if any(vector):
        out = out.reshaped(s.shape)
    return together([out, *map(s.seen, given[:-2])], s.shape)


def addbmm(s: Step) -> Seen:
    """A sum of matrix products."""
    left, right = s.seen(s.args["batch1"]), s.seen(s.args["batch2"])
    out = product(left, right, (left.shape[0], *s.shape)).summed(0)
    return together([s.x, out.arranged(out.axes[1:])], s.shape)


def linear(s: Step) -> Seen:
    """A linear layer: the last axis is summed."""
    x = s.x.summed(len(s.x.axes) - 1)
    x = x.arranged((*x.axes[:-1], (Digit(s.shape[-1]),)))
    given = [s.args[k] for k in ("weight", "bias") if isinstance(s.args.get(k), Tensor)]
    others = [w.summed(*range(len(w.axes))).arranged(()) for w in map(s.seen, given)]
    return together([x, *others], s.shape)


def sparse_linear(s: Step) -> Seen:
    """Symconv's sparse linear layer: which inputs an output sees follows no lattice."""
    x = s.x.summed(len(s.x.axes) - 1)
    return x.arranged((*x.axes[:-1], (Digit(s.shape[-1]),)))


def attention(s: Step) -> list[Seen]:
    """Scaled dot-product attention: every query sees all keys and values, masked or not."""
    query, key, value = (s.seen(s.args[name]) for name in ("query", "key", "value"))
    turned = key.arranged((*key.axes[:-2], key.axes[-1], key.axes[-2]))
    heads = query.shape[:-2]
    scores = product(query, turned, (*heads, query.shape[-2], key.shape[-2]))
    scores = scores.whole(len(scores.axes) - 1)
    out = product(scores, value, s.shape)
    return [out, *(out.unknown(shape, "attention's statistics") for shape in s.shapes[1:])]


def recurrent(s: Step) -> list[Seen]:
    """LSTM, GRU and simple recurrent layers: every step sees the sequence."""
    x, batch_first = s.x, bool(list(s.args.values())[-1])
    time = 1 if batch_first else 0
    x = x.whole(time, len(x.axes) - 1)
    batch = x.axes[1 - time]
    state = ((Digit(s.shapes[-1][0]),), batch, (Digit(s.shapes[-1][-1]),))
    out = x.arranged((*x.axes[:-1], (Digit(s.shape[-1]),)))
    return [out, *(x.arranged(state) for _ in s.shapes[1:])]
