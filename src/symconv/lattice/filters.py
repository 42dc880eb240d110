"""The filter of a group convolution: which free weight each of its entries holds.

What ties the entries is found once for each pair of representations, one copy each, and laid out
over the copies by arithmetic: a filter between wide fields costs no more than one between narrow
ones. On the lattice, entries of one orbit hold one weight; off it, they are steered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from symconv.errors import StructureError
from symconv.lattice.orbits import ABSENT, Orbits, filter_orbits
from symconv.lattice.representations import Field, Representation
from symconv.lattice.steerable import Steered, lost, steered


class Block(NamedTuple):
    """The part of a filter between one representation of the input and one of the output.

    Its weights are (blocks, out copies, in copies, free weights of a pair), flattened.

    Attributes:
        blocks: Blocks of channels that see only each other.
        out_copies: Copies of the output's representation, in one block of channels.
        in_copies: Copies of the input's, likewise.
        out_size: Channels of one copy of the output's representation.
        in_size: Channels of one copy of the input's.
        tie: What one pair of copies has free: orbits over the flattened (out size, in size,
            *kernel), or filters steered from band-limited functions.
        start: Where its weights begin among those of the filter.
        weights: How many there are.
        signed: Whether some entry holds minus its weight, or zero.
    """

    blocks: int
    out_copies: int
    in_copies: int
    out_size: int
    in_size: int
    tie: Orbits | Steered
    start: int
    weights: int
    signed: bool

    @property
    def live_inputs(self) -> float:
        """Entries of an output that are not forced to zero; if steered, their sum of squares."""
        if isinstance(self.tie, Steered):
            return self.in_copies * self.tie.energy
        return self.in_copies * float((self.tie.sign != 0).sum()) / self.out_size


@dataclass(frozen=True)
class Filter:
    """The filter of a convolution between two fields, in terms of its free weights.

    Attributes:
        blocks: Blocks of channels that see only each other (`groups` in torch).
        kernel_size: Taps per axis.
        rows: One tuple of `Block` for each representation of the output, one `Block` in it for
            each of the input.

    Example:
        >>> from symconv.lattice.groups import cyclic
        >>> C4 = cyclic(4)
        >>> lifting = Filter.of(C4.trivial(3), C4.regular(8), (3, 3))
        >>> lifting.shape, lifting.count
        ((32, 3, 3, 3), 216)
    """

    blocks: int
    kernel_size: tuple[int, ...]
    rows: tuple[tuple[Block, ...], ...]

    @classmethod
    def of(
        cls, in_field: Field, out_field: Field, kernel_size: tuple[int, ...], blocks: int = 1
    ) -> Filter:
        """The filter between two fields over one group.

        Args:
            in_field: Field of the input.
            out_field: Field of the output.
            kernel_size: Taps per axis.
            blocks: Blocks of neighbouring copies that see only each other.

        Raises:
            StructureError: The fields have different groups or do not divide into the blocks, or
                the kernel does not suit the group, or is too small to reach some output.
        """
        start, rows = 0, []
        for out, out_copies in out_field.split(blocks).parts:
            row = []
            for into, in_copies in in_field.split(blocks).parts:
                pair = pair_tie(into, out, tuple(kernel_size))
                count = blocks * out_copies * in_copies * pair.count
                copies = blocks, out_copies, in_copies
                signed = isinstance(pair, Orbits) and bool((pair.sign <= 0).any())
                row.append(Block(*copies, out.size, into.size, pair, start, count, signed))
                start += count
            rows.append(tuple(row))
            if not any(block.weights for block in row) and isinstance(row[0].tie, Steered):
                raise lost(in_field.parts[0][0], out, kernel_size[0])
        return cls(blocks, tuple(kernel_size), tuple(rows))

    @property
    def count(self) -> int:
        """Free weights in all."""
        return sum(block.weights for row in self.rows for block in row)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out channels, in channels of one block, *kernel), as torch keeps a filter."""
        out = self.blocks * sum(row[0].out_copies * row[0].out_size for row in self.rows)
        return out, sum(b.in_copies * b.in_size for b in self.rows[0]), *self.kernel_size

    @property
    def steered(self) -> bool:
        """Whether its entries are mixtures of free weights instead of one each."""
        return any(isinstance(block.tie, Steered) for row in self.rows for block in row)

    @cached_property
    def orbits(self) -> Orbits:
        """The free weight and the sign of every entry, over the flattened `shape`.

        Steered entries are mixtures: there each is numbered by itself, and those that are always
        zero have sign 0.
        """
        taps = math.prod(self.kernel_size)
        parts = [[_spread(block, taps) for block in row] for row in self.rows]
        joined = np.concatenate([np.concatenate(row, axis=3) for row in parts], axis=2)
        weight, sign = joined[0].ravel(), joined[1].ravel()
        if self.steered:
            return Orbits(np.where(sign, np.arange(sign.size), ABSENT), sign, sign.size)
        return Orbits(weight, sign, self.count)

    @property
    def mean_square(self) -> float:
        """Mean square of the entries, in expectation, for free weights of variance 1."""
        rows = range(len(self.rows))
        outputs = (b[0].blocks * b[0].out_copies * b[0].out_size for b in self.rows)
        total = sum(n * self.live_inputs(row) for n, row in zip(outputs, rows, strict=True))
        return total / math.prod(self.shape)

    def live_inputs(self, row: int) -> float:
        """Mean number of entries not forced to zero, for an output of one representation."""
        return sum(block.live_inputs for block in self.rows[row])


@lru_cache(maxsize=1024)
def pair_tie(
    into: Representation, out: Representation, kernel_size: tuple[int, ...]
) -> Orbits | Steered:
    """What is free between one copy each of two representations, remembered.

    A kernel of one tap needs no steering: every turn leaves it where it is.
    """
    if out.group.exact or set(kernel_size) == {1}:
        return filter_orbits(into.field(1), out.field(1), kernel_size)
    if into.group != out.group or len(kernel_size) != 2 or not out.group.keeps(kernel_size):
        raise StructureError(f"a square kernel between two fields of {out.group}", kernel_size)
    return steered(into, out, kernel_size[0])


def _spread(block: Block, taps: int) -> np.ndarray:
    """Weights and signs of a block: (2, blocks, out channels, in channels, taps)."""
    orbits = block.tie.entries if isinstance(block.tie, Steered) else block.tie
    one = orbits.weight.reshape(block.out_size, block.in_size, taps)
    sign = orbits.sign.reshape(one.shape)
    copies = np.arange(block.blocks * block.out_copies * block.in_copies)
    first = copies.reshape(-1, 1, block.in_copies, 1, 1) * orbits.count + block.start
    weight = np.where(one[:, None] == ABSENT, ABSENT, first + one[:, None])
    both = np.stack([weight, np.broadcast_to(sign[:, None], weight.shape)])
    channels = block.out_copies * block.out_size, block.in_copies * block.in_size
    return both.reshape(2, block.blocks, *channels, taps)
