"""Functions of one cell at a time: the padding goes along, and it is known what it may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.ragged.check import refused
from symconv.ragged.packed import ANY, FINITE, ZERO, Packed

# Of one input, with f(0) = 0 whatever the parameters, and finite on finite numbers, its slope too.
_KEEP_ZERO = """
    relu relu6 leaky_relu rrelu elu selu celu gelu silu mish hardswish tanh softsign tanhshrink
    softshrink hardshrink abs absolute neg negative positive sin asinh arcsinh arctan atan
    square sign sgn floor ceil round trunc fix frac erf dropout dropout1d dropout2d dropout3d
    feature_dropout nan_to_num clone detach to float half double bfloat16 type zeros_like zero
    real __neg__ __pos__ __abs__
"""
# Finite on finite numbers.
_KEEP_FINITE = """
    sigmoid hardsigmoid softplus logsigmoid hardtanh threshold clamp clamp_min clamp_max clip
    cos ones_like rand_like randn_like full_like empty_like alpha_dropout feature_alpha_dropout
    isnan isfinite isinf logical_not bool int long bernoulli fill __invert__
"""
# Anything may come out, and slopes may be infinite: these never see what stood in the padding.
_WILD = """
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal tan acos asin acosh atanh cosh
    sinh arccos arcsin lgamma digamma erfinv erfc logit
"""
# Of several inputs: finite, a product (zero where one factor is), anything.
_FINITE = """
    add sub subtract rsub maximum minimum where lerp addcmul eq ne lt le gt ge logical_and
    logical_or logical_xor __add__ __radd__ __sub__ __rsub__ __and__ __or__ __eq__ __ne__ __lt__
    __le__ __gt__ __ge__ masked_fill copysign fmax fmin
"""
_PRODUCT = """
    mul multiply __mul__ __rmul__
"""
_ANY = """
    floor_divide pow fmod remainder atan2 hypot xlogy addcdiv
    __rtruediv__ __div__ __rdiv__ __pow__ __rpow__ __mod__ __floordiv__ float_power
"""
_QUOTIENT = "div divide true_divide __truediv__ __div__"
# Written into their first input.
_KEEP_ZERO_IN_PLACE = """
    relu_ relu6_ leaky_relu_ elu_ selu_ celu_ silu_ hardswish_ tanh_ abs_ neg_ zero_ dropout_
"""
_FINITE_IN_PLACE = "sigmoid_ hardsigmoid_ hardtanh_ clamp_ threshold_ fill_"
_SUM_IN_PLACE = "add_ sub_ __iadd__ __isub__ masked_fill_"
_PRODUCT_IN_PLACE = "mul_ __imul__"
# Zero where all inputs are.
_TOGETHER = """
    add add_ __iadd__ sub sub_ __isub__ subtract maximum minimum where fmax fmin __add__ __sub__
"""
_KEEP_TOGETHER = frozenset(_TOGETHER.split())


def homes(name: str) -> Iterable[Any]:
    """Everything in torch that bears a name."""
    for home in (torch, torch.Tensor, F, torch.special, vars(torch._C)["_nn"]):
        found = getattr(home, name, None)
        if callable(found):
            yield found


def _single(function: Callable[..., Any], kind: int) -> Callable[..., Any]:
    """Of one ragged input: what else is given is left as it is."""

    def handler(input: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("inplace"):
            return _single_in_place(function, kind)(input, *args, **kwargs)
        others = [a for a in (*args, *kwargs.values()) if isinstance(a, (Packed, Tensor))]
        if others or not isinstance(input, Packed):
            return _several(function, ANY)(input, *args, **kwargs)
        x = input.zeroed() if kind == ANY else input
        made = [function(c, *args, **kwargs) for c in x.canvases]
        return x.remade(made, padding=max(kind, x.padding))

    return handler


def _several(function: Callable[..., Any], kind: int) -> Callable[..., Any]:
    """Of several inputs: ragged ones, tensors that broadcast to them, numbers."""

    def handler(*args: Any, **kwargs: Any) -> Any:
        model, parts, padding = _aligned(kind, function, args, kwargs)
        return model.remade(_called(function, parts, len(args), model), padding=padding)

    return handler


def _called(
    function: Callable[..., Any], parts: dict[Any, Any], count: int, model: Packed
) -> list[Any]:
    made = []
    for k in range(len(model.canvases)):
        here = {key: part[k] if isinstance(part, _Parts) else part for key, part in parts.items()}
        positional = [here.pop(n) for n in range(count)]
        made.append(function(*positional, **here))
    return made


class _Parts(list):
    """A tensor for each canvas."""


def _aligned(
    kind: int, function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Packed, dict[Any, Any], int]:
    """Arguments as a part for each canvas; what the result's padding holds."""
    if (
        not kwargs
        and len(args) == 2
        and kind == FINITE
        and all(isinstance(a, Packed) for a in args)
    ):
        x, y = args[0].beside(args[1])  # a residual connection: the way that must be short
        worst = max(x.padding, y.padding)
        padding = worst if function.__name__ in _KEEP_TOGETHER else max(FINITE, worst)
        return x, {0: _Parts(x.canvases), 1: _Parts(y.canvases)}, padding
    given = {**dict(enumerate(args)), **kwargs}
    ragged = {key: a for key, a in given.items() if isinstance(a, Packed)}
    if kind == ANY:
        ragged = {key: x.zeroed() for key, x in ragged.items()}
    elif kind == ZERO:
        ragged = {key: x.tame() for key, x in ragged.items()}
    model = next(iter(ragged.values()))
    for x in ragged.values():
        model, _ = model.beside(x)
    parts: dict[Any, Any] = {}
    tensors = False
    for key, a in given.items():
        if key in ragged:
            parts[key] = _Parts(ragged[key].beside(model)[0].canvases)
        elif isinstance(a, Tensor) and a.ndim:
            parts[key] = _Parts(_spread(a, model))
            tensors = True
        else:
            parts[key] = a
    held = [x.padding for x in ragged.values()]
    if kind == ZERO:
        padding = min(held)
    elif kind == ANY:
        padding = ANY
    else:
        numbers = any(isinstance(a, (int, float, Tensor)) for a in args)
        keeps = function.__name__ in _KEEP_TOGETHER and not tensors and not numbers
        padding = max(held) if keeps else max(FINITE, *held)
    return model, parts, padding


def _spread(tensor: Tensor, x: Packed) -> list[Tensor]:
    """The part of a plain tensor that each canvas meets."""
    missing = x.dim() - tensor.ndim
    whole = len(x.canvases) == 1 and x.valid[0].full
    for axis, size in enumerate(tensor.shape, missing):
        if axis >= 0 and isinstance(x.layout[axis], int) and size != 1:
            missing = missing if whole and size == x.canvases[0].shape[axis] else -1
    if missing < 0:
        raise refused(
            f"a tensor without space beside {x.described()}",
            f"shape {tuple(tensor.shape)}",
            "give it size 1 along ragged axes, or make it a sc.Ragged of the same sizes",
        )
    axis = x.batch - missing
    if axis < 0 or tensor.shape[axis] == 1:
        return [tensor] * len(x.canvases)
    return x.shares(tensor, axis)


def prelu(input: Any, weight: Tensor) -> Any:
    """A slope for each channel where the input is negative."""
    x = input.tame()
    return x.remade([torch.prelu(c, weight) for c in x.canvases], padding=x.padding)


def _single_in_place(function: Callable[..., Any], kind: int) -> Callable[..., Any]:
    """Of one input, written into it."""

    def in_place(input: Packed, *args: Any, **kwargs: Any) -> Any:
        for canvas in input.canvases:
            function(canvas, *args, **kwargs)
        input.held[0] = max(kind, input.padding)
        return input

    return in_place


def _several_in_place(function: Callable[..., Any], kind: int) -> Callable[..., Any]:
    """Of several inputs, written into the first: a sum or a product."""

    def in_place(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Packed):
            raise refused(
                "a ragged batch to write into", "a tensor", "write a + b instead of a += b"
            )
        if kind == ZERO or input.padding == ZERO:
            ready = [a.zeroed() if isinstance(a, Packed) else a for a in args]
        else:
            ready = list(args)
        model, parts, padding = _aligned(FINITE, function, (input, *ready), kwargs)
        if model.layout != input.layout:
            raise refused(
                f"terms that fit into {input.described()}", model.described(), "use a + b"
            )
        _called(function, parts, 1 + len(args), model)
        if kind != ZERO or input.padding != ZERO:
            # never less: what shares these canvases may have other padding
            clean = input.padding == ZERO and all(isinstance(a, Packed) for a in args)
            input.held[0] = ZERO if clean else max(padding, input.padding)
        return input

    return in_place


def _quotient(function: Callable[..., Any]) -> Callable[..., Any]:
    """By a number or a plain tensor it is a product; by ragged values anything."""
    by_fixed, by_ragged = _several(function, ZERO), _several(function, ANY)

    def handler(input: Any, other: Any, **kwargs: Any) -> Any:
        fixed = isinstance(input, Packed) and not isinstance(other, Packed)
        return (by_fixed if fixed else by_ragged)(input, other, **kwargs)

    return handler


def _table() -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for names, kind in ((_KEEP_ZERO, ZERO), (_KEEP_FINITE, FINITE), (_WILD, ANY)):
        table |= {f: _single(f, kind) for name in names.split() for f in homes(name)}
    table |= {torch.prelu: prelu, torch.Tensor.prelu: prelu}
    threshold: Any = vars(F)["_threshold"]
    table[threshold] = _single(threshold, FINITE)
    for names, kind in ((_FINITE, FINITE), (_PRODUCT, ZERO), (_ANY, ANY)):
        table |= {f: _several(f, kind) for name in names.split() for f in homes(name)}
    for f in (f for name in _QUOTIENT.split() for f in homes(name)):
        table[f] = _quotient(f)
    for names, kind in ((_KEEP_ZERO_IN_PLACE, ZERO), (_FINITE_IN_PLACE, FINITE)):
        table |= {f: _single_in_place(f, kind) for name in names.split() for f in homes(name)}
    for names, kind in ((_SUM_IN_PLACE, FINITE), (_PRODUCT_IN_PLACE, ZERO)):
        table |= {f: _several_in_place(f, kind) for name in names.split() for f in homes(name)}
    return table


POINTWISE = _table()
