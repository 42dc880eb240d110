"""What moves an input: the elements of a point group, and circular shifts.

Both have the same few methods, so that averages and canonical poses are written once. A motion is
known by its number; `move` takes one for a whole batch, `move_each` one a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symconv.conversion.symmetrizing.exact import best, bits_for, weights, whole
from symconv.errors import StructureError
from symconv.lattice.groups import Element, Group
from symconv.lattice.representations import Field

PROJECTIONS = 2  # generic scores; the second decides where the first is equal by accident
WEIGHT_BITS = 10
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid_like(y: Tensor, x: Tensor) -> Tensor:
    """`y` in one piece, channels last where `x` is: layers may round by the layout."""
    last = _FORMATS.get(x.ndim)
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return y.contiguous()
    return y.contiguous(memory_format=last)


def take_each(x: Tensor, sources: Tensor) -> Tensor:
    """Positions of each sample: x (M, C, *S) and sources (M, sites) give (M, C, *S)."""
    flat = x.flatten(2)
    index = sources[:, None].expand(-1, flat.shape[1], -1)
    return laid_like(flat.gather(2, index).view(x.shape), x)


class Channels(nn.Module):
    """How the elements of a group permute the channels of a field, and with which signs."""

    signs: Tensor
    sources: Tensor

    def __init__(self, field: Field):
        super().__init__()
        self.field = field
        sources = torch.from_numpy(field.permutation.argsort(axis=1))
        signs = torch.from_numpy(field.signs).gather(1, sources).to(torch.int8)
        self.register_buffer("sources", sources, persistent=False)
        self.register_buffer("signs", signs, persistent=False)
        self.plain = bool((signs > 0).all())
        self.still = self.plain and bool((sources == torch.arange(field.channels)).all())

    def check(self, x: Tensor, what: str) -> None:
        """Refuse a tensor with other channels."""
        if x.shape[1] != self.field.channels:
            raise StructureError(
                f"{self.field.channels} channels of {self.field} in the {what}",
                f"{x.shape[1]} in shape {tuple(x.shape)}",
            )

    def move(self, index: int, x: Tensor) -> Tensor:
        """The channels of a batch, moved by one element."""
        if self.still:
            return x
        return self._signed(x.index_select(1, self.sources[index]), self.signs[index][None])

    def move_each(self, index: Tensor, x: Tensor) -> Tensor:
        """The channels of each sample, moved by its own element."""
        if self.still:
            return x
        around = self.sources[index].view(*x.shape[:2], *(1,) * (x.ndim - 2)).expand(x.shape)
        return self._signed(x.gather(1, around), self.signs[index])

    def _signed(self, x: Tensor, signs: Tensor) -> Tensor:
        if self.plain:
            return x
        return x * signs.to(x.dtype).view(-1, x.shape[1], *(1,) * (x.ndim - 2))


class Turns(nn.Module):
    """The elements of a group that maps the lattice onto itself.

    Args:
        group: The group.
        in_field: What the channels of the input mean; None where it leaves them as they are.
        field: The same of an output map.
    """

    inverse: Tensor
    product: Tensor

    def __init__(self, group: Group, in_field: Field | None, field: Field | None):
        super().__init__()
        self.group, self.dimension = group, group.dimension
        # Plain numbers: through the arrays of a group torch.compile does not follow.
        matrices = group.matrices
        self._axes = [tuple(abs(m).argmax(axis=1).tolist()) for m in matrices]
        self._flips = [tuple(a for a, row in enumerate(m) if row.sum() < 0) for m in matrices]
        self._inverse = group.inverse.tolist()
        self._inverses = [~element for element in group.elements]
        self._tables: dict[str, tuple[Any, Tensor]] = {}
        self.register_buffer("inverse", torch.from_numpy(group.inverse.copy()), persistent=False)
        self.register_buffer("product", torch.from_numpy(group.product.copy()), persistent=False)
        self.inside = None if in_field is None else Channels(in_field)
        self.outside = None if field is None else Channels(field)

    def check(self, x: Tensor) -> None:
        """Refuse an input that the group cannot move.

        Raises:
            StructureError: It has no batch, other axes, or sizes that the group exchanges.
        """
        check_batch(x, self.dimension, f"{self.group} acts on {self.dimension} axes of space")
        space = tuple(x.shape[2:])
        if not self._keeps(space):
            raise StructureError(
                f"equal sizes along the axes that {self.group} exchanges",
                f"an input of {space}",
                "crop or pad it, or take a group without quarter turns"
                + (", such as D2" if self.dimension == 2 else ""),
            )
        if self.inside is not None:
            self.inside.check(x, "input")

    def _keeps(self, space: tuple[int, ...]) -> bool:
        return all(
            space[axis] == space[source] for axes in self._axes for axis, source in enumerate(axes)
        )

    def count(self, x: Tensor) -> int:
        """Number of motions."""
        return self.group.order

    def _moved(self, index: int, x: Tensor) -> Tensor:
        """Space moved by an element; a view where that will do."""
        first = x.ndim - self.dimension
        axes = self._axes[index]
        if axes != tuple(range(self.dimension)):
            x = x.permute(*range(first), *(first + axis for axis in axes))
        flips = self._flips[index]
        return x.flip([first + axis for axis in flips]) if flips else x

    def move(self, index: int, x: Tensor) -> Tensor:
        """A batch moved by one element."""
        moved = self._moved(index, x)
        if self.inside is not None:
            moved = self.inside.move(index, moved)
        return laid_like(moved, x)

    def back(self, index: int, y: Tensor) -> Tensor:
        """An output map moved by the element's inverse."""
        moved = self._moved(self._inverse[index], y)
        return moved if self.outside is None else self.outside.move(self._inverse[index], moved)

    def given(self, index: int, x: Tensor) -> Element:
        """What a callable is told with which to move an output back."""
        return self._inverses[index]

    def _each(self, x: Tensor) -> Tensor:
        return self._kept("sources", tuple(x.shape[2:]), x)

    def move_each(self, index: Tensor, x: Tensor) -> Tensor:
        """Each sample moved by its own element."""
        moved = take_each(x, self._each(x)[index])
        return moved if self.inside is None else self.inside.move_each(index, moved)

    def back_each(self, index: Tensor, y: Tensor) -> Tensor:
        """Each sample's map moved by the inverse of its element."""
        index = self.inverse[index]
        moved = take_each(y, self._each(y)[index])
        return moved if self.outside is None else self.outside.move_each(index, moved)

    def check_map(self, y: Tensor, x: Tensor) -> None:
        """Refuse a map that the group cannot move back."""
        if not self._keeps(tuple(y.shape[2:])):
            raise StructureError(
                f"a map of equal sizes along the axes that {self.group} exchanges",
                f"{tuple(y.shape)}",
            )
        if self.outside is not None:
            self.outside.check(y, "output")

    def tied(self, x: Tensor, picture: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The best elements of each sample (N, order), more than one where they tie.

        The score of g is <w, g x> = <g^-1 w, x> for generic whole numbers w, so that every element
        costs one product with the input.

        Args:
            x: The input.
            picture: Score ``picture(g x)`` instead: what a canonical shift makes of it.
        """
        shape = tuple(x.shape[1:])
        bits = bits_for(math.prod(shape), WEIGHT_BITS)
        if picture is not None:
            moved = torch.cat([self.move(k, x) for k in range(self.group.order)])
            flat = whole(picture(moved), bits).view(self.group.order, x.shape[0], -1).double()
            generic = [weights(shape, WEIGHT_BITS, k, x.device) for k in range(PROJECTIONS)]
            return best([(flat @ w.flatten()).t() for w in generic])
        scores = whole(x, bits).flatten(1).double() @ self._kept("table", shape, x).t()
        return best(list(scores.view(-1, PROJECTIONS, self.group.order).unbind(1)))

    def _kept(self, what: str, shape: tuple[int, ...], x: Tensor) -> Tensor:
        """A table for a shape, kept from the last call but not in a graph or a copy."""
        make = self._table if what == "table" else self._sources
        if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
            return make(shape, x.device)  # fake tensors must not be kept, nor meet real ones
        key, kept = (shape, x.device), self._tables.get(what)
        if kept is None or kept[0] != key:
            with torch.inference_mode(False):
                kept = self._tables[what] = key, make(shape, x.device)
        return kept[1]

    def _table(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The weights moved by every inverse (projections * order, channels * sites)."""
        rows = []
        for k in range(PROJECTIONS):
            w = weights((1, *shape), WEIGHT_BITS, k, device)
            rows += [self.move(inverse, w).flatten(1) for inverse in self._inverse]
        return torch.cat(rows)

    def _sources(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Where each value comes from, by element: (order, sites)."""
        places = torch.arange(math.prod(shape), device=device).view(shape)
        return torch.stack([self._moved(k, places).flatten() for k in range(self.group.order)])

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_tables": {}}

    def extra_repr(self) -> str:
        """The group."""
        return str(self.group)


class Shifts(nn.Module):
    """Circular shifts of all axes of space.

    Args:
        dimension: Axes of space; None for as many as the input has beside batch and channels.
        period: Shifts below this many positions along each axis; None for all.
    """

    inside = outside = None

    def __init__(self, dimension: int | None, period: int | None):
        super().__init__()
        self.dimension, self.period = dimension, period

    def check(self, x: Tensor) -> None:
        """Refuse an input without batch, or whose sizes the period does not divide."""
        n = self.dimension
        if n is None:
            n = min(3, max(1, x.ndim - 2))
        check_batch(x, n, "shifts move every axis of space")
        if self.period is not None and any(size % self.period for size in x.shape[2:]):
            raise StructureError(
                f"sizes that are multiples of the period {self.period}",
                f"an input of {tuple(x.shape[2:])}",
                "pad it, or leave the period out",
            )

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        """Shifts along each axis."""
        sizes = tuple(x.shape[2:])
        return sizes if self.period is None else (self.period,) * len(sizes)

    def count(self, x: Tensor) -> int:
        """Number of motions."""
        return math.prod(self._grid(x))

    def _steps(self, index: int, x: Tensor) -> tuple[int, ...]:
        steps = []
        for size in self._grid(x)[::-1]:
            steps.append(index % size)
            index //= size
        return tuple(steps[::-1])

    def move(self, index: int, x: Tensor) -> Tensor:
        """A batch shifted."""
        steps = self._steps(index, x)
        return laid_like(x.roll(steps, tuple(range(x.ndim - len(steps), x.ndim))), x)

    def back(self, index: int, y: Tensor) -> Tensor:
        """An output map, of the input's size, shifted back."""
        steps = self._steps(index, y)
        return y.roll([-s for s in steps], tuple(range(y.ndim - len(steps), y.ndim)))

    def given(self, index: int, x: Tensor) -> tuple[int, ...]:
        """The shift with which a callable moves an output back."""
        return tuple(-s for s in self._steps(index, x))

    def move_each(self, index: Tensor, x: Tensor, sign: int = 1) -> Tensor:
        """Each sample shifted by its own steps."""
        space, sources = x.shape[2:], 0
        for axis, size in enumerate(space):
            step = index // math.prod(space[axis + 1 :]) % size
            at = (torch.arange(size, device=x.device) - sign * step[:, None]) % size
            at = at * math.prod(space[axis + 1 :])
            sources = sources + at.view(-1, *(size if a == axis else 1 for a in range(len(space))))
        assert isinstance(sources, Tensor)
        return take_each(x, sources.expand(-1, *space).flatten(1))

    def back_each(self, index: Tensor, y: Tensor) -> Tensor:
        """Each sample's map shifted back."""
        return self.move_each(index, y, -1)

    def check_map(self, y: Tensor, x: Tensor) -> None:
        """Refuse a map of another size than the input."""
        if y.shape[2:] != x.shape[2:]:
            raise StructureError(
                f"a map of the input's size {tuple(x.shape[2:])}",
                f"{tuple(y.shape)}",
                "enlarge it in the model, or move it back by a callable",
            )

    def tied(self, x: Tensor) -> Tensor:
        """The best shifts of each sample (N, shifts), more than one where they tie.

        The best shift brings most detail into the middle of each axis: the absolute differences
        between neighbours, summed over the other axes and weighed by a raised cosine. Generic
        weights decide between equals. All are products of whole numbers with circulant matrices.
        """
        space = tuple(x.shape[2:])
        n = len(space)
        each, mix = 16 // n, 3
        bits = bits_for(math.prod(x.shape[1:]), each * n + mix + 4)
        channel = weights((x.shape[1],), mix - 1, 7, x.device) * 2 + 1  # odd: none is left out
        z = torch.einsum("nc...,c->n...", whole(x, bits).double(), channel)
        detail = torch.zeros_like(z)
        for axis in range(1, n + 1):
            step = (z - z.roll(1, axis)).abs()
            detail = detail + step + step.roll(-1, axis)
        score: Any = 0
        for axis, size in enumerate(space):
            others = [other for other in range(1, n + 1) if other != axis + 1]
            profile = detail.sum(others) if others else detail
            found = profile @ _circulant(_raised_cosine(size, each, x.device)).t()
            score = score + found.view(-1, *(size if a == axis else 1 for a in range(n)))
        kept = best([score.flatten(1)])
        # Nearly always one is best. A graph cannot ask.
        if not torch.compiler.is_compiling() and bool((kept.sum(1) == 1).all()):
            return kept
        scores = [score]
        for k in range(PROJECTIONS):
            generic = [
                weights((size,), each - 1, 16 + 4 * k + axis, x.device)
                for axis, size in enumerate(space)
            ]
            scores.append(_correlated(z, generic))
        return best([score.flatten(1) for score in scores])

    def extra_repr(self) -> str:
        """The arguments."""
        return f"dimension={self.dimension}" + (f", period={self.period}" if self.period else "")


def _raised_cosine(size: int, bits: int, device: torch.device) -> Tensor:
    """Whole numbers up to 2**bits, largest in the middle of an axis."""
    at = torch.arange(size, device=device, dtype=torch.float64) - (size - 1) / 2
    return (2 ** (bits - 1) * (1 + torch.cos(2 * math.pi * at / size))).round()


def _circulant(w: Tensor) -> Tensor:
    """The matrix (shifts, positions) of weights for what is shifted by s: w[position + s]."""
    at = torch.arange(len(w), device=w.device)
    return w[(at[:, None] + at) % len(w)]


def _correlated(z: Tensor, each: list[Tensor]) -> Tensor:
    """Sums of z (N, *S), shifted by every step, times a product of weights along the axes."""
    for axis, w in enumerate(each, 1):
        z = (z.movedim(axis, -1) @ _circulant(w).t()).movedim(-1, axis)
    return z


def check_batch(x: Any, dimension: int, why: str) -> None:
    """Refuse what is no batch (N, channels, *space) of numbers."""
    wanted = f"an input (N, channels, {dimension} axes of space)"
    if not isinstance(x, Tensor):
        raise StructureError(f"{wanted} as a tensor", type(x).__name__)
    if x.ndim != dimension + 2:
        mend = "add the batch with x[None]" if x.ndim == dimension + 1 else why
        raise StructureError(wanted, f"shape {tuple(x.shape)}", mend)
    if x.is_complex():
        raise StructureError(f"{wanted} of real numbers", x.dtype)
    if 0 in x.shape[1:]:
        raise StructureError(f"{wanted} with something in it", f"shape {tuple(x.shape)}")
