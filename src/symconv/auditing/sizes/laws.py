"""The law of the output size, in symbols of the input's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from symconv.auditing.call import Call
from symconv.auditing.receptive.fields import spatial_input
from symconv.auditing.sizes.probe import Probe, Size, replaced

Out = Callable[[int], int | None]  # input size -> output size, None where it does not work
FAR = 40320  # 2^7 3^2 5 7: a multiple of the strides that networks have


def names(axes: int) -> str:
    """Symbols for the sizes of space axes."""
    return {1: "n", 2: "hw", 3: "dhw"}.get(axes, "abcdefgh"[:axes])


def laws(probe: Probe, shape: Size) -> str | None:
    """The output size in symbols of the input's."""
    if probe.source.dim() != len(shape):
        far = tuple(n + s * FAR for n, s in zip(probe.base, probe.steps, strict=True))
        near = tuple(n + s for n, s in zip(probe.base, probe.steps, strict=True))
        same = all(probe.out(size) == shape for size in (far, near))
        return f"{'x'.join(map(str, shape[1:]))} at any input size" if same else None
    found = [_law(probe, axis, name) for axis, name in enumerate(names(len(probe.base)))]
    return None if None in found else ", ".join(law for law in found if law)


def _law(probe: Probe, axis: int, name: str) -> str | None:
    """One axis: the first p ((n + c) // q) + r that fits everywhere it is looked at."""
    base, step = probe.base[axis], probe.steps[axis]
    known: dict[int, int] = {}

    def out(n: int) -> int | None:
        if n not in known:
            shape = probe.out(replaced(probe.base, axis, n))
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


def exported(call: Call) -> str | None:
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
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    given = nodes[str([*inputs][index])].meta["val"].shape
    made = nodes[str(next(iter(outputs)))].meta["val"].shape
    text = ", ".join(str(made[a]) for a in space)
    for axis, name in zip(space, names(len(space)), strict=True):
        text = re.sub(rf"\b{given[axis]}\b", name, text)
    return None if re.search(r"\bs\d|Mod|Min|Max", text) else text.replace("//", " // ")
