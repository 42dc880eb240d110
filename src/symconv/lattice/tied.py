"""A window whose filter entries hold shared, signed or absent weights: group convolution.

Where a symmetry forces an entry to zero there is no connection, so counts depend on which taps are
live. They still come from small tables: per axis only a few kinds of position exist (the interior,
and each distance from a border), and a count is a sum over kinds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from symconv.lattice.orbits import Orbits
from symconv.lattice.windows import OUTSIDE
from symconv.lattice.wiring import Connections, Shape, Windowed


@dataclass(frozen=True, eq=False)
class Tied:
    """A convolution's connections with the weights of `orbits` in place of its filter's entries.

    Attributes:
        base: The plain convolution, weights (out, in // groups, *kernel).
        orbits: Weight and sign of each of those entries; sign 0 where forced to zero, and then
            there is no connection.
        free: Free weights where the entries are mixtures of them (a steered filter), and `orbits`
            names each entry by itself; None where each entry holds one weight.
    """

    base: Windowed
    orbits: Orbits
    free: int | None = None

    @property
    def input_shape(self) -> Shape:
        """(channels, *space) of the input."""
        return self.base.input_shape

    @property
    def output_shape(self) -> Shape:
        """(channels, *space) of the output."""
        return self.base.output_shape

    @property
    def parameters(self) -> int:
        """Free weights: the orbits, or those that steered entries are mixtures of."""
        return self.orbits.count if self.free is None else self.free

    @property
    def macs(self) -> int:
        """Multiply-accumulates as executed: those of the plain convolution."""
        return self.base.macs

    @property
    def padding_macs(self) -> int:
        """Those of `macs` that fall on zero padding."""
        return self.base.padding_macs

    @cached_property
    def live(self) -> np.ndarray:
        """Which entries are not forced to zero: (out, in // groups, taps)."""
        entries = self.orbits.sign != 0
        return entries.reshape(self.base.out_channels, self.base.block, self.base.window.taps)

    @property
    def fan_in(self) -> int:
        """Distinct inputs of the output that has most."""
        if self.live.all():
            return self.base.fan_in
        kinds = self._kinds(outputs=True)
        return max(int(self._met(near).sum(axis=1).max()) for near, _ in kinds)

    @property
    def fan_out(self) -> int:
        """Distinct outputs of the input that has most."""
        if self.live.all():
            return self.base.fan_out
        blocks, kinds = self.base.groups, self._kinds(outputs=False)
        shape = blocks, self.base.out_channels // blocks, self.base.block
        return max(int(self._met(near).reshape(shape).sum(axis=1).max()) for near, _ in kinds)

    @property
    def connections(self) -> int:
        """Distinct (output, input) pairs of which some weight is not forced to zero."""
        if self.live.all():
            return self.base.connections
        return sum(int(self._met(near).sum()) * many for near, many in self._kinds(outputs=True))

    def listed(self) -> Connections:
        """Every connection; those forced to zero are left out."""
        pairs = self.base.listed()
        here = self.orbits.sign[pairs.weight] != 0
        output, input_, entry = pairs.output[here], pairs.input[here], pairs.weight[here]
        return Connections(output, input_, self.orbits.weight[entry], self.orbits.sign[entry])

    def _met(self, near: np.ndarray) -> np.ndarray:
        """Partners that each pair of channels meets through live taps, (out, in // groups)."""
        patterns, index = self._patterns
        counts = (patterns @ near.T > 0).sum(axis=1)
        return counts[index].reshape(self.live.shape[:2])

    @cached_property
    def _patterns(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct rows of live taps, and which one each pair of channels has."""
        rows = self.live.reshape(-1, self.base.window.taps)
        patterns, index = np.unique(rows, axis=0, return_inverse=True)
        return patterns.astype(np.int64), index

    def _kinds(self, outputs: bool) -> Iterator[tuple[np.ndarray, int]]:
        """Every kind of position and how many there are of it.

        A kind is a table (partners, taps): which taps join a position and each of its partners.
        """
        sides = zip(self.base.tables, self.base.input_size, strict=True)
        axes = [_axis_kinds(_partners(t) if outputs else _seen_by(t, s)) for t, s in sides]
        for chosen in product(*axes):
            near = np.ones((1, 1), np.int64)
            for table, _ in chosen:
                near = np.kron(near, table)
            yield near, math.prod(count for _, count in chosen)


def _axis_kinds(tables: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """Positions of one axis, grouped by which of their taps meet the same partner."""
    kinds: dict[bytes, tuple[np.ndarray, int]] = {}
    for near in tables:
        key = near.shape[0].to_bytes(8, "big") + near.tobytes()
        kinds[key] = near.astype(np.int64), kinds.get(key, (near, 0))[1] + 1
    return list(kinds.values())


def _partners(table: np.ndarray) -> list[np.ndarray]:
    """Per output of one axis, a table (inputs that it sees, taps)."""
    return [np.unique(row[row != OUTSIDE])[:, None] == row for row in table]


def _seen_by(table: np.ndarray, size: int) -> list[np.ndarray]:
    """Per input of one axis, a table (outputs that see it, taps)."""
    seen = [table == position for position in range(size)]
    return [near[near.any(axis=1)] for near in seen]
