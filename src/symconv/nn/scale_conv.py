"""Convolution over positions and scales: what is larger is found at a larger scale."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_groups, check_input
from symconv.lattice.representations import Field
from symconv.lattice.scales import Scales
from symconv.lattice.windows import PADDING_MODES, Size, per_axis
from symconv.nn._scale_basis import BLUR, functions
from symconv.nn.blur_pool import short
from symconv.transforms import resampled

BASES = ("hermite", "discrete", "dyadic")
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d}
_LEAST_SIGMA = 0.8


class _ScaleConv(nn.Module):
    r"""Convolution of scale fields on an image pyramid, with one small filter for all scales.

    With x_k the input at scale k (of a trivial field the picture itself), down_k the ideal low
    pass and resampling to a grid whose steps are ``factor ** k``, and up_k the way back,

        y[o, k] = up_k( bias[o] + sum over i, j of  filter[o, i, j] * down_k(x[i, k + j]) )

    for j from 0 to interscale - 1; beyond the last scale there is nothing. As ideal resampling
    composes, scale k of a picture shrunk by the factor *is* scale k + 1 of the picture: shrinking
    the input shrinks the maps and moves them down one scale. Large scales are computed on small
    grids: all of them cost less than ``1 / (1 - factor ** -2)`` convolutions of the first (in 2-D).

    The three bases differ in what a filter is made of, by coefficients `weight`:

    - "hermite": Gaussians times Hermite polynomials of total order up to `order`;
    - "discrete": the sequences best concentrated, for their length, at the frequencies that the
      next scale keeps, in closed form for the factor; likewise up to `order`;
    - "dyadic": every tap free; factor 2 alone. No pyramid: scale k is blurred by k passes of a
      binomial filter of growing step, and filters are dilated by ``2 ** k``, at full resolution.

    Exactness. "hermite" and "discrete": each layer is equivariant to rounding away from the border,
    strided or not, where sizes round alike on both sides (of 43 positions, half octaves do not); a
    ReLU between them is not, as it makes frequencies
    that resampling removes. {measured} "dyadic": *exactly* equivariant to its own action, also
    behind ReLU: of the picture ``blur, then every second position``, of features every second
    position and scale k + 1 in the place of k; circular, sizes that are multiples of
    ``2 ** count``. To other ways of shrinking it is not.

    The last scale has no partner: an event that grows beyond it is lost, and with interscale = I
    each layer lacks I - 1 more scales at the top. Interscale sums that miss their upper scales
    raise the error (a published layer: to 0.24): keep 1 unless scales must be compared.

    Shapes: input (N, in_field.channels, \*S) or without N; output (N, out_field.channels, \*out),
    out = ceil(S / stride); `weight` (out copies, in copies // groups, interscale, functions),
    `bias` (out copies,). Up to 1,536 positions an axis is resampled by a product with a matrix
    (above some 500 that, not the filters, is most of the work), beyond by Fourier transforms.

    Args:
        in_field: A trivial field (then it lifts: every scale sees the picture) or a regular one,
            of ``sc.groups.scales(factor, count)``.
        out_field: A regular field over the same scales.
        kernel_size: Taps on the grid of each scale, odd; an integer or one per axis. 1 mixes
            copies only (lifting, or with `interscale`, it is a low pass to each scale's grid).
        stride: Step between outputs, the same for all scales: an ideal low pass to a grid of
            ``ceil(S / stride)`` positions with the input's centre ("dyadic": positions 0, stride,
            2 * stride, ... are kept). It spares later layers work, not this one.
        padding: "same": what stands beyond the border fills the window.
        dilation: 1 (scales dilate for themselves).
        groups: Blocks of copies that see only each other.
        bias: Add a learned value per copy?
        padding_mode: "zeros", "reflect", "replicate" or "circular"; with "circular" the pyramid
            is circular too, else it mirrors the border.
        basis: "hermite", "discrete" or "dyadic".
        interscale: Scales that each output scale reads, from its own upwards.
        order: Total order of the functions, (kernel_size - 1) // 2 if left out.
        sigma: Standard deviation of "hermite" in steps of the grid; (k - 1) / 4, at least 0.8, if
            left out. Below that a warning tells what to expect.
        device: Where parameters lie.
        dtype: Their type.

    Raises:
        StructureError: The fields are not of one group of scales, an argument is out of range, or
            (when called) the input has other channels or is too small for the largest scale.

    Example:
        >>> import symconv as sc
        >>> octaves = sc.groups.scales(2, 3)
        >>> lift = ScaleConv2d(octaves.trivial(3), octaves.regular(8), kernel_size=5)
        >>> lift
        ScaleConv2d(scales(2.0, 3).trivial(3), scales(2.0, 3).regular(8), kernel_size=5)
        >>> lift(torch.rand(2, 3, 64, 48)).shape
        torch.Size([2, 24, 64, 48])

    References:
        D. Worrall, M. Welling, Deep scale-spaces: equivariance over scale (2019); I. Sosnovik, M.
        Szmaja, A. Smeulders, Scale-equivariant steerable networks (2020); I. Sosnovik, A.
        Moskalev, A. Smeulders, DISCO: accurate discrete scale convolutions (2021); D. Slepian,
        Prolate spheroidal wave functions, Fourier analysis, and uncertainty V (1978).
    """

    dimension: ClassVar[int]
    functions: Tensor

    def __init__(
        self,
        in_field: Field,
        out_field: Field,
        kernel_size: Size = 5,
        stride: Size = 1,
        padding: str = "same",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        basis: str = "hermite",
        interscale: int = 1,
        order: int | None = None,
        sigma: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.scales, self.lifting = _fields(in_field, out_field)
        self.in_field, self.out_field = in_field, out_field
        self.kernel_size = per_axis(kernel_size, self.dimension, "kernel_size")
        self.stride = per_axis(stride, self.dimension, "stride")
        self.groups = per_axis(groups, 1, "groups")[0]
        self.interscale = per_axis(interscale, 1, "interscale")[0]
        check_groups(in_field.copies, out_field.copies, self.groups)
        self.padding_mode, self.basis = padding_mode, basis
        self._check(padding, dilation, order, sigma)
        self.order = (max(self.kernel_size) - 1) // 2 if order is None else order
        self.sigma = _usual_sigma(self.kernel_size) if sigma is None else float(sigma)
        found = functions(basis, self.kernel_size, self.order, self.sigma, self.scales.factor)
        kind: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.register_buffer("functions", torch.tensor(found, **kind), persistent=False)
        self._exact = torch.tensor(found, dtype=torch.float64)
        if sigma is not None and sigma < _LEAST_SIGMA and basis == "hermite":
            warnings.warn(
                f"sigma={sigma} under {_LEAST_SIGMA}: the relative squared error behind two layers "
                "and ReLU rises from some 1e-4 to 4e-3 at sigma 0.5, on natural pictures",
                stacklevel=2,
            )
        shape = (out_field.copies, in_field.copies // self.groups, self.interscale, len(found))
        self.weight = nn.Parameter(torch.empty(shape, **kind))
        self.bias = nn.Parameter(torch.empty(out_field.copies, **kind)) if bias else None
        self.reset_parameters()

    def _check(self, padding: Any, dilation: Any, order: Any, sigma: Any) -> None:
        """Refuse what no layer can be made of."""
        if self.basis not in BASES:
            raise StructureError(f"basis among {', '.join(BASES)}", repr(self.basis))
        if self.padding_mode not in PADDING_MODES:
            modes = ", ".join(PADDING_MODES)
            raise StructureError(f"padding_mode among {modes}", repr(self.padding_mode))
        if padding != "same" or set(per_axis(dilation, self.dimension, "dilation")) != {1}:
            raise StructureError(
                'padding="same" and dilation=1',
                f"padding={padding!r}, dilation={dilation!r}",
                "scales need maps of equal sizes, and dilate for themselves",
            )
        if any(k % 2 == 0 for k in self.kernel_size):
            raise StructureError("an odd kernel_size, which has a centre", self.kernel_size)
        if self.interscale > (1 if self.lifting else self.scales.count):
            raise StructureError(
                "interscale of at most the scales that the input has", self.interscale
            )
        if self.basis == "dyadic" and self.scales.factor != 2:
            raise StructureError(
                "scales of factor 2 for the dyadic basis",
                str(self.scales),
                'take basis="hermite" for other factors',
            )
        orders = range(max(self.kernel_size))
        whole = isinstance(order, Integral) and not isinstance(order, bool)
        if order is not None and not (whole and order in orders):
            raise StructureError(
                f"an integer order from 0 to {orders[-1]}", repr(order), "or a larger kernel_size"
            )
        if sigma is not None and not (isinstance(sigma, (int, float)) and 0 < sigma < math.inf):
            raise StructureError("a positive finite sigma", repr(sigma))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.functions = self._exact.to(self.functions)  # rounded anew, not once more
        return self

    def reset_parameters(self) -> None:
        """Draw weights as He et al. (2015) for functions of norm 1; biases are 0."""
        fan_in = self.weight[0].numel()
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def filters(self) -> Tensor:
        """The filters (out copies, in copies // groups, interscale, *kernel_size)."""
        return torch.tensordot(self.weight, self.functions.to(self.weight.dtype), 1)

    @property
    def pointwise(self) -> bool:
        """Whether it mixes copies at each position and scale alone."""
        return set(self.kernel_size) == {1} and not self.lifting and self.interscale == 1

    def grids(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Positions along each axis that every scale is computed on, for an input of this size."""
        if self.basis == "dyadic":
            return [tuple(size)] * self.scales.count
        coarse = self.scales.sizes[1:]
        return [tuple(size), *(tuple(max(1, round(n / scale)) for n in size) for scale in coarse)]

    def forward(self, x: Tensor) -> Tensor:
        """The maps (N, out_field.channels, *out), or without N."""
        check_input(x, self.dimension, self.in_field.channels, str(self.in_field))
        batch = x if x.ndim == self.dimension + 2 else x[None]
        if not self.pointwise:
            self._check_size(batch.shape[2:])
        maps = batch if self.lifting else batch.unflatten(1, (-1, self.scales.count))
        if self.pointwise:
            y = self._mixed(maps, self.filters())
        elif self.basis == "dyadic":
            y = self._dilated(maps, self.filters())
        else:
            y = self._on_pyramid(maps, self.filters())
        y = y.flatten(1, 2)
        return y if batch is x else y[0]

    def _check_size(self, space: torch.Size) -> None:
        """Refuse inputs whose largest scale has fewer positions than a filter."""
        largest = self.scales.sizes[-1]
        for size, k in zip(space, self.kernel_size, strict=True):
            if self.basis == "dyadic":
                least = math.ceil(largest * (k - 1)) + 1
            else:  # round(size / largest) positions, halves to the even number
                least = math.ceil(largest * (k - 0.5))
                least += round(least / largest) < k
            if size < least:
                raise StructureError(
                    f"at least {least} positions on each axis for kernel_size {k} at scale "
                    f"{largest:.3g}",
                    tuple(space),
                    "take fewer scales or a smaller kernel_size",
                )

    def _of_level(self, maps: Tensor, filters: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """What a scale reads (N, channels, *S), and its filters (out, channels // groups, *k)."""
        if self.lifting:
            return maps, filters[:, :, 0]
        reads = min(self.interscale, self.scales.count - level)
        read = maps[:, :, level : level + reads].flatten(1, 2)
        return read, filters[:, :, :reads].flatten(1, 2)

    def _mixed(self, maps: Tensor, filters: Tensor) -> Tensor:
        """Copies mixed at every position and scale alike."""
        if self.basis == "dyadic":
            maps = maps[(slice(None),) * 3 + tuple(slice(None, None, s) for s in self.stride)]
        else:
            maps = self._resampled(maps, self._strided(maps.shape[3:]))
        flat = maps.flatten(2, 3)
        y = _CONV[self.dimension](flat, filters[:, :, 0], self.bias, groups=self.groups)
        return y.unflatten(2, (self.scales.count, -1))

    def _on_pyramid(self, maps: Tensor, filters: Tensor) -> Tensor:
        """Every scale on a grid of its own, and from there to the grid of the outputs."""
        space = maps.shape[-self.dimension :]
        rows = []
        for level, size in enumerate(self.grids(space)):
            read, taps = self._of_level(maps, filters, level)
            y = self._convolved(self._resampled(read, size), taps, (1,) * self.dimension, 1)
            rows.append(self._resampled(y, self._strided(space)))
        return torch.stack(rows, 2)

    def _strided(self, space: Sequence[int]) -> tuple[int, ...]:
        """Positions of the outputs, per axis."""
        return tuple(-(-n // s) for n, s in zip(space, self.stride, strict=True))

    def _resampled(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The last axes on a grid of this size, behind an ideal low pass where it is coarser."""
        circular = self.padding_mode == "circular"
        for axis, new in enumerate(size, x.ndim - self.dimension):
            x = resampled(x, axis, new, circular=circular)
        return x

    def _dilated(self, maps: Tensor, filters: Tensor) -> Tensor:
        """Every scale at full resolution, with filters of growing steps."""
        rows = []
        for level in range(self.scales.count):
            read, taps = self._of_level(maps, filters, level)
            dilation = (2**level,) * self.dimension
            rows.append(self._convolved(read, taps, dilation, self.stride))
            if self.lifting and level + 1 < self.scales.count:
                maps = self._blurred(maps, 2**level)
        return torch.stack(rows, 2)

    def _blurred(self, x: Tensor, step: int) -> Tensor:
        """The next map of the scale-space: a binomial filter along each axis."""
        channels = x.shape[1]
        taps = torch.tensor(BLUR, dtype=x.dtype, device=x.device)
        for axis in range(self.dimension):
            shape = [1] * self.dimension
            shape[axis] = len(BLUR)
            kernel = taps.view(1, 1, *shape).expand(channels, *(-1,) * (self.dimension + 1))
            steps = [step if n > 1 else 1 for n in shape]
            x = self._padded(x, [s * (n // 2) for s, n in zip(steps, shape, strict=True)])
            x = _CONV[self.dimension](x, kernel, None, 1, 0, steps, channels)
        return x

    def _convolved(
        self, x: Tensor, filters: Tensor, dilation: tuple[int, ...], stride: Any
    ) -> Tensor:
        reach = [d * (k // 2) for d, k in zip(dilation, self.kernel_size, strict=True)]
        x = self._padded(x, reach)
        return _CONV[self.dimension](x, filters, self.bias, stride, 0, dilation, self.groups)

    def _padded(self, x: Tensor, reach: list[int]) -> Tensor:
        sides = [side for r in reversed(reach) for side in (r, r)]
        mode = self.padding_mode
        return F.pad(x, sides, "constant" if mode == "zeros" else mode) if any(sides) else x

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        defaults: dict[str, Any] = {
            "stride": (1,) * self.dimension,
            "groups": 1,
            "padding_mode": "zeros",
            "basis": "hermite",
            "interscale": 1,
            "order": (max(self.kernel_size) - 1) // 2,
            "sigma": _usual_sigma(self.kernel_size),
        }
        parts = [f"{self.in_field}, {self.out_field}, kernel_size={short(self.kernel_size)}"]
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={short(value) if name == 'stride' else repr(value)}")
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


def _fields(in_field: Field, out_field: Field) -> tuple[Scales, bool]:
    """The scales of two fields, and whether the first is trivial.

    Raises:
        StructureError: They are no trivial or regular fields over one group of scales.
    """
    for field, name in ((in_field, "in_field"), (out_field, "out_field")):
        if not isinstance(field, Field) or not isinstance(field.group, Scales) or not field.copies:
            raise StructureError(
                f"a field over scales as {name}",
                repr(field),
                "make one with sc.groups.scales(2, 3).regular(8)",
            )
    scales: Any = in_field.group
    if scales != out_field.group:
        raise StructureError("fields over the same scales", f"{scales} and {out_field.group}")
    regular = [{r.size for r, copies in f.parts if copies} for f in (in_field, out_field)]
    if regular[1] != {scales.count} or len(regular[0]) > 1:
        raise StructureError(
            "a trivial or a regular in_field and a regular out_field, not sums of both",
            f"{in_field} and {out_field}",
            "pool scales with ScalePool, then go on with torch's convolutions",
        )
    return scales, regular[0] == {1} and scales.count > 1


def _usual_sigma(kernel_size: tuple[int, ...]) -> float:
    return max((max(kernel_size) - 1) / 4, _LEAST_SIGMA)


class ScaleConv1d(_ScaleConv):
    """Scale convolution over one axis of space or time; documented at its base class."""

    dimension = 1


class ScaleConv2d(_ScaleConv):
    """Scale convolution over two axes of space."""

    dimension = 2


#: Measured by benchmarks/scale.py.
_MEASURED = """Relative squared error of two layers with ReLU, natural pictures, interior,
    random weights: 5x5 filters 2.5e-4 (hermite) and 2.1e-4 (discrete) at factor 2, 1.3e-4 and
    1.1e-4 at sqrt 2; 7x7 1.1e-4 and 1.2e-4, 6e-5 and 8e-5 (two plain 7x7 layers: 0.16 and 0.06).
    With filters of sum 0 some ten times as much (two plain 7x7 layers: 0.31 and 0.15).""".strip()
_ScaleConv.__doc__ = (_ScaleConv.__doc__ or "").replace("{measured}", _MEASURED)
for _layer in (ScaleConv1d, ScaleConv2d):
    _layer.__doc__ = _ScaleConv.__doc__
