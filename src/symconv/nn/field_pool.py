"""Pooling and upsampling of fields on a sampling grid that the group maps onto itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_input
from symconv.lattice.centring import check_window, remainders
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, Window
from symconv.nn._copies import runs_of
from symconv.nn.centring import alignment

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LAYER: dict[str, dict[int, Any]] = {
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
    "mean": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
}

_CENTRED = r"""
    The group maps the windows onto each other only if they lie symmetrically about the input's
    centre: ``(S + 2 p - d (k - 1) - 1) % stride == 0`` on every axis that it reverses. Elsewhere
    the error is near 1. **Prefer even windows**: size 2 and stride 2 halves every even size, which
    suits turns and shifts alike (measured relative error at a quarter turn: size 2 on 32 positions
    0, on 33 0.60; size 3, stride 2, padding 1 on 32 positions 0.33, on 33 0); an odd window with
    stride 2 needs an odd size, on which shifts are not exact. Off-centre sizes warn once
    (`OffCentreWarning`) and name the sizes that would do.

    With `align=True` such an input is extended to the next of them, S' = S + (stride - remainder):
    by as many positions at both ends, and where that is odd by one more and a window of two,
    stride 1, which moves the grid by half a position."""


class _FieldPool(nn.Module):
    """What the pools share: the window, its checks and its alignment."""

    dimension: ClassVar[int]

    def _configure(
        self, field: Field, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size
    ) -> None:
        runs_of(field)
        strides = kernel_size if stride is None else stride
        self.window = Window.of(self.dimension, kernel_size, strides, padding, dilation)
        check_window(self.window, field.group)
        reach = zip(self.window.padding, self.window.kernel_size, strict=True)
        if any(2 * before > taps for (before, _), taps in reach):
            raise StructureError("padding of at most half the kernel_size", repr(padding))
        self.field, self.channels, self._source = field, field.channels, str(field)
        self.kernel_size, self.stride = self.window.kernel_size, self.window.stride
        self.padding = tuple(before for before, _ in self.window.padding)
        self.dilation = self.window.dilation

    def _extension(self, x: Tensor, align: bool) -> tuple[int, ...]:
        """Check x; the positions by which `align` extends (or crops) each axis, or a warning."""
        check_input(x, self.dimension, self.channels, self._source)
        size = x.shape[-self.dimension :]
        if not align:
            alignment(self, self.window, self.field.group, size, align=False)
            return (0,) * self.dimension
        extension = []
        rests = remainders(self.window, self.field.group, size)
        for rest, p, e, s in zip(rests, self.padding, self.window.extent, self.stride, strict=True):
            more = (s - rest) % s
            # a window that would lie beyond the border altogether has nothing to pool: crop
            extension.append(more if p + (more + 1) // 2 < e else -rest)
        return tuple(extension)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        once, none = (1,) * self.dimension, (0,) * self.dimension
        defaults: dict[str, Any] = {"stride": self.kernel_size, "padding": none,
            "dilation": once, "count_include_pad": True, "align": False}  # fmt: skip
        given = {name: getattr(self, name, default) for name, default in defaults.items()}
        options = [f"{k}={_short(v)}" for k, v in given.items() if v != defaults[k]]
        return ", ".join([str(self.field), f"kernel_size={_short(self.kernel_size)}", *options])


class _FieldMaxPool(_FieldPool):
    r"""Max pooling of a field, centred on the input.

        y[n, c, l] = max over taps t of  x[n, c, s l + d t - p]        (outside the input: -inf)

    The values are torch's. {centred} (Outside: minus infinity.)

    Shapes: input (N, field.channels, \*S) or without N, output (N, field.channels, \*out) with
    ``out = (S + 2 p - d (k - 1) - 1) // stride + 1``, S' in place of S with `align`. Exactly
    equivariant, gradients where a window has one maximum.

    Args:
        field: What the channels mean.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next three.
        stride: Step between windows; the kernel size if left out.
        padding: Positions added at both ends of an axis, at most half the kernel size.
        dilation: Step between taps.
        align: Extend inputs on which the windows would lie off-centre?

    Raises:
        StructureError: The field is signed (a maximum does not commute with signs) or of another
            dimension, the group exchanges axes on which the window differs, a number is out of
            range, or (when called) the input has other channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> pool = FieldMaxPool2d(parse("C4").regular(2), kernel_size=2, align=True)
        >>> pool
        FieldMaxPool2d(C4.regular(2), kernel_size=2, align=True)
        >>> pool(torch.zeros(1, 8, 10, 10)).shape, pool(torch.zeros(1, 8, 9, 10)).shape
        (torch.Size([1, 8, 5, 5]), torch.Size([1, 8, 5, 5]))

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016), section 6.3.
    """

    def __init__(
        self,
        field: Field,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        *,
        align: bool = False,
    ):
        super().__init__()
        self._configure(field, kernel_size, stride, padding, dilation)
        self.align = align
        if field.signed:
            raise StructureError(
                "a field without signs (trivial, regular, quotient)",
                str(field),
                "a maximum does not commute with signs: use the average pool",
            )

    def forward(self, x: Tensor) -> Tensor:
        """The maxima (N, field.channels, *out), or without N."""
        extension = self._extension(x, self.align)
        pool = _MAX[self.dimension]
        if any(extension):
            x = F.pad(x, _ends(extension), value=-torch.inf)
            x = pool(x, _pair(extension), 1)
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation)

    def to_plain(self) -> nn.Module:
        """Torch's max pool.

        Raises:
            StructureError: `align=True`: what is added depends on the size.
        """
        _check_plain(self)
        layer = _LAYER["max"][self.dimension]
        return layer(self.kernel_size, self.stride, self.padding, self.dilation)


class _FieldAvgPool(_FieldPool):
    r"""Average pooling of a field, centred on the input.

        y[n, c, l] = 1 / k  sum over taps t of  x[n, c, s l + t - p]    (outside the input: 0)

    It commutes with signs: any field will do. The values are torch's. {centred} (Outside: nothing;
    the mean is over the positions that exist.)

    Shapes: input (N, field.channels, \*S) or without N, output (N, field.channels, \*out) with
    ``out = (S + 2 p - k) // stride + 1``, S' in place of S with `align`. Equivariant up to the
    rounding of sums (exact on integers).

    Args:
        field: What the channels mean.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next two.
        stride: Step between windows; the kernel size if left out.
        padding: Zeros added at both ends of an axis, at most half the kernel size.
        count_include_pad: Do the zeros of `padding` count in the mean?
        align: Extend inputs on which the windows would lie off-centre?

    Raises:
        StructureError: The field is of another dimension, the group exchanges axes on which the
            window differs, a number is out of range, or (when called) the input has other
            channels.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> pool = FieldAvgPool1d(parse("mirror").sign(1), kernel_size=2, align=True)
        >>> pool
        FieldAvgPool1d(mirror.sign(1), kernel_size=2, align=True)
        >>> pool(torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]])).round(decimals=3)
        tensor([[1.6670, 5.0000, 8.3330]])

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016), section 6.3.
    """

    def __init__(
        self,
        field: Field,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        *,
        count_include_pad: bool = True,
        align: bool = False,
    ):
        super().__init__()
        self._configure(field, kernel_size, stride, padding, 1)
        self.count_include_pad, self.align = count_include_pad, align

    def forward(self, x: Tensor) -> Tensor:
        """The means (N, field.channels, *out), or without N."""
        extension = self._extension(x, self.align)
        pool, window = _MEAN[self.dimension], (self.kernel_size, self.stride)
        if not any(extension):
            return pool(x, *window, self.padding, False, self.count_include_pad)
        weight = x.new_ones(1, *x.shape[-self.dimension :])
        border = [p for before in reversed(self.padding) for p in (before, before)]
        x, weight = F.pad(x, border), F.pad(weight, border, value=float(self.count_include_pad))
        x, weight = (
            pool(pool(F.pad(v, _ends(extension)), _pair(extension), 1), *window)
            for v in (x, weight)
        )
        return x / weight

    def to_plain(self) -> nn.Module:
        """Torch's average pool.

        Raises:
            StructureError: `align=True`: what is added depends on the size.
        """
        _check_plain(self)
        layer = _LAYER["mean"][self.dimension]
        return layer(
            self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad
        )


def _ends(extension: Sequence[int]) -> list[int]:
    """What `F.pad` adds at both ends of each axis; an odd extension is rounded up."""
    return [side for more in reversed(extension) for side in ((more + 1) // 2,) * 2]


def _pair(extension: Sequence[int]) -> tuple[int, ...]:
    """The window that takes an odd extension's surplus position away: two taps, else one."""
    return tuple(1 + more % 2 for more in extension)


def _check_plain(layer: Any) -> None:
    if layer.align:
        raise StructureError(
            "a pool without align=True", repr(layer), "choose centred sizes and align=False"
        )


def _short(value: Any) -> str:
    """A tuple of equal entries as one of them."""
    return repr(value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value)


class FieldMaxPool1d(_FieldMaxPool):
    """Max pooling of a field over one axis of space; documented at its base class."""

    dimension = 1


class FieldMaxPool2d(_FieldMaxPool):
    """Max pooling of a field over two axes of space."""

    dimension = 2


class FieldMaxPool3d(_FieldMaxPool):
    """Max pooling of a field over three axes of space."""

    dimension = 3


class FieldAvgPool1d(_FieldAvgPool):
    """Average pooling of a field over one axis of space."""

    dimension = 1


class FieldAvgPool2d(_FieldAvgPool):
    """Average pooling of a field over two axes of space."""

    dimension = 2


class FieldAvgPool3d(_FieldAvgPool):
    """Average pooling of a field over three axes of space."""

    dimension = 3


for _base in (_FieldMaxPool, _FieldAvgPool):
    _base.__doc__ = (_base.__doc__ or "").replace("{centred}", _CENTRED.strip())
    for _layer in _base.__subclasses__():
        _layer.__doc__ = _base.__doc__
