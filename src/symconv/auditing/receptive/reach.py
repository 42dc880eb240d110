"""Which input positions each output position reaches along one axis, exactly.

Every window operation is periodic on the unbounded lattice: with period q and step p,

    R(j + q) = R(j) + p,

so q finite sets of integers say it all: a convolution of stride s has q = 1, p = s; upsampling by
r has q = r, p = 1. A set is a pair (first position, bits), where bit t of the integer `bits` says
that position first + t is in it. Networks are compositions and unions of such maps, so sizes,
strides, padding and holes come out exact, whatever the kernels.

References:
    André Araujo, Wade Norris, Jack Sim, Computing Receptive Fields of Convolutional Neural
    Networks, Distill (2019): the same recursion, with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

Positions = tuple[int, int]
EMPTY: Positions = (0, 0)
LONGEST = 4096


class NotPeriodicError(Exception):
    """A union or composition that is no periodic map (or one of a hopeless period)."""


@dataclass(frozen=True)
class Reach:
    """A periodic map from output positions to sets of input positions.

    Attributes:
        step: p, input positions per period.
        sets: What outputs 0 to q - 1 reach, each as (first position, bits).
    """

    step: int
    sets: tuple[Positions, ...]

    @classmethod
    def of(cls, period: int, step: int, taps: Callable[[int], Iterable[int]]) -> Reach:
        """The map whose output r, for r below the period, reaches the positions taps(r)."""
        if period > LONGEST:
            raise NotPeriodicError(f"a period of {period}")
        return cls(step, tuple(_positions(taps(r)) for r in range(period))).reduced()

    @property
    def period(self) -> int:
        """Outputs after which the pattern repeats: q."""
        return len(self.sets)

    @property
    def stride(self) -> Fraction:
        """Input positions per output position."""
        return Fraction(self.step, self.period)

    def at(self, j: int) -> Positions:
        """What output j reaches."""
        turns, r = divmod(j, self.period)
        first, bits = self.sets[r]
        return (first + turns * self.step, bits) if bits else EMPTY

    def hull(self, j: int) -> tuple[int, int] | None:
        """First and last position that output j reaches; None if it reaches none."""
        first, bits = self.at(j)
        return (first, first + bits.bit_length() - 1) if bits else None

    @property
    def size(self) -> int:
        """Positions from the first to the last one reached, of the output that has most."""
        return max(bits.bit_length() for _, bits in self.sets)

    @property
    def holes(self) -> bool:
        """Does any output skip a position between its first and its last?"""
        return any(bits & (bits + 1) for _, bits in self.sets)

    def longer(self, times: int) -> Reach:
        """The same map written with `times` its period."""
        if times * self.period > LONGEST:
            raise NotPeriodicError(f"a period of {times * self.period}")
        sets = tuple(self.at(j) for j in range(times * self.period))
        return Reach(times * self.step, sets)

    def reduced(self) -> Reach:
        """The same map written with its smallest period."""
        for period in range(1, self.period):
            times, rest = divmod(self.period, period)
            if rest or self.step % times:
                continue
            short = Reach(self.step // times, self.sets[:period])
            if all(short.at(j) == self.sets[j] for j in range(period, self.period)):
                return short
        return self

    def after(self, outer: Reach) -> Reach:
        """The composition j -> union of self(i) over the i in outer(j)."""
        times = self.period // math.gcd(self.period, outer.step)
        outer = outer.longer(times)
        step = outer.step // self.period * self.step
        sets = tuple(_union(self.at(i) for i in elements(s)) for s in outer.sets)
        return Reach(step, sets).reduced()

    def finer(self, size: int) -> Reach:
        """The same move of a major digit, whose minor digit of some size stays as it is."""

        def taps(j: int) -> Iterator[int]:
            high, low = divmod(j, size)
            return (i * size + low for i in elements(self.at(high)))

        return Reach.of(self.period * size, self.step * size, taps)

    def __or__(self, other: Reach) -> Reach:
        """The union; both must have one stride."""
        if self == other:
            return self
        if self.stride != other.stride:
            raise NotPeriodicError(f"branches of strides {self.stride} and {other.stride}")
        period = math.lcm(self.period, other.period)
        a, b = self.longer(period // self.period), other.longer(period // other.period)
        sets = tuple(_union(pair) for pair in zip(a.sets, b.sets, strict=True))
        return Reach(a.step, sets).reduced()

    def shifted(self, by: int) -> Reach:
        """The map j -> self(j - by)."""
        return self.after(shift(-by))


def elements(positions: Positions) -> Iterator[int]:
    """The members of a set, in order."""
    first, bits = positions
    while bits:
        low = bits & -bits
        yield first + low.bit_length() - 1
        bits ^= low


def _positions(members: Iterable[int]) -> Positions:
    return _union((m, 1) for m in members)


def _union(sets: Iterable[Positions]) -> Positions:
    kept = [s for s in sets if s[1]]
    if not kept:
        return EMPTY
    first = min(f for f, _ in kept)
    bits = 0
    for f, b in kept:
        bits |= b << (f - first)
    return first, bits


SAME = Reach(1, ((0, 1),))


def shift(by: int) -> Reach:
    """Output j reaches input j + by."""
    return Reach(1, ((by, 1),))


def window(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Reach:
    """Convolution and pooling: output j reaches s j - p + d t for t below k.

    Example:
        >>> window(3, stride=2, padding=1).after(window(3)).hull(0)
        (-1, 5)
    """
    return Reach.of(1, stride, lambda _: (dilation * t - padding for t in range(kernel)))


def transposed(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Reach:
    """Transposed convolution: output j reaches i where j = s i - p + d t for a t below k."""

    def taps(j: int) -> Iterator[int]:
        for t in range(kernel):
            i, rest = divmod(j + padding - dilation * t, stride)
            if not rest:
                yield i

    return Reach.of(stride, 1, taps)


def adaptive(inputs: int, outputs: int) -> Reach:
    """Adaptive pooling: output j reaches floor(j n / m) up to ceil((j + 1) n / m) - 1."""
    common = math.gcd(inputs, outputs)
    n, m = inputs // common, outputs // common
    return Reach.of(m, n, lambda j: range(j * n // m, -(-(j + 1) * n // m)))


def resampled(ratio: Fraction, taps: Callable[[Fraction], Iterable[int]], offset: Fraction):
    """Interpolation: output j reads around position ratio (j + 1/2) - offset of the input."""
    return Reach.of(
        ratio.denominator, ratio.numerator, lambda j: taps(ratio * (j + Fraction(1, 2)) - offset)
    )


def blocks(size: int) -> Reach:
    """Output k reaches the inputs k n to k n + n - 1: the minor digit is summed over."""
    return window(size, stride=size)


def repeated(size: int) -> Reach:
    """Output j reaches input floor(j / n): a minor digit that nothing depends on is added."""
    return Reach.of(size, 1, lambda _: (0,))
