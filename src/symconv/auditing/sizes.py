"""Which input sizes a model takes, what comes out, and whether zero padding leaks."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call, tensors_of
from symconv.auditing.counts.fake import fake
from symconv.auditing.receptive.fields import spatial_input
from symconv.auditing.receptive.recursion import plain_attention
from symconv.auditing.records import Sizes
from symconv.auditing.state import left_as_found

Size = tuple[int, ...]
Out = Callable[[int], int | None]  # input size -> output size, None where it does not work
FAR = 40320  # 2^7 3^2 5 7: a multiple of the strides that networks have
STEPS = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    14,
    16,
    20,
    24,
    28,
    30,
    32,
    36,
    40,
    48,
    56,
    60,
    64,
    96,
    112,
    128,
    224,
)
PICTURE = 32  # pictures of the leak test are about this large, or the smallest that works


def find_sizes(call: Call) -> Sizes:
    """Which input sizes work, the law of the output's size, and the leak of zero padding.

    The model runs at many sizes on meta tensors, which have shapes and no numbers. Sizes are
    searched through in steps that all work (multiples of 32, say), under the assumption that what
    works at one size works at all larger ones of its class. The law is fitted and then checked at
    other sizes, far larger ones among them. The smallest size is confirmed by a real run.

    Leak: a picture is put in the corner of a canvas whose rest is not-a-number, and the output
    cells that the picture alone would have are looked at: is one of them not a number? For an
    output without space axes all are looked at. By how much they change if the rest is zero is in
    the notes.

    Args:
        call: The model with its arguments.

    Raises:
        ValueError: No input has space axes, or shapes alone do not decide what the model does.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 3))
        >>> found = find_sizes(Call.of(net, torch.zeros(1, 1, 32, 32)))
        >>> found.smallest, found.law, found.leak
        ((5, 5), '(h - 3) // 2, (w - 3) // 2', True)
    """
    with left_as_found(call.model, guarded=False), plain_attention(), torch.no_grad():
        probe, found = _by_shapes_of(call)
    if found.fixed_by is not None:
        return found
    with left_as_found(call.model), plain_attention(), torch.no_grad():
        real = _Probe(call)
        smallest = real.first_that_works(found.smallest, probe.steps)
        leak, notes = _leak(real, smallest or probe.base, probe.steps)
        law = found.law
        if law is None:
            try:
                law = _exported(call)
            except Exception:
                pass
    if law is None:
        notes = ("no law of the output size was found", *notes)
    return Sizes(smallest, law, None, leak, found.notes + notes)


def _by_shapes_of(call: Call) -> tuple[_Probe, Sizes]:
    """What shapes tell, on meta tensors; on fake ones where the model mixes devices."""
    try:
        with _meta(call) as quick:
            probe = _Probe(quick)
            return probe, _by_shapes(probe)
    except ValueError:
        log = logging.getLogger("torch._subclasses.fake_tensor")
        before = log.disabled
        log.disabled = True  # it reports sizes that do not work as errors
        try:
            with fake(call) as quick:
                probe = _Probe(quick)
                return probe, _by_shapes(probe)
        finally:
            log.disabled = before


@contextmanager
def _meta(call: Call) -> Iterator[Call]:
    """The same call on meta tensors: shapes without numbers, quicker than fake ones."""
    stores = [s for m in call.model.modules() for s in (m._parameters, m._buffers)]
    found = [dict(store) for store in stores]

    def convert(value: Any) -> Any:
        return value.to("meta") if isinstance(value, Tensor) else value

    try:
        for store in stores:
            store.update({name: convert(tensor) for name, tensor in store.items()})
        args, kwargs = tree_map(convert, (call.args, call.kwargs))
        with torch.device("meta"):
            yield call.replaced(*args, **kwargs)
    finally:
        for store, tensors in zip(stores, found, strict=True):
            store.update(tensors)


class _Probe:
    """Runs a model at any input size.

    Attributes:
        base: The size of the input given.
        steps: Multiples in which a size can change, per space axis.
        failed_in: The innermost module that was running when the last run failed.
    """

    def __init__(self, call: Call):
        index, self.space = spatial_input(call)
        self.call, self.source = call, call.tensors()[index][1]
        self.base: Size = tuple(self.source.shape[a] for a in self.space)
        self.steps: Size = (1,) * len(self.base)
        self.failed_in: str | None = None
        self._known: dict[Size, Size | None] = {}

    def run(self, x: Tensor) -> list[Tensor]:
        """The output tensors for another input; an exception if it does not work."""
        args, kwargs = tree_map(
            lambda v: x if v is self.source else v, (self.call.args, self.call.kwargs)
        )
        with _scope(self.call.model) as scope:
            try:
                found = [t for _, t in tensors_of(self.call.replaced(*args, **kwargs).run())]
            except Exception:
                self.failed_in = scope[-1] if scope else None
                raise
        if not found or any(t.numel() == 0 for t in found):
            self.failed_in = None
            raise ValueError("an empty output")
        return found

    def blank(self, size: Sequence[int]) -> Tensor:
        """Zeros of the input's kind and another size."""
        shape = list(self.source.shape)
        for axis, n in zip(self.space, size, strict=True):
            shape[axis] = n
        return torch.zeros(shape, dtype=self.source.dtype, device=self.source.device)

    def out(self, size: Sequence[int]) -> Size | None:
        """The shape of the first output at a size; None if that size does not work."""
        size = tuple(size)
        if size not in self._known:
            try:
                self._known[size] = tuple(self.run(self.blank(size))[0].shape)
            except Exception:
                self._known[size] = None
        return self._known[size]

    def first_that_works(self, size: Size, steps: Size) -> Size | None:
        """The first size from this one upwards that works."""
        for k in range(17):
            larger = tuple(n + k * s for n, s in zip(size, steps, strict=True))
            if any(n > b for n, b in zip(larger, self.base, strict=True)):
                break
            if self.out(larger):
                return larger
        return None


@contextmanager
def _scope(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running; as they were when a run failed."""
    names = {id(module): name for name, module in reversed([*model.named_modules()])}
    stack: list[str] = []

    def begin(module: nn.Module, args: Any) -> None:
        stack.append(names.get(id(module), type(module).__name__))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    hooks = [register_module_forward_pre_hook(begin), register_module_forward_hook(end)]
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()


def _by_shapes(probe: _Probe) -> Sizes:
    """All that shapes alone tell."""
    try:
        first = probe.run(probe.blank(probe.base))[0]
    except Exception as error:
        raise ValueError(
            f"shapes alone do not decide what the model does ({type(error).__name__})"
        ) from error
    steps = [1] * len(probe.base)
    if not _takes(probe, range(len(probe.base)), 1):
        for axis in range(len(steps)):
            grows = probe.out(_with(probe.base, axis, probe.base[axis] + FAR)) is not None
            found = grows and next((step for step in STEPS if _takes(probe, [axis], step)), None)
            if not found:
                return _fixed(probe, axis)
            steps[axis] = found
    probe.steps = tuple(steps)
    smallest = _smallest(probe)
    laws = _laws(probe, tuple(first.shape))
    notes = tuple(
        f"{name} must be a multiple of {step}"
        if base % step == 0
        else f"{name} must leave a remainder of {base % step} when divided by {step}"
        for name, step, base in zip(_names(len(probe.base)), steps, probe.base, strict=True)
        if step > 1
    )
    return Sizes(smallest, laws, None, None, notes)


def _names(axes: int) -> str:
    """Symbols for the sizes of space axes."""
    return {1: "n", 2: "hw", 3: "dhw"}.get(axes, "abcdefgh"[:axes])


def _with(size: Size, axis: int, n: int) -> Size:
    return (*size[:axis], n, *size[axis + 1 :])


def _takes(probe: _Probe, axes: Sequence[int], step: int) -> bool:
    """Can these axes grow by any multiple of a step?"""
    return all(
        probe.out([n + k * step * (a in axes) for a, n in enumerate(probe.base)])
        for k in (1, 2, 3, FAR)
    )


def _fixed(probe: _Probe, axis: int) -> Sizes:
    """A model that takes the size it was given, and at most those that round to it."""
    base, name = probe.base, _names(len(probe.base))
    probe.failed_in = None
    probe._known.clear()
    probe.out(_with(base, axis, base[axis] + FAR))
    where = probe.failed_in or "the model's own forward"
    if probe.call.program is not None:
        where = "the exported program"
    low, high = [], []
    for a, n in enumerate(base):
        low.append(n - _most(lambda k, a=a, n=n: n > k and bool(probe.out(_with(base, a, n - k)))))
        high.append(n + _most(lambda k, a=a, n=n: bool(probe.out(_with(base, a, n + k)))))
    said = (
        f"{s} = {a}" if a == b else f"{s} from {a} to {b}"
        for s, a, b in zip(name, low, high, strict=True)
    )
    return Sizes(tuple(low), None, where, None, (f"works for {', '.join(said)}",))


def _most(works: Callable[[int], bool]) -> int:
    """The largest number that works, if all below it do."""
    low, high = 0, 1
    while high < FAR and works(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low


def _smallest(probe: _Probe) -> Size:
    """The smallest size that works, in steps that work."""
    starts = [(n - 1) % s + 1 for n, s in zip(probe.base, probe.steps, strict=True)]
    most = [(n - a) // s for n, a, s in zip(probe.base, starts, probe.steps, strict=True)]

    def size(counts: Sequence[int]) -> Size:
        rows = zip(starts, counts, most, probe.steps, strict=True)
        return tuple(a + min(k, m) * s for a, k, m, s in rows)

    together = _first(lambda k: probe.out(size([k] * len(most))) is not None, max(most))
    counts = [min(together, m) for m in most]
    for axis in range(len(counts)):  # the axes need not be alike

        def alone(k: int, axis: int = axis) -> bool:
            return probe.out(size([*counts[:axis], k, *counts[axis + 1 :]])) is not None

        if counts[axis] and alone(counts[axis] - 1):
            counts[axis] = _first(alone, counts[axis])
    return size(counts)


def _first(works: Callable[[int], bool], most: int) -> int:
    """The smallest number that works, if all above it do; `most` is known to."""
    low, high = -1, 0
    while high < most and not works(high):
        low, high = high, min(most, 2 * high + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _laws(probe: _Probe, shape: Size) -> str | None:
    """The output size in symbols of the input's."""
    if probe.source.dim() != len(shape):
        far = tuple(n + s * FAR for n, s in zip(probe.base, probe.steps, strict=True))
        near = tuple(n + s for n, s in zip(probe.base, probe.steps, strict=True))
        same = all(probe.out(size) == shape for size in (far, near))
        return f"{'x'.join(map(str, shape[1:]))} at any input size" if same else None
    found = [_law(probe, axis, name) for axis, name in enumerate(_names(len(probe.base)))]
    return None if None in found else ", ".join(law for law in found if law)


def _law(probe: _Probe, axis: int, name: str) -> str | None:
    """One axis: the first p ((n + c) // q) + r that fits everywhere it is looked at."""
    base, step = probe.base[axis], probe.steps[axis]
    known: dict[int, int] = {}

    def out(n: int) -> int | None:
        if n not in known:
            shape = probe.out(_with(probe.base, axis, n))
            if shape is None:
                return None
            known[n] = shape[probe.space[axis]]
        return known[n]

    here, far = out(base), out(base + step * FAR)
    if here is None or far is None:
        return None
    slope = Fraction(far - here, step * FAR)
    q = slope.denominator
    looked = [base + step * k for k in (1, 2, 3, 5, 7, q // 2, q - 1, q, 2 * q + 1, 31, FAR - 1)]
    for law in (_floor(out, base, step, slope), *_blocks(out, base, step, slope)):
        if law is not None and all(out(n) == law(n) for n in looked):
            return law.text(name)
    return None


@dataclass(frozen=True)
class _Law:
    """m ((p n + c) // q) + r."""

    p: int
    c: int
    q: int
    m: int = 1
    r: int = 0

    def __call__(self, n: int) -> int:
        return self.m * ((self.p * n + self.c) // self.q) + self.r

    def text(self, name: str) -> str:
        """The law, readable.

        Example:
            >>> _Law(1, 31, 32).text("h"), _Law(1, -4, 1).text("h"), _Law(1, 0, 4, 2, -1).text("h")
            ('(h + 31) // 32', 'h - 4', '2 * (h // 4) - 1')
        """
        p, c, q, m, r = self.p, self.c, self.q, self.m, self.r
        if p == 0:
            return str(self(0))
        inner = name if p == 1 else f"{p} * {name}"
        if q == 1:
            inner += _signed(m * c + r) if m == 1 else f"{_signed(c)}"
            return inner if m == 1 else f"{m} * ({inner}){_signed(r)}"
        inner = f"({inner}{_signed(c)}) // {q}" if c or p != 1 else f"{inner} // {q}"
        return (inner if m == 1 else f"{m} * ({inner})") + _signed(r)


def _signed(n: int) -> str:
    return "" if n == 0 else f" {'+' if n > 0 else '-'} {abs(n)}"


def _floor(out: Out, base: int, step: int, slope: Fraction) -> _Law | None:
    """The (p n + c) // q that fits, its c found by halving."""
    p, q = slope.numerator, slope.denominator
    low = q * (out(base) or 0) - p * base  # c is at least this, and less than q more
    high = low + q - 1
    while low < high:
        middle = (low + high + 1) // 2
        at = (base + step * k for k in range(q))
        n = next((n for n in at if (p * n + middle) % q == 0), None)
        value = None if n is None else out(n)
        if n is None or value is None:
            return None
        low, high = (middle, high) if q * value >= p * n + middle else (low, middle - 1)
    return _Law(p, low, q)


def _blocks(out: Out, base: int, step: int, slope: Fraction) -> Iterator[_Law | None]:
    """The m ((n + c) // q) + r that fit: down by q, up by m."""
    for times in (2, 4, 8, 16, 32, 3, 5, 6, 7, 64):
        m, q = slope.numerator * times, slope.denominator * times
        jump = _jump(out, base, q, step)
        if m and jump is not None:
            c = -jump % q
            r = (out(base) or 0) - m * ((base + c) // q)
            yield _Law(1, c + q * (r // m), q, m, r % m) if r % m == 0 else _Law(1, c, q, m, r)


def _jump(out: Out, base: int, q: int, step: int) -> int | None:
    """The first size above the base at which the output grows."""
    low, high = 0, -(-q // step)
    start = out(base)
    while high - low > 1:
        middle = (low + high) // 2
        value = out(base + middle * step)
        if value is None:
            return None
        low, high = (middle, high) if value == start else (low, middle)
    return base + high * step


def _exported(call: Call) -> str | None:
    """The law as `torch.export` derives it, for those that are not of a simple form."""
    index, space = spatial_input(call)
    source = call.tensors()[index][1]
    auto = dict.fromkeys(space, torch.export.Dim.AUTO)
    args, kwargs = tree_map(
        lambda v: auto if v is source else None if isinstance(v, Tensor) else v,
        (call.args, call.kwargs),
    )
    shapes = inspect.signature(call.model.forward).bind(*args, **kwargs).arguments
    program = torch.export.export(
        call.model, call.args, call.kwargs, dynamic_shapes=dict(shapes), strict=False
    )
    nodes = {node.name: node for node in program.graph.nodes}
    given = nodes[program.graph_signature.user_inputs[index]].meta["val"].shape
    made = nodes[program.graph_signature.user_outputs[0]].meta["val"].shape
    text = ", ".join(str(made[a]) for a in space)
    for axis, name in zip(space, _names(len(space)), strict=True):
        text = re.sub(rf"\b{given[axis]}\b", name, text)
    return None if re.search(r"\bs\d|Mod|Min|Max", text) else text.replace("//", " // ")


def _leak(probe: _Probe, smallest: Size, steps: Size) -> tuple[bool | None, tuple[str, ...]]:
    """Does what lies beside a picture reach the cells that the picture alone would have?"""
    if not probe.source.is_floating_point():
        return None, ("inputs that are no real numbers have no zero padding to look at",)
    rows = list(zip(smallest, steps, strict=True))
    first = [n + -(-max(0, PICTURE - n) // s) * s for n, s in rows]
    for k in range(4):  # a strided layer reaches beyond some sizes only
        size = tuple(n + k * s for n, s in zip(first, steps, strict=True))
        canvas = tuple(n + -(-(n // 2) // s) * s for n, s in zip(size, steps, strict=True))
        try:
            reached, changed = _reached(probe, size, canvas)
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return None, (f"the leak of zero padding could not be tried: {why}",)
        if reached or changed > 1e-3:
            shown = ["x".join(map(str, n)) for n in (size, canvas)]
            return True, (
                f"what lies beside a {shown[0]} picture on a canvas of {shown[1]} reaches "
                f"{100 * reached:.3g} % of its valid outputs; zeros there change them by "
                f"{100 * changed:.2g} %",
            )
    return False, ()


def _reached(probe: _Probe, size: Size, canvas: Size) -> tuple[float, float]:
    """Share of a picture's outputs that its surroundings reach; how much zeros there change."""
    picture = torch.randn(probe.blank(size).shape, generator=torch.Generator().manual_seed(0))
    picture = picture.to(probe.source)
    inside = (slice(None),) * probe.space[0] + tuple(slice(n) for n in size)
    zeros, marked = probe.blank(canvas), torch.full_like(probe.blank(canvas), torch.nan)
    zeros[inside], marked[inside] = picture, picture
    nans = total = 0
    change = scale = 0.0
    for a, b, m in zip(*(probe.run(x) for x in (picture, zeros, marked)), strict=True):
        if not a.is_floating_point() or a.dim() != m.dim():
            continue
        valid = tuple(slice(n) for n in a.shape)
        nans += int((m[valid].isnan() & ~a.isnan()).sum())
        total += a.numel()
        change += float((b[valid] - a).double().square().sum())
        scale += float(a.double().square().sum())
    if not total:
        raise ValueError("the output holds no real numbers")
    return nans / total, (change / scale) ** 0.5 if scale else 0.0
