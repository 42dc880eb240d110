"""The costs of one linear map built as dense, sparse, local, tiled and convolution.

Everything is a Python integer from a closed form, so nothing wraps, nothing is rounded and nothing
is allocated: an image of a million by a million positions is answered like a small one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from symconv.errors import StructureError
from symconv.lattice.windows import Size, Window, per_axis
from symconv.structure import Structure

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
INDEX_BYTES = 8  # a sparse layer keeps the input of each connection as int64

_LONGEST_AXIS = 20_000_000  # taps along one axis; the exact count at its borders lists them


@dataclass(frozen=True)
class Cost:
    """What one structure costs for one item, biases left out.

    Attributes:
        kind: "dense", "sparse", "local", "tiled" or "conv".
        inputs: Inputs m.
        outputs: Outputs n.
        fan_in: Inputs k that an output sees (the largest).
        connections: Distinct (output, input) pairs that exist.
        macs: Multiply-accumulates as executed, taps on zero padding included.
        padding_macs: Those of them that fall on zero padding.
        weights: Free weights.
        itemsize: Bytes of one number.
    """

    kind: str
    inputs: int
    outputs: int
    fan_in: int
    connections: int
    macs: int
    padding_macs: int
    weights: int
    itemsize: int

    @classmethod
    def of(cls, structure: Structure, itemsize: int = 4) -> Cost:
        """The costs of a structure.

        Example:
            >>> Cost.of(Structure.dense(8, 3)).flops
            48
        """
        s = structure
        counts = s.fan_in, s.connections, s.macs, s.padding_macs, s.parameters
        return cls(s.kind, s.inputs, s.outputs, *counts, itemsize)

    @property
    def flops(self) -> int:
        """Floating-point operations at 2 per MAC, the usual convention."""
        return 2 * self.macs

    @property
    def flops_k(self) -> int:
        """Operations at k multiplications and k - 1 additions per output, the book's convention.

        The first product of an output is added to nothing, hence one operation less per output.
        """
        return 2 * self.macs - self.outputs

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return self.weights * self.itemsize

    @property
    def index_bytes(self) -> int:
        """Memory of the table that says where each connection leads: only sparse layers need it."""
        return self.connections * INDEX_BYTES if self.kind == "sparse" else 0

    @property
    def input_bytes(self) -> int:
        """Memory of the input."""
        return self.inputs * self.itemsize

    @property
    def output_bytes(self) -> int:
        """Memory of the output."""
        return self.outputs * self.itemsize

    @property
    def total_bytes(self) -> int:
        """Memory of weights, index, input and output; a layer's workspace comes on top."""
        return self.weight_bytes + self.index_bytes + self.input_bytes + self.output_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every count by name."""
        derived = "flops flops_k weight_bytes index_bytes input_bytes output_bytes total_bytes"
        return asdict(self) | {name: getattr(self, name) for name in derived.split()}


@dataclass(frozen=True)
class Boundary:
    """What one decision about the border does to a convolution.

    Attributes:
        name: "valid", "same", "full", "circular" or "reflect".
        padding: Positions added per axis, as (before, after) pairs.
        padding_mode: What lies on them.
        output_size: Output positions per axis.
        connections: Distinct (output, input) pairs that exist.
        macs: Multiply-accumulates as executed.
        padding_macs: Those of them that fall on zero padding.
        exact_axes: Per axis: does the layer commute with every circular translation by a multiple
            of the stride? Elsewhere the interior does, and what happens at the border differs.
    """

    name: str
    padding: tuple[tuple[int, int], ...]
    padding_mode: str
    output_size: tuple[int, ...]
    connections: int
    macs: int
    padding_macs: int
    exact_axes: tuple[bool, ...]


@dataclass(frozen=True)
class Table:
    """The answer of `table`: one row a structure, one row a decision about the border.

    Attributes:
        input_shape: (channels, *space).
        output_shape: (channels, *space).
        window: The window of local, tiled and conv.
        groups: Blocks of channels that see only each other.
        tile: Period of the tiled structure's filters.
        dtype: Type of weights and activations.
        costs: Dense, sparse, local, tiled, conv.
        boundaries: The decisions that this input allows.
        refused: Name and reason of those it does not.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: Window
    groups: int
    tile: tuple[int, ...]
    dtype: str
    costs: tuple[Cost, ...]
    boundaries: tuple[Boundary, ...]
    refused: tuple[tuple[str, str], ...]

    def __getitem__(self, kind: str) -> Cost:
        """The costs of one structure, by name."""
        return {cost.kind: cost for cost in self.costs}[kind]

    def dense_over_conv(self) -> dict[str, Fraction]:
        """How many times more a dense layer costs than the convolution, exactly."""
        dense, conv = self["dense"], self["conv"]
        names = "weights", "flops", "flops_k"
        return {name: Fraction(getattr(dense, name), getattr(conv, name)) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain lists, strings and numbers."""
        return {
            "input": list(self.input_shape),
            "output": list(self.output_shape),
            "window": asdict(self.window),
            "groups": self.groups,
            "tile": list(self.tile),
            "dtype": self.dtype,
            "conventions": {
                "flops": "2 per MAC",
                "flops_k": "k multiplications and k - 1 additions per output",
            },
            "structures": [cost.to_dict() for cost in self.costs],
            "boundaries": [asdict(boundary) for boundary in self.boundaries],
            "refused": dict(self.refused),
        }


def table(
    input_shape: Sequence[int],
    kernel_size: Size,
    out_channels: int = 1,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    tile: Size = 2,
    dtype: str = "float32",
) -> Table:
    """Dense, sparse, local, tiled and convolution between the same two lattices, side by side.

    The sparse structure chooses as many inputs per output as the window holds; the others take
    torch's convolution arguments. Counts are per item and leave biases out.

    Args:
        input_shape: (channels, *space).
        kernel_size: Taps, an integer or one per axis; likewise stride, padding and dilation.
        out_channels: Output channels.
        stride: Step between outputs.
        padding: Positions added at both ends, or "valid" or "same".
        dilation: Step between taps.
        groups: Blocks of channels that see only each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        tile: Period of the tiled structure's filters.
        dtype: A key of `BYTES`.

    Raises:
        StructureError: The shape has no space, a value is out of range, or the window does not
            fit.

    Example:
        The edge detector of the Deep Learning book:

        >>> costs = table((1, 280, 320), (1, 2))
        >>> costs["conv"].flops_k, costs["dense"].weights, costs["dense"].flops
        (267960, 8003072000, 16006144000)
        >>> costs.dense_over_conv()["flops_k"]
        Fraction(59733, 1)

    References:
        Goodfellow, Bengio, Courville, Deep Learning (2016), figure 9.6.
    """
    channels, size = _split(input_shape)
    window = Window.of(len(size), kernel_size, stride, padding, dilation, padding_mode)
    if dtype not in BYTES:
        raise StructureError(f"dtype among {', '.join(BYTES)}", repr(dtype))
    (out_channels,) = per_axis(out_channels, 1, "out_channels")
    (groups,) = per_axis(groups, 1, "groups")
    tile = per_axis(tile, len(size), "tile")
    _check_length(size, window)
    shape = channels, out_channels, window, size
    conv = Structure.conv(*shape, groups)
    structures = (
        Structure.dense((channels, *size), conv.output_shape),
        Structure.local(*shape, groups),
        Structure.tiled(*shape, tile, groups),
        conv,
    )
    dense, local, tiled, last = (Cost.of(s, BYTES[dtype]) for s in structures)
    boundaries, refused = _boundaries(channels, out_channels, window, size, groups)
    return Table(
        (channels, *size),
        conv.output_shape,
        window,
        groups,
        tile,
        dtype,
        (dense, _sparse(last), local, tiled, last),
        boundaries,
        refused,
    )


def _sparse(conv: Cost) -> Cost:
    """The convolution's fan-in, chosen freely: n * k of everything, and no table to hold it."""
    every = conv.outputs * conv.fan_in
    return replace(
        conv, kind="sparse", connections=every, macs=every, padding_macs=0, weights=every
    )


def _split(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    if len(shape) < 2:
        text = "x".join(map(str, shape))
        raise StructureError("an input of channels x size of each axis", text, "such as 1x280x320")
    channels, *size = per_axis(tuple(shape), len(shape), "input")
    return channels, tuple(size)


def _check_length(size: Sequence[int], window: Window) -> None:
    rows = zip(size, window.extent, window.padding, window.kernel_size, strict=True)
    taps = max((s + 2 * max(extent - 1, *pads)) * k for s, extent, pads, k in rows)
    if taps > _LONGEST_AXIS:
        raise StructureError(
            f"at most {_LONGEST_AXIS:,} taps along one axis (padded size x kernel)", f"{taps:,}"
        )


def _boundaries(
    channels: int, out_channels: int, window: Window, size: tuple[int, ...], groups: int
) -> tuple[tuple[Boundary, ...], tuple[tuple[str, str], ...]]:
    """The usual decisions about the border, for the same window."""
    reach = tuple(extent - 1 for extent in window.extent)
    none = tuple((0, 0) for _ in reach)
    half = tuple((r // 2, r - r // 2) for r in reach)
    full = tuple((r, r) for r in reach)
    choices = (
        ("valid", none, "zeros"),
        ("same", half, "zeros"),
        ("full", full, "zeros"),
        ("circular", half, "circular"),
        ("reflect", half, "reflect"),
    )
    found, refused = [], []
    for name, padding, mode in choices:
        candidate = replace(window, padding=padding, padding_mode=mode)
        try:
            conv = Structure.conv(channels, out_channels, candidate, size, groups)
        except StructureError as error:
            refused.append((name, str(error)))
            continue
        counts = conv.connections, conv.macs, conv.padding_macs
        axes = _exact_axes(candidate, size)
        found.append(Boundary(name, padding, mode, conv.output_shape[1:], *counts, axes))
    return tuple(found), tuple(refused)


def _exact_axes(window: Window, size: tuple[int, ...]) -> tuple[bool, ...]:
    """Per axis: a translation by the stride maps the outputs onto each other, without a border.

    The outputs must close the circle (their number times the stride is the size), and no tap may
    meet a border: the padding is circular, or the windows never leave the input, as patches that
    do not overlap. A single output has nowhere to go.
    """
    rows = zip(
        window.output_size(size), window.stride, size, window.extent, window.padding, strict=True
    )
    circular = window.padding_mode == "circular"
    return tuple(
        out * step == s
        and (circular or out == 1 or (before == 0 and (out - 1) * step + extent <= s))
        for out, step, s, extent, (before, _) in rows
    )


def parse_sizes(text: str, name: str) -> tuple[int, ...]:
    """Read sizes as a command line writes them.

    Example:
        >>> parse_sizes("1x280x320", "--input"), parse_sizes("3", "--kernel")
        ((1, 280, 320), (3,))

    Raises:
        StructureError: The text is not whole numbers joined by x.
    """
    if not re.fullmatch(r"-?\d{1,18}(x-?\d{1,18})*", text.strip(), re.ASCII):
        raise StructureError(f"{name} as whole numbers joined by x, such as 1x280x320", repr(text))
    return tuple(map(int, text.strip().split("x")))
