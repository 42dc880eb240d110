"""The receptive field by experiment: the model's own forward, with gradients that cannot vanish.

Under a `TorchFunctionMode` every function is replaced by a stand-in that sees the same positions
but has a positive gradient wherever there is a connection: kernels become means, maxima means,
activations the identity, products sums. Behind each step the gradient is made 0 or 1, so it cannot
overflow, underflow or cancel. The positions of the input with a gradient are then exactly those
that a chosen output unit sees. Nothing here is shared with the recursion: the geometry is torch's
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call, tensors_of

LARGEST = 1 << 21  # positions of an input that is grown until its border is not seen


class NotFollowedError(Exception):
    """A function has no stand-in and no gradient, so what it sees is not known."""


def _convolution(x: Tensor, weight: Tensor, *rest: Any, turned: bool = False, **options: Any):
    named = dict(zip(("bias", "stride", "padding"), rest, strict=False)) | options
    more = ("output_padding", "groups", "dilation") if turned else ("dilation", "groups")
    named |= dict(zip(more, rest[3:], strict=False))
    named.pop("bias", None)
    groups, n = named.pop("groups", 1), weight.dim() - 2
    batched = x.dim() == n + 2
    x = x if batched else x[None]
    outputs = weight.shape[1] * groups if turned else weight.shape[0]
    means = x.unflatten(1, (groups, -1)).mean(2)
    kernel = torch.full((groups, 1, *weight.shape[2:]), 1 / weight[0, 0].numel(), dtype=x.dtype)
    kind = f"conv_transpose{n}d" if turned else f"conv{n}d"
    y = getattr(F, kind)(means, kernel, groups=groups, **named)
    y = y[:, :, None].expand(-1, -1, outputs // groups, *(-1,) * n).flatten(1, 2)
    return y if batched else y[0]


def _transposed(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
    return _convolution(x, weight, *rest, turned=True, **options)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.mean(-1, keepdim=True).expand(*x.shape[:-1], weight.shape[0])


def _max_pool(real: Callable[..., Tensor], n: int) -> Callable[..., Tensor]:
    def pool(x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_):
        shape = real(x, kernel_size, stride, padding, dilation, ceil_mode).shape
        row = [[v] * n if isinstance(v, int) else [*v] for v in (kernel_size, padding, dilation)]
        kernel, pads, dilations = row
        steps = [stride] * n if isinstance(stride, int) else [*(stride or kernel)]
        rows = zip(x.shape[-n:], shape[-n:], kernel, pads, dilations, steps, strict=True)
        around: list[int] = []
        for size, out, k, p, d, s in rows:
            around = [p, max(p, (out - 1) * s + d * (k - 1) + 1 - size - p), *around]
        flat = F.pad(x.reshape(-1, 1, *x.shape[-n:]), around)
        ones = torch.full((1, 1, *kernel), 1 / math.prod(kernel), dtype=x.dtype)
        y = getattr(F, f"conv{n}d")(flat, ones, stride=steps, dilation=dilations)
        y = y[(..., *(slice(m) for m in shape[-n:]))]
        return y.reshape(shape)

    return pool


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _sum(a: Any, b: Any = 0, *_: Any, **__: Any) -> Tensor:
    return a + b


def _with_mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x + x.mean(tuple(axes), keepdim=True) if axes else x


def _batch_norm(x, mean=None, var=None, weight=None, bias=None, training=False, *_, **options):
    local = options.get("running_mean", mean) is not None and not training
    return x if local else _with_mean(x, [k for k in range(x.dim()) if k != 1])


def _instance_norm(x: Tensor, *rest: Any, use_input_stats: bool = True, **_: Any) -> Tensor:
    stats = rest[4] if len(rest) > 4 else use_input_stats
    return _with_mean(x, range(2, x.dim())) if stats else x


def _group_norm(x: Tensor, groups: int, *_: Any, **__: Any) -> Tensor:
    return _with_mean(x.unflatten(1, (groups, -1)), range(2, x.dim() + 1)).flatten(1, 2)


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> Tensor:
    return _with_mean(x, range(-len(shape), 0))


def _softmax(x: Tensor, dim: int = -1, *_: Any, **__: Any) -> Tensor:
    return _with_mean(x, [dim])


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    dims = tuple(range(x.dim())) if dim is None else dim
    return x.mean(dims, keepdim=keepdim)


def _matmul(a: Tensor, b: Tensor, **_: Any) -> Tensor:
    left = a.mean(-1, keepdim=a.dim() > 1 and b.dim() > 1)
    right = b.mean(-2, keepdim=a.dim() > 1) if b.dim() > 1 else b.mean()
    return left + right


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    keys = k.mean((-2, -1), keepdim=True) + v.mean(-2, keepdim=True)
    return q.mean(-1, keepdim=True) + keys


def _multihead(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any):
    seen = (key + value).mean((0, -1), keepdim=True) if key.shape == value.shape else None
    if seen is None:
        raise NotFollowedError("multi-head attention with keys unlike values")
    return query.mean(-1, keepdim=True).expand_as(query) + seen, None


_STAND_INS: dict[str, Callable[..., Any]] = {
    "conv1d": _convolution, "conv2d": _convolution, "conv3d": _convolution,
    "conv_transpose1d": _transposed, "conv_transpose2d": _transposed,
    "conv_transpose3d": _transposed, "linear": _linear,
    "max_pool1d": _max_pool(F.max_pool1d, 1), "max_pool2d": _max_pool(F.max_pool2d, 2),
    "max_pool3d": _max_pool(F.max_pool3d, 3), "adaptive_max_pool1d": F.adaptive_avg_pool1d,
    "adaptive_max_pool2d": F.adaptive_avg_pool2d, "adaptive_max_pool3d": F.adaptive_avg_pool3d,
    "batch_norm": _batch_norm, "instance_norm": _instance_norm, "group_norm": _group_norm,
    "layer_norm": _layer_norm, "softmax": _softmax, "log_softmax": _softmax,
    "amax": _mean, "amin": _mean, "var": _mean, "std": _mean, "norm": _mean, "logsumexp": _mean,
    "matmul": _matmul, "bmm": _matmul, "mm": _matmul, "__matmul__": _matmul,
    "scaled_dot_product_attention": _attention, "multi_head_attention_forward": _multihead,
}  # fmt: skip
_SUMS = """mul div true_divide sub rsub maximum minimum mul_ div_ sub_ hypot __mul__ __rmul__
__imul__ __truediv__ __rtruediv__ __itruediv__ __sub__ __rsub__ __isub__"""
_IDENTITIES = """relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid hardtanh elu selu celu
leaky_relu softplus softsign mish logsigmoid prelu threshold rrelu dropout dropout1d dropout2d
dropout3d alpha_dropout feature_alpha_dropout clamp clamp_min clamp_max clip abs exp log log1p sqrt
rsqrt pow neg square sin cos erf round floor ceil sign detach hardshrink softshrink tanhshrink
__pow__ __neg__ reciprocal __abs__ float_power nan_to_num"""
_STAND_INS |= dict.fromkeys(_SUMS.split(), _sum)
for _name in _IDENTITIES.split():
    _STAND_INS |= {_name: _same, f"{_name}_": _same}
_FREE = """
zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
 size dim shape __get__ __eq__ __ne__ __lt__ __gt__ __le__ __ge__ argmax argmin
"""


class _Shadow(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "") or ""
        given = [t for _, t in tensors_of([list(args), list(kwargs.values())])]
        if not any(t.requires_grad for t in given):
            return func(*args, **kwargs)
        if "fft" in name:
            raise NotFollowedError(f"{name}: its gradient cancels")
        if kwargs.get("return_indices"):
            raise NotFollowedError(f"{name} with indices")
        named = {k: v for k, v in kwargs.items() if k not in ("input", "out", "inplace")}
        values = args if args or "input" not in kwargs else (kwargs["input"],)
        stand_in = _STAND_INS.get(name)
        result = stand_in(*values, **named) if stand_in else func(*args, **kwargs)
        made = [t for _, t in tensors_of(result) if t.is_floating_point()]
        if made and name not in _FREE.split() and not any(t.requires_grad for t in made):
            raise NotFollowedError(f"{name}: it has no gradient")
        for tensor in made:
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.register_hook(_binary)
        return result


def _binary(gradient: Tensor) -> Tensor:
    return (gradient != 0).to(gradient.dtype)


@dataclass(frozen=True)
class Mask:
    """The input positions that one output unit sees.

    Attributes:
        unit: The unit's position per space axis of the output; () if it has none.
        seen: For each space axis of the input, whether each of its positions is seen.
        size: The size of the input.
        margins: For each of its axes two steps of the output: so near to the border a stride may
            hide what is beyond.
    """

    unit: tuple[int, ...]
    seen: tuple[Tensor, ...]
    size: tuple[int, ...]
    margins: tuple[int, ...]

    def positions(self, axis: int) -> list[int]:
        """The positions seen along an axis."""
        return self.seen[axis].nonzero()[:, 0].tolist()

    @property
    def touches(self) -> bool:
        """Does it come near the border?"""
        pairs = zip(self.seen, self.margins, strict=True)
        return any(bool(s[:m].any() | s[-m:].any()) for s, m in pairs)


def masks(
    call: Call,
    size: Sequence[int],
    layer: str = "",
    units: int = 1,
    index: int = 0,
) -> list[Mask]:
    """What neighbouring units in the middle of a layer's output see of an input of some size.

    Args:
        call: The model with its arguments; maps have their space axes after batch and channels.
        size: The size of the input per space axis.
        layer: The module whose output is looked at; "" for the model's.
        units: How many units, each one further along every axis.
        index: Which of the tensors given is the input.

    Raises:
        NotFollowedError: A function hides what it sees.
        Exception: The model fails on this size.
    """
    source = call.tensors()[index][1]
    x = torch.ones(1, source.shape[1], *size, requires_grad=True)
    out = _output(call, source, x, layer)
    space = out.shape[2:] if out.dim() == x.dim() else ()
    found = []
    for k in range(units):
        unit = tuple(min(n - 1, n // 2 + k) for n in space)
        chosen = out[(0, slice(None), *unit)] if space else out
        (grad,) = torch.autograd.grad(chosen.sum(), x, retain_graph=True, allow_unused=True)
        seen = (torch.zeros_like(x) if grad is None else grad)[0].ne(0).any(0)
        axes = range(seen.dim())
        sides = tuple(
            seen.any(tuple(a for a in axes if a != k)) if seen.dim() > 1 else seen for k in axes
        )
        margins = tuple(-(-2 * n // m) for n, m in zip(size, space or size, strict=True))
        found.append(Mask(unit, sides, tuple(size), margins))
    return found


def _output(call: Call, source: Tensor, x: Tensor, layer: str) -> Tensor:
    """The output of a layer in a shadow run on x in the place of the input."""
    kept: list[Any] = []
    module: nn.Module = call.model.get_submodule(layer) if layer else call.model
    hook = module.register_forward_hook(lambda m, a, o: kept.append(o))
    swap = tree_map(lambda v: x if v is source else v, (call.args, call.kwargs))
    try:
        with _Shadow(), torch.enable_grad():
            call.replaced(*swap[0], **swap[1]).run()
    finally:
        hook.remove()
    outputs = [t for _, t in tensors_of(kept[-1]) if t.requires_grad]
    if not outputs:
        raise NotFollowedError("the output has no gradient")
    return outputs[0]


def grown(
    call: Call, layer: str = "", units: int = 3, index: int = 0, most: int = LARGEST
) -> list[Mask]:
    """The masks on an input grown until its border is not seen, or as far as that is possible."""
    size = tuple(call.tensors()[index][1].shape[2:])
    found = masks(call, size, layer, units, index)
    while any(m.touches for m in found):
        size = tuple(2 * n for n in size)
        if math.prod(size) > most:
            break
        try:
            found = masks(call, size, layer, units, index)
        except NotFollowedError:
            raise
        except Exception:
            break  # the model takes no such size
    return found
