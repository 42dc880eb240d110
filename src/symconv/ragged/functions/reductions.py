"""Sums, means and extremes over axes: cells of the padding count as if they were not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.functions.pointwise import POINTWISE
from symconv.ragged.packed import Packed
from symconv.ragged.valid import BATCH, Valid, filled, low_of, lowered, zeroed


class Extremes(NamedTuple):
    """What torch.max and torch.min give along an axis."""

    values: Any
    indices: Any


def _count(x: Packed, c: Tensor, v: Valid, axes: list[int]) -> Any:
    """Values that each result is made of: a number, or one for each item."""
    count: Any = 1
    for axis in axes:
        if x.layout[axis] is None:
            count = count * c.shape[axis]
    ragged = [a for a in axes if isinstance(x.layout[a], int)]
    if not ragged:
        return count
    each = x.counted(v, ragged) * count
    shape = [1] * c.ndim
    shape[x.batch] = len(each)
    return each.view(shape).to(c.device)


def _closed(x: Packed, made: list[Tensor], axes: list[int], keepdim: bool) -> Any:
    """The results with their axes dropped or kept, made with `keepdim`."""
    layout = [None if a in axes else label for a, label in enumerate(x.layout)]
    if not keepdim:
        made = [c.squeeze(tuple(axes)) for c in made]
        layout = [label for a, label in enumerate(x.layout) if a not in axes]
    return x.closed(made, tuple(layout))


def _covered(x: Packed, value: float) -> list[Tensor]:
    """The canvases with a value in the padding."""
    pairs = zip(x.canvases, x.valid, strict=True)
    if value == 0:
        return list(x.zeroed().canvases)
    if value == -torch.inf:
        return [lowered(c, v, x.layout) for c, v in pairs]
    return [filled(c, v, x.layout, value) for c, v in pairs]


def sum_(
    input: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """Sums; over no axes given: of all valid cells."""
    x, axes = input, input.axes(dim)
    made = [c.sum(axes, keepdim=True, dtype=dtype) for c in _covered(x, 0)]
    return _over(x, made, axes, keepdim, lambda parts: parts.sum(0))


def _over(
    x: Packed, made: list[Tensor], axes: list[int], keepdim: bool, total: Callable[[Tensor], Tensor]
) -> Any:
    """Results of the canvases, joined where the reduction goes over the items too."""
    if x.batch not in axes:
        return _closed(x, made, axes, keepdim)
    if len(axes) < x.dim() and any(
        isinstance(label, int) for a, label in enumerate(x.layout) if a not in axes
    ):
        raise refused(
            "a reduction over items and space together, or over neither",
            f"axes {axes} of {x.described()}",
            "reduce the space first",
        )
    y = total(torch.stack(made))
    return y if keepdim else y.squeeze(tuple(axes))


def mean(
    input: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """Means over valid cells."""
    x, axes = input, input.axes(dim)
    if x.batch in axes:
        counts = [_count(x, c, v, axes) for c, v in zip(x.canvases, x.valid, strict=True)]
        each = [
            n.sum() if isinstance(n, Tensor) else n * k
            for n, k in zip(counts, x.counts(), strict=True)
        ]
        return sum_(x, dim, keepdim, dtype=dtype) / sum(each)
    made = []
    for c, v in zip(_covered(x, 0), x.valid, strict=True):
        if v.full:
            made.append(c.mean(axes, keepdim=True, dtype=dtype))
        else:
            y = c.sum(axes, keepdim=True, dtype=dtype)
            made.append(y / torch.as_tensor(_count(x, c, v, axes)).to(y.device, y.dtype))
    return _closed(x, made, axes, keepdim)


def _variance(x: Packed, axes: list[int], correction: float) -> list[Tensor]:
    made = []
    for c, v in zip(_covered(x, 0), x.valid, strict=True):
        if v.full:
            made.append(c.var(axes, correction=correction, keepdim=True))
            continue
        count = torch.as_tensor(_count(x, c, v, axes)).to(c.device, c.dtype)
        centred = zeroed(c - c.sum(axes, keepdim=True) / count, v, x.layout)
        squares = centred.square().sum(axes, keepdim=True)
        made.append(squares / (count - correction).clamp(min=0))
    return made


def _spread(root: bool) -> Callable[..., Any]:
    def handler(
        input: Any,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Any:
        x = input
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        axes = x.axes(dim)
        if x.batch in axes:
            raise refused("var or std of each item", f"axes {axes}", "give the axes of space")
        made = _variance(x, axes, float(unbiased) if correction is None else correction)
        return _closed(x, [c.sqrt() for c in made] if root else made, axes, keepdim)

    return handler


def _extreme(largest: bool) -> Callable[..., Any]:
    """Amax or amin."""

    def handler(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
        x, axes = input, input.axes(dim)
        if largest:
            covered = _covered(x, -torch.inf)
            made = [c.amax(axes, keepdim=True) for c in covered]
            return _over(x, made, axes, keepdim, lambda parts: parts.amax(0))
        high = -low_of(x.canvases[0].dtype) - (not x.canvases[0].dtype.is_floating_point)
        made = [c.amin(axes, keepdim=True) for c in _covered(x, high)]
        return _over(x, made, axes, keepdim, lambda parts: parts.amin(0))

    return handler


def _extreme_of(function: Callable[..., Any], together: Any, alone: Any) -> Callable[..., Any]:
    """torch.max or torch.min: of two inputs, of all cells, or along one axis with indices."""

    def handler(input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        other = kwargs.get("other", dim)
        if isinstance(other, (Packed, Tensor)) or not isinstance(input, Packed):
            return POINTWISE[together](input, other)
        if dim is None:
            return alone(input)
        return _indexed(function, largest=function.__name__ == "max")(input, dim, keepdim)

    return handler


def _indexed(function: Callable[..., Any], largest: bool) -> Callable[..., Any]:
    """Extremes along one axis with the place where they stand, or that place alone."""

    def handler(input: Any, dim: int, keepdim: bool = False) -> Any:
        x, axis = input, input.axis(dim)
        if x.layout[axis] == BATCH:
            raise refused("an axis other than the batch's", f"axis {axis}", "join the items first")
        value = -torch.inf if largest else torch.inf
        covered = _covered(x, value) if isinstance(x.layout[axis], int) else x.tame().canvases
        made = [function(c, axis, True) for c in covered]
        if isinstance(made[0], Tensor):
            return _closed(x, made, [axis], keepdim)
        parts = zip(*made, strict=True)
        both = [_closed(x, list(part), [axis], keepdim) for part in parts]
        return Extremes(*both)

    return handler


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """The logarithm of a sum of exponentials over valid cells."""
    x, axes = input, input.axes(dim)
    covered = _covered(x, -torch.inf) if set(axes) & set(x.ragged) else x.tame().canvases
    if x.batch in axes:
        raise refused("axes other than the batch's", f"axes {axes}", "join the items first")
    return _closed(x, [c.logsumexp(axes, keepdim=True) for c in covered], axes, keepdim)


def norm(
    input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    """Vector norms over axes."""
    x, axes = input, input.axes(dim)
    order = 2.0 if p in ("fro", None) else float(p)
    if x.batch in axes or order <= 0:
        raise refused("norms of each item with p > 0", f"p={p}, axes {axes}", "give other axes")
    made = [
        torch.linalg.vector_norm(c, order, axes, True, dtype=dtype) for c in x.zeroed().canvases
    ]
    return _closed(x, made, axes, keepdim)


def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """Vector norms over axes."""
    return norm(x, ord, dim, keepdim, dtype)


# Along one axis


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    """Over an axis of channels, or over the valid cells of a ragged one."""

    def handler(input: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
        x = input
        if dim is None:
            dim = 1 if x.dim() not in (3,) else 0
        axis = x.axis(dim)
        if x.layout[axis] == BATCH:
            raise refused("an axis other than the batch's", f"dim={dim}", "name the axis")
        if x.layout[axis] is None:
            return x.remade([function(c, axis, *args, **kwargs) for c in x.tame().canvases])
        # not minus infinity: rows that are padding throughout would give NaN
        least = torch.finfo(x.canvases[0].dtype).min
        x = x.remade(_covered(x, least))
        return x.remade([function(c, axis, *args, **kwargs) for c in x.canvases])

    return handler


def _along(function: Callable[..., Any], default: int | None = None) -> Callable[..., Any]:
    """Any function along one axis without padding."""

    def handler(input: Any, *args: Any, **kwargs: Any) -> Any:
        x = input
        places = {F.normalize: 1, torch.cumsum: 0, torch.Tensor.cumsum: 0}
        place = places.get(function, 0)
        dim = kwargs.get("dim", args[place] if len(args) > place else default)
        if dim is None or x.layout[x.axis(dim)] is not None:
            raise refused(
                f"{function.__name__} along an axis without padding",
                f"dim={dim} of {x.described()}",
                "apply it to each item: x.map(...)",
            )
        return x.remade([function(c, *args, **kwargs) for c in x.tame().canvases])

    return handler


def local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Local response norm: over neighbouring channels of one cell."""
    x = input.tame()
    return x.remade([F.local_response_norm(c, size, alpha, beta, k) for c in x.canvases])


_AMAX, _AMIN = _extreme(True), _extreme(False)
REDUCTIONS: dict[Any, Any] = {
    torch.logsumexp: logsumexp,
    torch.Tensor.logsumexp: logsumexp,
    torch.norm: norm,
    torch.Tensor.norm: norm,
    torch.linalg.vector_norm: vector_norm,
    F.local_response_norm: local_response_norm,
    F.normalize: _along(F.normalize, 1),
    F.glu: _along(F.glu, -1),
}
for _home in (torch, torch.Tensor):
    REDUCTIONS |= {
        _home.sum: sum_,
        _home.mean: mean,
        _home.var: _spread(False),
        _home.std: _spread(True),
        _home.amax: _AMAX,
        _home.amin: _AMIN,
        _home.max: _extreme_of(torch.max, torch.maximum, _AMAX),
        _home.min: _extreme_of(torch.min, torch.minimum, _AMIN),
        _home.argmax: _indexed(torch.argmax, True),
        _home.argmin: _indexed(torch.argmin, False),
        _home.cumsum: _along(torch.cumsum),
        _home.softmax: _softmax(torch.softmax),
        _home.log_softmax: _softmax(torch.log_softmax),
    }


def _functional_softmax(handler: Callable[..., Any]) -> Callable[..., Any]:
    def of(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
        return handler(input, dim) if dtype is None else handler(input, dim, dtype=dtype)

    return of


for _name in ("softmax", "log_softmax"):
    REDUCTIONS[getattr(F, _name)] = _functional_softmax(REDUCTIONS[getattr(torch, _name)])


def softmin(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """The softmax of the negative."""
    return REDUCTIONS[F.softmax](input.remade([-c for c in input.tame().canvases]), dim, 3, dtype)


REDUCTIONS[F.softmin] = softmin
