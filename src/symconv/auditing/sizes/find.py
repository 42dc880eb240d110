"""Which input sizes a model takes, what comes out, and whether zero padding leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from symconv.auditing.axes import check_axes
from symconv.auditing.call import Call
from symconv.auditing.counts.fake import fake
from symconv.auditing.meta import meta
from symconv.auditing.receptive.recursion import plain_attention
from symconv.auditing.report import Sizes
from symconv.auditing.sizes.laws import FAR, exported, laws, names
from symconv.auditing.sizes.leak import leak
from symconv.auditing.sizes.probe import Probe, Size, quiet, replaced
from symconv.auditing.state import left_as_found
from symconv.errors import StructureError

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
        >>> conv = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
        >>> net = torch.nn.Sequential(conv, torch.nn.Conv2d(1, 1, 3))
        >>> found = find_sizes(Call.of(net, torch.zeros(1, 1, 32, 32)))
        >>> found.smallest, found.law, found.leak
        ((5, 5), '(h - 3) // 2, (w - 3) // 2', True)
    """
    check_axes(call)
    with left_as_found(call.model, guarded=False), plain_attention(), torch.no_grad():
        probe, found = _by_shapes_of(call)
    if found.fixed_by is not None or found.smallest is None:
        return found
    law = found.law
    with left_as_found(call.model), plain_attention(), torch.no_grad():
        smallest = Probe(call).first_that_works(found.smallest, probe.steps)
        leaks, notes = leak(Probe(call), smallest or probe.base, probe.steps)
        if law is None:
            with suppress(Exception):
                law = exported(call)
    if law is None:
        notes = ("no law of the output size was found", *notes)
    return Sizes(smallest, law, None, leaks, found.notes + notes)


def _by_shapes_of(call: Call) -> tuple[Probe, Sizes]:
    """What shapes tell, on meta tensors; on fake ones where the model mixes devices."""
    try:
        with meta(call) as quick:
            probe = Probe(quick)
            return probe, _by_shapes(probe)
    except ValueError:
        with quiet(), fake(call) as slow:
            probe = Probe(slow)
            return probe, _by_shapes(probe)


def _by_shapes(probe: Probe) -> Sizes:
    """All that shapes alone tell."""
    try:
        first = probe.run(probe.blank(probe.base))[0]
    except StructureError:
        raise
    except Exception as error:
        raise ValueError(
            f"shapes alone do not decide what the model does ({type(error).__name__})"
        ) from error
    steps = [1] * len(probe.base)
    if not _takes(probe, range(len(probe.base)), 1):
        for axis in range(len(steps)):
            grows = probe.out(replaced(probe.base, axis, probe.base[axis] + FAR)) is not None
            found = grows and next((step for step in STEPS if _takes(probe, [axis], step)), None)
            if not found:
                return _fixed(probe, axis)
            steps[axis] = found
    probe.steps = tuple(steps)
    smallest = _smallest(probe)
    law = laws(probe, tuple(first.shape))
    notes = tuple(
        f"{name} must be a multiple of {step}"
        if base % step == 0
        else f"{name} must leave a remainder of {base % step} when divided by {step}"
        for name, step, base in zip(names(len(probe.base)), steps, probe.base, strict=True)
        if step > 1
    )
    return Sizes(smallest, law, None, None, notes)


def _takes(probe: Probe, axes: Sequence[int], step: int) -> bool:
    """Can these axes grow by any multiple of a step?"""
    return all(
        probe.out([n + k * step * (a in axes) for a, n in enumerate(probe.base)])
        for k in (1, 2, 3, FAR)
    )


def _fixed(probe: Probe, axis: int) -> Sizes:
    """A model that takes the size it was given, and at most those that round to it."""
    base, symbols = probe.base, names(len(probe.base))
    probe.failed_in = None
    probe.forget()
    probe.out(replaced(base, axis, base[axis] + FAR))
    where = probe.failed_in or "the model's own forward"
    if probe.call.program is not None:
        where = "the exported program"
    low, high = [], []
    for a, n in enumerate(base):
        low.append(
            n - _most(lambda k, a=a, n=n: n > k and bool(probe.out(replaced(base, a, n - k))))
        )
        high.append(n + _most(lambda k, a=a, n=n: bool(probe.out(replaced(base, a, n + k)))))
    said = (
        f"{s} = {a}" if a == b else f"{s} from {a} to {b}"
        for s, a, b in zip(symbols, low, high, strict=True)
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


def _smallest(probe: Probe) -> Size:
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
