"""Windows on a lattice: which input positions each output position sees.

An n-dimensional window is a product of one-dimensional ones, so everything here is a table per
axis and a product over the axes: counts cost the sum of the axes' lengths, never their product.

Along one axis with input size S, kernel k, stride s, dilation d and padding (before, after), output
o and tap t look at position ``s * o + d * t - before``; the boundary mode says which input that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symconv.errors import StructureError

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
OUTSIDE = -1  # a tap on zero padding: no input is there

Size = int | Sequence[int]


def per_axis(value: Size, dimension: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """`value` as one integer per axis; a single integer serves every axis.

    Raises:
        StructureError: The number of entries is not `dimension`, or one is not an integer of at
            least `minimum`.

    Example:
        >>> per_axis(3, 2, "kernel_size"), per_axis((3, 5), 2, "kernel_size")
        ((3, 3), (3, 5))
    """
    entries = tuple(value) if isinstance(value, Sequence) else (value,) * dimension
    wanted = f"{name} as an integer or {dimension} integers of at least {minimum}"
    if len(entries) != dimension:
        raise StructureError(wanted, repr(value), "give one entry per axis of space")
    try:
        whole = tuple(int(entry) for entry in entries)
    except (TypeError, ValueError) as error:
        raise StructureError(wanted, repr(value)) from error
    if any(w != e for w, e in zip(whole, entries, strict=True)) or min(whole) < minimum:
        raise StructureError(wanted, repr(value))
    return whole


@dataclass(frozen=True)
class Window:
    """A window of taps that slides over a lattice; make one with `Window.of`.

    Attributes:
        kernel_size: Taps per axis.
        stride: Step between neighbouring outputs, in input positions.
        padding: Positions added per axis, as (before, after) pairs.
        dilation: Step between neighbouring taps, in input positions.
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".

    Example:
        >>> window = Window.of(1, kernel_size=3, stride=2, padding=1)
        >>> window.output_size((8,))
        (4,)
        >>> window.axis_table(0, 8)
        array([[-1,  0,  1],
               [ 1,  2,  3],
               [ 3,  4,  5],
               [ 5,  6,  7]])
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    padding_mode: str

    @classmethod
    def of(
        cls,
        dimension: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        padding_mode: str = "zeros",
    ) -> Window:
        """The window that torch's convolution arguments describe.

        Args:
            dimension: Number of space axes.
            kernel_size: Taps, an integer or one per axis; likewise the next three.
            stride: Step between outputs.
            padding: Positions added at both ends of an axis, or "valid" (none), or "same" (the
                output has the input's size: ``dilation * (kernel_size - 1)`` in all, where that
                is odd one more at the end; stride must be 1).
            dilation: Step between taps.
            padding_mode: One of `PADDING_MODES`.

        Raises:
            StructureError: A value is out of range, or "same" comes with a stride.
        """
        if padding_mode not in PADDING_MODES:
            raise StructureError(f"padding_mode in {PADDING_MODES}", repr(padding_mode))
        kernel_size = per_axis(kernel_size, dimension, "kernel_size")
        stride = per_axis(stride, dimension, "stride")
        dilation = per_axis(dilation, dimension, "dilation")
        if padding == "same":
            if max(stride) > 1:
                raise StructureError('stride 1 with padding="same"', stride, "give padding numbers")
            reach = (d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True))
            pairs = tuple((r // 2, r - r // 2) for r in reach)
        elif isinstance(padding, str) and padding != "valid":
            raise StructureError('padding as integers, "same" or "valid"', repr(padding))
        else:
            entries = per_axis(0 if padding == "valid" else padding, dimension, "padding", 0)
            pairs = tuple((p, p) for p in entries)
        return cls(kernel_size, stride, pairs, dilation, padding_mode)

    @property
    def dimension(self) -> int:
        """Number of space axes."""
        return len(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Input positions spanned per axis: ``dilation * (kernel_size - 1) + 1``."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def taps(self) -> int:
        """Taps in all: the product of `kernel_size`."""
        return math.prod(self.kernel_size)

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Output positions per axis: ``(S + before + after - extent) // stride + 1``.

        Raises:
            StructureError: The window does not fit into the padded input, or the padding mode
                cannot fill so much padding ("reflect": less than S; "circular": at most S).
        """
        size = per_axis(input_size, self.dimension, "input_size")
        self._check_padding(size)
        rows = zip(size, self.padding, self.extent, self.stride, strict=True)
        out = tuple((s + before + after - e) // step + 1 for s, (before, after), e, step in rows)
        if min(out) < 1:
            padded = tuple(s + sum(p) for s, p in zip(size, self.padding, strict=True))
            raise StructureError(
                f"a padded input of at least the window's extent {self.extent}",
                f"{padded} from input size {size}",
                "give a larger input, more padding or a smaller kernel",
            )
        return out

    def transposed_size(self, input_size: Size, output_padding: Size = 0) -> tuple[int, ...]:
        """Output positions per axis of the transposed window.

        ``(S - 1) * stride - before - after + extent + output_padding``: the input size that this
        window would bring to `input_size`; several do where stride > 1, and `output_padding`
        chooses among them.

        Raises:
            StructureError: The result is not positive, or `output_padding` is at least as large
                as both stride and dilation.
        """
        size = per_axis(input_size, self.dimension, "input_size")
        extra = per_axis(output_padding, self.dimension, "output_padding", 0)
        steps = zip(self.stride, self.dilation, strict=True)
        bound = tuple(max(pair) for pair in steps)
        if any(e >= b for e, b in zip(extra, bound, strict=True)):
            raise StructureError(f"output_padding below stride or dilation {bound}", extra)
        rows = zip(size, self.stride, self.padding, self.extent, extra, strict=True)
        out = tuple((s - 1) * step - sum(p) + e + more for s, step, p, e, more in rows)
        if min(out) < 1:
            raise StructureError("a positive output size", out, "pad less or give a larger input")
        return out

    def _check_padding(self, size: tuple[int, ...]) -> None:
        limit = {"reflect": -1, "circular": 0}.get(self.padding_mode)
        if limit is not None and any(
            max(p) > s + limit for s, p in zip(size, self.padding, strict=True)
        ):
            bound = "less than" if limit else "at most"
            raise StructureError(
                f"padding {bound} the input size for padding_mode={self.padding_mode!r}",
                f"padding {self.padding} on input size {size}",
                "pad less or give a larger input",
            )

    def axis_table(self, axis: int, size: int) -> np.ndarray:
        """Input position under each (output, tap) of one axis; `OUTSIDE` on zero padding."""
        before, after = self.padding[axis]
        outputs = (size + before + after - self.extent[axis]) // self.stride[axis] + 1
        at = (
            self.stride[axis] * np.arange(outputs)[:, None]
            + self.dilation[axis] * np.arange(self.kernel_size[axis])
            - before
        )
        match self.padding_mode:
            case "zeros":
                return np.where((at >= 0) & (at < size), at, OUTSIDE)
            case "circular":
                return at % size
            case "replicate":
                return at.clip(0, size - 1)
            case _:  # reflect: a mirror on the first and the last position
                return (size - 1) - abs((size - 1) - abs(at))

    def tables(self, input_size: Sequence[int]) -> list[np.ndarray]:
        """`axis_table` of every axis, after the checks of `output_size`."""
        self.output_size(input_size)
        return [self.axis_table(axis, size) for axis, size in enumerate(input_size)]

    def is_centred(self, input_size: Sequence[int]) -> tuple[bool, ...]:
        """Per axis: do the output positions lie symmetrically about the input's centre?

        A mirror or a quarter turn maps the sampling grid onto itself only then: padding must be
        the same at both ends and ``(S + 2p - extent) % stride`` zero.
        """
        rows = zip(input_size, self.padding, self.extent, self.stride, strict=True)
        return tuple(b == a and (s + b + a - e) % step == 0 for s, (b, a), e, step in rows)
