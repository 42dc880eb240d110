"""What the kernels of local layers are told: sizes of three axes, strides, blocks.

One and two axes of space become three with leading axes of size 1, so that one kernel serves all.
Block sizes are plain functions of the sizes: nothing is tuned at run time, so that equal calls give
equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from symconv.errors import StructureError

Ints = Sequence[int]
Triple = tuple[int, int, int]

MOST = 2**31 - 1  # programs of a launch, positions of a lattice
TILE = 4096  # entries of a tile in registers: 32 a thread
PROGRAMS = 512  # enough to fill a large GPU

#: Was TRITON_INTERPRET set when triton was imported?
INTERPRETED = not isinstance(tl.cdiv, JITFunction)


class Geometry(NamedTuple):
    """The window of a local layer over three axes.

    Attributes:
        size: Input positions per axis, without padding.
        out: Output positions per axis.
        kernel: Taps per axis; likewise stride, dilation and the zeros before each axis.
        groups: Blocks of channels.
        c: Input channels of a group.
        o: Output channels of a group.
    """

    size: Triple
    out: Triple
    kernel: Triple
    stride: Triple
    dilation: Triple
    before: Triple
    groups: int
    c: int
    o: int

    @classmethod
    def of(
        cls, size: Ints, weight: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Geometry:
        """The geometry of an unpadded input size and a weight's shape.

        Example:
            >>> Geometry.of((8,), (4, 3, 2, 6), (2,), (1, 0), (1,), 2).out
            (1, 1, 4)
        """
        _, *kernel, c, channels = weight
        axes = size, kernel, stride, dilation, padding[::2], padding[1::2]
        out = [
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, s, d, before, after in zip(*axes, strict=True)
        ]
        most = max(math.prod(size), math.prod(out), math.prod(weight[1:]))
        if most > MOST:
            expected = f"at most {MOST} positions, and entries of a filter"
            raise StructureError(expected, most, "cut the input")
        return cls(
            size=_three(size, 1),
            out=_three(out, 1),
            kernel=_three(kernel, 1),
            stride=_three(stride, 1),
            dilation=_three(dilation, 1),
            before=_three(padding[::2], 0),
            groups=groups,
            c=c,
            o=channels // groups,
        )

    @property
    def taps(self) -> int:
        """Taps of a window."""
        return math.prod(self.kernel)

    @property
    def locations(self) -> int:
        """Output positions in all."""
        return math.prod(self.out)

    def constants(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        return dict(
            KERNEL=self.kernel, STRIDE=self.stride, DILATION=self.dilation, BEFORE=self.before,
            GROUPS=self.groups, CIN=self.c, COUT=self.o,
        )  # fmt: skip

    def phases(self) -> dict[str, Any]:
        """Which taps of an input position meet an output position.

        Position n = p + before meets the taps t with d t = n (mod s): with g = gcd(s, d), none
        unless g divides n, else t = (n / g) * (d / g)^-1 (mod s / g).

        Example:
            >>> Geometry.of((9,), (4, 5, 1, 1), (6,), (0, 0), (4,), 1).phases()["STEP"]
            (1, 1, 3)
        """
        common = [math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        step = tuple(s // g for s, g in zip(self.stride, common, strict=True))
        ratios = (d // g for d, g in zip(self.dilation, common, strict=True))
        turn = tuple(pow(r, -1, q) if q > 1 else 0 for r, q in zip(ratios, step, strict=True))
        count = tuple(-(-k // q) for k, q in zip(self.kernel, step, strict=True))
        return dict(STEP=step, TURN=turn, COUNT=count)


def _three(row: Ints, fill: int) -> Triple:
    padded = (*(fill,) * (3 - len(row)), *(int(entry) for entry in row))
    return padded  # pyright: ignore[reportReturnType]


def steps(x: Tensor) -> tuple[int, ...]:
    """Strides of (B, C, *S) as of (B, C, S1, S2, S3)."""
    batch, channel, *space = x.stride()
    return batch, channel, *_three(space, 0)


def channels_fastest(x: Tensor) -> Tensor:
    """The same (B, C, *S), copied if a batch of one position's channels does not lie together.

    A matrix kernel reads (batch, channels) of one position at a time.
    """
    if x.stride(1) == 1 and x.shape[1] > 1:
        return x
    return x.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))


def unfilled(x: Tensor, channels: int, size: Ints) -> Tensor:
    """An empty (B, channels, *size) in the layout that a matrix kernel writes at once."""
    return x.new_empty(*size, x.shape[0], channels).movedim((-2, -1), (0, 1))


def types(*tensors: Tensor) -> dict[str, Any]:
    """The type of sums, of offsets, and whether operands are widened before a product."""
    dtype = tensors[0].dtype
    reach = max(sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return dict(
        SUM=tl.float64 if dtype == torch.float64 else tl.float32,
        INDEX=tl.int64 if reach > MOST else tl.int32,
        WIDEN=dtype == torch.bfloat16 and not _multiplies_bfloat16(tensors[0]),
    )


def _multiplies_bfloat16(x: Tensor) -> bool:
    """Not in interpreter mode (it would multiply the bits), nor on GPUs before Ampere."""
    if INTERPRETED or not x.is_cuda:
        return not INTERPRETED
    return torch.version.hip is not None or torch.cuda.get_device_capability(x.device) >= (8, 0)


def launch(kernel: JITFunction, programs: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first argument."""
    if programs > MOST:
        raise StructureError(f"at most {MOST} blocks of outputs", programs, "cut the batch")
    with torch.cuda.device_of(arguments[0]):
        # Fused multiply-add named, since triton 3.9 warns that its default will change.
        kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


def ceil(a: int, b: int) -> int:
    """How many blocks of b cover a."""
    return -(-a // b)


def power(n: int, most: int, least: int = 1) -> int:
    """The least power of two that covers n, between two bounds that are powers of two.

    Example:
        >>> power(5, 64), power(100, 64), power(3, 64, 16)
        (8, 64, 16)
    """
    return max(least, min(most, 1 << max(0, n - 1).bit_length()))


def vector_blocks(
    batch: int, places: Triple, terms: int, channels: int
) -> tuple[int, dict[str, int]]:
    """Programs of a vector kernel, and its blocks of batch rows, positions, terms and channels.

    Channels lie together in memory, neighbouring positions share the input's cache lines, and the
    terms fill what is left of the registers. Small layers are cut finer, to fill the device.

    Example:
        >>> vector_blocks(1, (1, 64, 64), 144, 16)
        (512, {'BB': 1, 'BU': 8, 'BK': 32, 'BO': 16})
        >>> vector_blocks(1, (1, 8, 8), 144, 64)
        (256, {'BB': 1, 'BU': 1, 'BK': 256, 'BO': 16})
    """
    rows, positions, together = power(batch, 4), power(places[2], 8), power(channels, 64)

    def programs() -> int:
        blocks = ceil(batch, rows) * ceil(places[2], positions) * ceil(channels, together)
        return blocks * places[0] * places[1]

    while positions > 1 and programs() < PROGRAMS:
        positions //= 2
    while together > 16 and programs() < PROGRAMS:
        together //= 2
    left = max(1, TILE // (rows * positions * together))
    return programs(), dict(BB=rows, BU=positions, BK=power(terms, left), BO=together)


def matrix_blocks(rows: int, terms: int, channels: int, item: int) -> tuple[int, dict[str, int]]:
    """Programs of one product, and its blocks of rows, terms and channels; `item` in bytes.

    A block is at least 16, the least that a tensor core multiplies.

    Example:
        >>> matrix_blocks(128, 288, 32, 4), matrix_blocks(20, 9, 5, 2)
        ((2, {'BM': 64, 'BK': 16, 'BO': 32}), (1, {'BM': 32, 'BK': 16, 'BO': 16}))
    """
    most = 32 if item > 4 else 64
    m, o = power(rows, most, 16), power(channels, most, 16)
    blocks = dict(BM=m, BK=power(terms, 16 if item >= 4 else 32, 16), BO=o)
    return ceil(rows, m) * ceil(channels, o), blocks


def suits_matrix(rows: int, geometry: Geometry) -> bool:
    """Is there enough to multiply at once for a tile of 16 by 16?"""
    return rows > 4 and min(geometry.c * geometry.taps, geometry.o) >= 8
