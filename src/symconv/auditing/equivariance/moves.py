"""What is done to a picture, and to the features of it: shifts, mirrors, turns and rescalings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from symconv.auditing.equivariance.layout import Layout, LostError
from symconv.auditing.equivariance.scaling import along_scales, partners
from symconv.auditing.equivariance.shifting import by_parts, shifted, times
from symconv.auditing.equivariance.turning import on_background, rotated
from symconv.lattice.groups import Element, Group, parse
from symconv.lattice.scales import Scales
from symconv.transforms import act, rescale, rotate

Space = tuple[int, ...]
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """A transform of the axes of space.

    Attributes:
        name: As in the report.
        source: Which input it is measured on: "given", or "smooth": band-limited, and faded out
            towards the inscribed circle.
        space: Acts on the axes of space of a tensor, given which they are and their strides.
        element: The element of a group that it is; None for shifts and rescalings.
        shift: How far it shifts each axis, in input positions; None if it is none.
        factor: How many times larger it makes pictures, for networks that have fields over scales.
        fill: What stands for channels over scales that none comes from.
        keeps: Which positions of a map of this size have an expected value; None: all of them.
        mask: Acts on a mask (*S).
    """

    name: str
    source: str
    space: Callable[[Tensor, Axes, Sequence[Fraction]], Tensor]
    mask: Callable[[Tensor, Sequence[Fraction]], Tensor]
    element: Element | None = None
    shift: tuple[Fraction, ...] | None = None
    factor: float | None = None
    fill: float = 0.0
    keeps: Callable[[Space], Tensor] | None = None

    def on(self, x: Tensor, layout: Layout, dimension: int) -> Tensor:
        """The transform of a feature: positions move, and channels as their field says.

        Raises:
            LostError: What it does there is not known.
        """

        def act_on(y: Tensor, axes: Axes, channels: int, copy: str) -> Tensor:
            if copy == "s":
                y = self._on_channels(y, channels, layout)
            if all(y.shape[a] == 1 for a in axes):
                return y
            return self.space(y, axes, layout.stride(dimension, copy))

        return layout.transformed(x, act_on, dimension)

    def whole_steps(self, strides: Sequence[Fraction]) -> list[tuple[Fraction, ...]]:
        """Shifts in input positions that move a map of these strides by whole positions.

        A layer that chooses its sampling grid by content moves by one of them, each item by its
        own: t / s rounded down or up on each axis. None where a whole shift t is one already, or
        where the transform is no whole shift.

        Example:
            >>> shift((1, 4)).whole_steps([Fraction(2), Fraction(2)])
            [(Fraction(0, 1), Fraction(4, 1)), (Fraction(2, 1), Fraction(4, 1))]
            >>> shift((1, 4)).whole_steps([Fraction(1), Fraction(2)])
            []
        """
        if self.shift is None or any(t.denominator != 1 for t in self.shift):
            return []
        ratios = [t / s for t, s in zip(self.shift, strides, strict=True)]
        if all(r.denominator == 1 for r in ratios):
            return []
        sides = [sorted({math.floor(r), math.ceil(r)}) for r in ratios]
        return [
            tuple(k * s for k, s in zip(steps, strides, strict=True)) for steps in product(*sides)
        ]

    def partners(self, layout: Layout) -> Tensor | None:
        """Which channels have an expected value; None: all of them."""
        return None if self.factor is None else partners(layout.field, self.factor)

    def lacks(self, layouts: Sequence[Layout]) -> bool:
        """Whether some channels have no expected value."""
        return any(self.partners(layout) is not None for layout in layouts)

    def _on_channels(self, x: Tensor, axis: int, layout: Layout) -> Tensor:
        if self.factor is not None:
            if not layout.sure:
                raise LostError("what scales do to these channels is not known")
            return along_scales(x, axis, layout.field, self.factor, self.fill)
        if self.element is None:
            return x
        if not layout.sure:
            raise LostError("what the group does to these channels is not known")
        field = layout.field
        if field is None or not isinstance(field.group, Group):  # of scales: they stay
            return x
        if not (field.permutation != field.permutation[:1]).any() | field.signed:
            return x
        element = same_element(self.element, field.group)
        if element is None:
            raise LostError(f"{field.group}, the group of these channels, has no such element")
        if field.channels != x.shape[axis]:
            raise LostError(f"{field} on {x.shape[axis]} channels")
        image, signs = field.permutation[element.index], field.signs[element.index]
        moved = x.index_select(axis, torch.from_numpy(image.argsort()).to(x.device))
        if (signs > 0).all():
            return moved
        landed = torch.from_numpy(signs[image.argsort()]).to(x.device, x.dtype)
        return moved * landed.view(-1, *(1,) * (x.ndim - 1 - axis))


def same_element(element: Element, group: Group) -> Element | None:
    """The element of a group that moves space as this one does."""
    if group.dimension != element.group.dimension:
        return None
    found = (e for e in group.elements if np.allclose(e.matrix, element.matrix))
    return next(found, None)


# Shifts


def shift(steps: Sequence[float | Fraction], name: str | None = None) -> Move:
    """A circular shift by so many positions of each axis; a Fourier shift where not whole."""
    steps = tuple(Fraction(s) for s in steps)
    whole = all(s.denominator == 1 for s in steps)

    def space(x: Tensor, axes: Axes, strides: Sequence[Fraction]) -> Tensor:
        return shifted(x, axes, [t / s for t, s in zip(steps, strides, strict=True)])

    def mask(m: Tensor, strides: Sequence[Fraction]) -> Tensor:
        kept = m
        for axis, (t, s) in enumerate(zip(steps, strides, strict=True)):
            by = t / s
            kept = kept.roll(math.floor(by), axis) & kept.roll(math.ceil(by), axis)
        return kept

    amounts = sorted(set(steps))
    said = "x".join(_amount(s) for s in (amounts if len(amounts) == 1 else steps))
    name = name or f"shift {said}"
    return Move(name, "given" if whole else "smooth", space, mask, shift=steps)


def _amount(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):g}"


def of_element(element: Element, name: str | None = None) -> Move:
    """The action of an element of a group."""
    exact = element.exact

    def turned(x: Tensor) -> Tensor:
        return on_background(x, lambda y: act(element, y))

    def space(x: Tensor, axes: Axes, strides: Sequence[Fraction]) -> Tensor:
        if exact:
            return _permuted(x, axes, element.matrix)
        return by_parts(x, axes, lambda y: _last(y, axes, turned))

    def mask(m: Tensor, strides: Sequence[Fraction]) -> Tensor:
        return act(element, m) if exact else act(element, m.double()) > 0.999

    name = name or element_name(element)
    if exact:
        return Move(name, "given", space, mask, element)
    return Move(name, "smooth", space, mask, element, keeps=_disc)


def _permuted(x: Tensor, axes: Axes, matrix: np.ndarray) -> Tensor:
    """`act` on some axes, which need not be the last ones."""
    order = list(range(x.ndim))
    for axis, source in zip(axes, abs(matrix).argmax(axis=1), strict=True):
        order[axis] = axes[source]
    flipped = [axis for axis, row in zip(axes, matrix, strict=True) if row.sum() < 0]
    return x.permute(order).flip(flipped)


def _last(x: Tensor, axes: Axes, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A change of the last axes, applied to others."""
    last = tuple(range(x.ndim - len(axes), x.ndim))
    return change(x.movedim(axes, last)).movedim(last, axes)


def element_name(element: Element) -> str:
    """What an element is called in the report: "turn 90", "mirror", "rotate 45" and the like.

    Example:
        >>> [element_name(e) for e in parse("D4").elements[1:]]
        ['turn 90', 'turn 180', 'turn 270', 'mirror', 'mirror 90', 'mirror 180', 'mirror 270']
    """
    matrix = np.asarray(element.matrix, float)
    n = len(matrix)
    mirrored = np.linalg.det(matrix) < 0
    if n == 1:
        return "mirror"
    if n == 2:
        flip = np.diag([1.0, -1.0])
        turn = matrix @ flip if mirrored else matrix
        # content at (row, column) goes to (-column, row) with a quarter turn
        degrees = math.degrees(math.atan2(-turn[0, 1], turn[0, 0])) % 360
        degrees = round(degrees, 3) % 360
        if mirrored:
            return f"mirror {degrees:g}" if degrees else "mirror"
        return f"turn {degrees:g}" if degrees % 90 == 0 else f"rotate {degrees:g}"
    if n == 3 and not mirrored:
        degrees = math.degrees(math.acos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
        return f"turn {degrees:.0f} of axes {_signed(matrix)}"
    return f"mirror of axes {_signed(matrix)}"


def _signed(matrix: np.ndarray) -> str:
    """Which axis comes to lie on each, with a sign where it is reversed."""
    return " ".join(f"{'-' if row.sum() < 0 else '+'}{int(np.abs(row).argmax())}" for row in matrix)


def rotation(degrees: float) -> Move:
    """A rotation of the last two axes about their centre."""

    def turned(x: Tensor) -> Tensor:
        return on_background(x, lambda y: rotated(y, degrees))

    def space(x: Tensor, axes: Axes, strides: Sequence[Fraction]) -> Tensor:
        return by_parts(x, axes, lambda y: _last(y, axes, turned))

    def mask(m: Tensor, strides: Sequence[Fraction]) -> Tensor:
        return rotate(m.double(), degrees) > 0.999

    return Move(f"rotate {degrees:g}", "smooth", space, mask, keeps=_disc)


def _disc(size: Space) -> Tensor:
    """The positions within 0.9 of the circle inscribed in the last two axes: what shears keep."""
    height, width = size[-2:]
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    inside = rows[:, None] ** 2 + columns**2 <= (0.45 * min(height, width)) ** 2
    return inside.expand(size)


# Rescaling


def rescaling(factor: float, scales: Scales | None = None) -> Move:
    """Another size, frequencies that the new grid cannot hold removed.

    Args:
        factor: How many times larger pictures become.
        scales: Those of the network's own fields, which then move along them.
    """

    def space(x: Tensor, axes: Axes, strides: Sequence[Fraction]) -> Tensor:
        def smaller(y: Tensor) -> Tensor:
            for axis in axes:
                y = times(_scaling(x.shape[axis], factor), y, axis)
            return y

        if min(round(x.shape[axis] * factor) for axis in axes) < 1:
            raise LostError("a map too small to be rescaled")
        return by_parts(x, axes, smaller)

    def mask(m: Tensor, strides: Sequence[Fraction]) -> Tensor:
        for axis, size in enumerate(m.shape):
            new = max(1, round(size * factor))
            at = ((torch.arange(new) + 0.5) * size / new).long().clamp(max=size - 1)
            m = m.index_select(axis, at)
        return m

    along = None if scales is None else factor
    return Move(f"rescale {factor:.4g}", "smooth", space, mask, factor=along)


@lru_cache(maxsize=256)
def _scaling(size: int, factor: float) -> Tensor:
    """The matrix of `rescale` along one axis."""
    return rescale(torch.eye(size, dtype=torch.float64), (factor, 1.0))


# What is measured


MOST_ELEMENTS = 16


def moves_for(
    size: Space,
    period: Sequence[int],
    group: Group | str | None,
    declared: Group | None,
    rescaled: Move | None = None,
) -> list[Move]:
    """The transforms of a report: shifts, then a group's elements or a few usual ones.

    Args:
        size: Space of the input.
        period: The total stride.
        group: The group asked for.
        declared: The group of the network's own fields.
        rescaled: The change of size; to half of it if left out.
    """
    n = len(size)
    found = [shift((1,) * n)]
    if max(period) > 1:
        found.append(shift(period))
    found.append(shift((Fraction(1, 2),) * n))
    asked = parse(group, n) if group is not None else declared
    if asked is not None and asked.dimension == n:
        indices = range(1, asked.order)
        if asked.order > MOST_ELEMENTS:  # what commutes with generators commutes with all
            indices = sorted(set(asked.generators))
        found += [of_element(asked.elements[i]) for i in indices]
    if group is not None:
        return found
    names = {move.name for move in found}
    plane = parse("B1" if n == 1 else "D4" if n == 2 else "B3", n) if n <= 3 else None
    if plane is not None:
        flip = np.diag([1] * (n - 1) + [-1])
        wanted = [("mirror", flip)]
        if n > 1:
            turn = np.eye(n, dtype=int)
            turn[-2:, -2:] = [[0, -1], [1, 0]]
            wanted.append(("turn 90", turn))
        for name, matrix in wanted:
            element = next(e for e in plane.elements if (e.matrix == matrix).all())
            if name not in names and element_name(element) not in names:
                found.append(of_element(element, name))
    if n == 2:
        found.append(rotation(45))
    found.append(rescaled or rescaling(0.5))
    return found


# Inputs


def smooth(x: Tensor, dimension: int) -> Tensor:
    """The picture faded out, and without its finer half of frequencies.

    It is faded towards the circle (ball) inscribed in the axes of space, by a cosine over the outer
    half of the radius, and then loses all frequencies of a quarter cycle per position and above.
    """
    y = x.double()
    axes = range(x.ndim - dimension, x.ndim)
    radius = torch.zeros((), dtype=torch.float64, device=x.device)
    for a in axes:
        size = x.shape[a]
        at = (torch.arange(size, dtype=torch.float64, device=x.device) - (size - 1) / 2) * 2 / size
        radius = radius + at.square().view(-1, *(1,) * (x.ndim - 1 - a))
    fade = (math.pi * (2 * radius.sqrt() - 1).clamp(0, 1)).cos().add(1).div(2)
    y = y * fade
    for a in axes:
        size = x.shape[a]
        frequency = torch.fft.rfftfreq(size, dtype=torch.float64, device=x.device)
        keep = (frequency < 0.25).view(-1, *(1,) * (x.ndim - 1 - a))
        y = torch.fft.irfft(torch.fft.rfft(y, dim=a) * keep, n=size, dim=a)
    return y.to(x.dtype)
