"""Transforms of feature tensors: what a layer should commute with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.lattice import planar
from symconv.lattice.groups import Element
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, per_axis


def translate(x: torch.Tensor, shift: Size, mode: str = "circular") -> torch.Tensor:
    """Move the content of `x` by whole positions: ``y[..., i] = x[..., i - shift]``.

    Positive shifts move content to higher indices, I'(x, y) = I(x - 1, y). Exact: values are
    moved, never interpolated.

    Args:
        x: Tensor (..., *space) whose last axes, one an entry of `shift`, are space.
        shift: Positions per axis in tensor order; an integer moves the last axis.
        mode: "circular" (what leaves at one end enters at the other) or "zeros" (it is lost, and
            zeros enter).

    Raises:
        StructureError: The mode is unknown, the shift is not whole, or `x` has too few axes.

    Example:
        >>> translate(torch.tensor([1, 2, 3]), 1), translate(torch.tensor([1, 2, 3]), 1, "zeros")
        (tensor([3, 1, 2]), tensor([0, 1, 2]))
    """
    dimension = len(shift) if isinstance(shift, Sequence) else 1
    steps = per_axis(shift, dimension, "shift", minimum=-(2**62))
    if x.ndim < dimension:
        raise StructureError(f"a tensor of at least {dimension} axes", f"shape {tuple(x.shape)}")
    if mode not in ("circular", "zeros"):
        raise StructureError('mode "circular" or "zeros"', repr(mode))
    axes = range(x.ndim - dimension, x.ndim)
    if mode == "circular":
        return x.roll(steps, tuple(axes))
    y, here, there = torch.zeros_like(x), [slice(None)] * x.ndim, [slice(None)] * x.ndim
    for axis, step in zip(axes, steps, strict=True):
        length = max(0, x.shape[axis] - abs(step))
        here[axis] = slice(max(0, -step), max(0, -step) + length)
        there[axis] = slice(max(0, step), max(0, step) + length)
    y[tuple(there)] = x[tuple(here)]
    return y


def act(element: Element, x: torch.Tensor, field: Field | None = None) -> torch.Tensor:
    """A group element's action on features: move the grid, and permute the channels with signs.

    ``y[rho(g) c, g p] = sign * x[c, p]``, with positions p about the centre of the grid. Exact for
    elements that map the lattice onto itself: values are moved or negated, never interpolated. A
    quarter turn of C4 is ``torch.rot90(x, 1, (-2, -1))``. Other turns, such as those of C8 by 45
    degrees, are interpolated as by `rotate`, which states its error.

    Args:
        element: The element g, of a group over the last n axes of `x`.
        x: Features (..., channels, *space); with `field=None` the channels are left as they are,
            and need not be there.
        field: What the channels mean; they lie on the axis before space.

    Returns:
        The moved features; exchanged axes exchange their sizes (for an interpolated turn those of
        its nearest quarter turn).

    Raises:
        StructureError: `element` is none of a group, the field has another group or other
            channels, or `x` too few axes.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> turn = parse("C4").elements[1]
        >>> act(turn, torch.tensor([[1, 2], [3, 4]]))
        tensor([[2, 4],
                [1, 3]])
        >>> arrow = torch.tensor([2, 1]).view(2, 1, 1)  # two down, one right
        >>> act(turn, arrow, parse("C4").vector(1)).flatten()  # one up, two right
        tensor([-1,  2])
    """
    if not isinstance(element, Element):
        raise StructureError("an element of a group", repr(element), "such as C4.elements[1]")
    n = element.group.dimension
    needed = n + (field is not None)
    if x.ndim < needed:
        raise StructureError(f"at least {needed} axes for {element}", f"shape {tuple(x.shape)}")
    moved = _moved(element, x)
    return moved if field is None else _act_on_channels(element, moved, field)


def _moved(element: Element, x: torch.Tensor) -> torch.Tensor:
    """The grid of x (..., *space) moved by an element."""
    n = element.group.dimension
    if not element.exact:
        turn, mirrored = planar.parts(element.matrix)
        return rotate(x.flip(-1) if mirrored else x, float(360 * turn))
    first = x.ndim - n
    matrix = element.matrix
    sources = abs(matrix).argmax(axis=1)  # the axis that comes to lie on each
    moved = x.permute(*range(first), *(first + int(axis) for axis in sources))
    return moved.flip([first + axis for axis in range(n) if matrix[axis].sum() < 0])


def _act_on_channels(element: Element, x: torch.Tensor, field: Field) -> torch.Tensor:
    if field.group != element.group:
        raise StructureError(f"a field over {element.group}", f"{field} over {field.group}")
    axis = x.ndim - element.group.dimension - 1
    if x.shape[axis] != field.channels:
        raise StructureError(
            f"{field.channels} channels of {field}", f"{x.shape[axis]} in shape {tuple(x.shape)}"
        )
    image, signs = field.permutation[element.index], field.signs[element.index]
    x = x.index_select(axis, torch.from_numpy(image.argsort()).to(x.device))
    if (signs > 0).all():
        return x
    landed = torch.from_numpy(signs[image.argsort()]).to(x.device, x.dtype)
    return x * landed.view(-1, *(1,) * element.group.dimension)


def rotate(x: torch.Tensor, degrees: float, mode: str = "zeros") -> torch.Tensor:
    """Turn the content of the last two axes about their centre, counter-clockwise as `torch.rot90`.

    Multiples of 90 degrees are exact: values are moved. Any other angle is the nearest quarter
    turn followed by three shears, each a Fourier shift of rows or columns (trigonometric
    interpolation). That is exact for content that is band-limited and lies inside the inscribed
    circle: to rounding for a smooth blob (1e-12 in float64 for a Gaussian of standard deviation
    size / 16), while edges and noise ring, and content in the corners is lost.

    Args:
        x: Tensor (..., height, width).
        degrees: Angle. Sizes that differ are exchanged with an odd nearest quarter turn.
        mode: What lies outside: "zeros", or "circular": the picture repeats. Circular shears
            neither lose nor add anything, so that ``rotate(rotate(x, a), -a)`` gives x back
            except for the highest frequency of even sizes, but wrapped content fills the corners,
            and content beyond 0.92 of the inscribed circle is misplaced.

    Raises:
        StructureError: `x` has fewer than two axes, or integers are to be turned by such an
            angle, or the mode is unknown.

    Example:
        >>> rotate(torch.tensor([[1, 2], [3, 4]]), 90)
        tensor([[2, 4],
                [1, 3]])

    References:
        Unser, Thevenaz, Yaroslavsky, Convolution-based interpolation for fast, high-quality
        rotation of images (1995); Paeth, A fast algorithm for general raster rotation (1986).
    """
    if x.ndim < 2:
        raise StructureError("a tensor (..., height, width)", f"shape {tuple(x.shape)}")
    if mode not in ("circular", "zeros"):
        raise StructureError('mode "circular" or "zeros"', repr(mode))
    quarters = round(degrees / 90)
    angle = math.radians(degrees - 90 * quarters)
    x = x.rot90(quarters % 4, (-2, -1))
    if angle == 0:
        return x
    y = _as_float(x, "rotate by other than quarter turns")
    height, width = y.shape[-2:]
    margin = (max(height, width) + 1) // 2 if mode == "zeros" else 0
    y = F.pad(y, (margin,) * 4)
    # Rows are counted downwards, so a counter-clockwise turn shears rows to the right below.
    for axis, slope in (
        (-1, math.tan(angle / 2)),
        (-2, -math.sin(angle)),
        (-1, math.tan(angle / 2)),
    ):
        y = _shear(y, axis, slope)
    return y[..., margin : margin + height, margin : margin + width].to(x.dtype)


def _shear(x: torch.Tensor, axis: int, slope: float) -> torch.Tensor:
    """Shift each line along `axis` by slope times its distance from the centre, periodically."""
    other = -3 - axis
    size, lines = x.shape[axis], x.shape[other]
    kind = {"dtype": x.dtype, "device": x.device}
    shift = slope * (torch.arange(lines, **kind) - (lines - 1) / 2)
    frequency = torch.fft.rfftfreq(size, **kind)
    phase = -2 * math.pi * torch.outer(shift, frequency)
    turn = torch.polar(torch.ones_like(phase), phase)
    spectrum = torch.fft.rfft(x, dim=axis) * (turn if axis == -1 else turn.t())
    return torch.fft.irfft(spectrum, n=size, dim=axis)


def rescale(x: torch.Tensor, factor: float | Sequence[float]) -> torch.Tensor:
    """Resize the last axes by a factor, without aliasing.

    Each axis is resampled by its cosine transform: the picture continued as its own mirror image
    at both ends, frequencies that the new grid cannot hold removed. Sizes become
    ``round(S * factor)``, and the content keeps its centre, so that the result commutes with
    mirrors and quarter turns. Exact for content band-limited in this sense: enlarging and
    shrinking back gives `x` again to rounding. The mean is kept. Sharp edges ring, as with every
    ideal low pass.

    Args:
        x: Tensor (..., *space).
        factor: New size over old: a number for the last two axes, or one per axis of space.

    Raises:
        StructureError: A factor is not positive or leaves nothing, `x` has too few axes or holds
            integers.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> big = rescale(x, 1.5)
        >>> big.shape, bool((rescale(big, 8 / 12) - x).abs().max() < 1e-5)
        (torch.Size([3, 12, 12]), True)

    References:
        Martucci, Image resizing in the discrete cosine transform domain (1995).
    """
    factors = (factor, factor) if isinstance(factor, (int, float)) else tuple(factor)
    if x.ndim < len(factors):
        raise StructureError(f"at least {len(factors)} axes", f"shape {tuple(x.shape)}")
    y = _as_float(x, "rescale")
    for axis, ratio in enumerate(factors, x.ndim - len(factors)):
        size = y.shape[axis]
        new = round(size * ratio) if ratio > 0 else 0
        if new < 1:
            raise StructureError(f"a factor that leaves something of size {size}", ratio)
        y = resampled(y, axis, new)
    return y.to(x.dtype)


_LONG = 1536  # positions from which on two transforms take less time than a matrix product


def resampled(x: torch.Tensor, axis: int, new: int, *, circular: bool = False) -> torch.Tensor:
    """`rescale` of one axis (counted from 0) to `new` positions; circular: as in `resampling`."""
    size = x.shape[axis]
    if size == new:
        return x
    if not torch.compiler.is_compiling() and max(size, new) > _LONG:  # sizes may be symbols there
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return _by_fourier(y.movedim(axis, -1), new, circular).movedim(-1, axis).to(x.dtype)
    # tensors made while compiling, or under a mode that makes stand-ins, must not be kept
    if torch.compiler.is_compiling() or type(torch.empty(0, device=x.device)) is not torch.Tensor:
        matrix = resampling(size, new, like=x, circular=circular)
    else:
        matrix = _kept(size, new, circular, x.dtype, x.device)
    if axis == x.ndim - 2:
        return matrix @ x
    return (x.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)


def _by_fourier(x: torch.Tensor, new: int, circular: bool) -> torch.Tensor:
    """The same on the last axis: a mirrored axis is a circular one of twice the length."""
    if not circular:
        return _by_fourier(torch.cat([x, x.flip(-1)], -1), 2 * new, True)[..., :new]
    size = x.shape[-1]
    wave = torch.arange((min(size, new) + 1) // 2, dtype=torch.float64, device=x.device)
    angle = math.pi * wave * (1 / new - 1 / size)  # both grids have one centre
    kept = torch.fft.rfft(x)[..., : len(wave)]
    turned = kept * torch.polar(torch.ones_like(angle), angle).to(kept.dtype)
    return torch.fft.irfft(turned, n=new) * (new / size)


@lru_cache(maxsize=64)
def _kept(
    size: int, new: int, circular: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A matrix that serves training, too, if it was first wanted in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        like = torch.empty((), dtype=dtype, device=device)
        return resampling(size, new, like=like, circular=circular)


def resampling(size: int, new: int, *, like: torch.Tensor, circular: bool = False) -> torch.Tensor:
    """The matrix (new, size) of `rescale` along one axis; both grids have one centre.

    Args:
        size: Positions that there are.
        new: Positions wanted.
        like: Gives device and type; computed in float64.
        circular: Continue the axis as itself, by its Fourier transform, instead of as its mirror
            image, by its cosine transform. A highest frequency of an even size is left out, but
            where the sizes agree.
    """
    if size == new:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    kept = min(size, new)
    here, there = (
        (torch.arange(n, dtype=torch.float64, device=like.device) + 0.5) / n for n in (size, new)
    )
    there = there[:, None]
    if circular:
        matrix = _waves((kept + 1) // 2, 2 * (there - here))
    else:
        matrix = (_waves(kept, there - here) + _waves(kept, there + here)) / 2
    return (matrix / size).to(like.dtype)


def _waves(count: int, at: torch.Tensor) -> torch.Tensor:
    """1 + 2 * the sum of cos(pi w at) for w from 1 to count - 1: the Dirichlet kernel."""
    half = math.pi / 2 * (at - 2 * (at / 2).round())  # one period, where only 0 has a sine of 0
    first = half == 0
    sine = torch.where(first, 1.0, half.sin())
    return torch.where(first, 2.0 * count - 1, ((2 * count - 1) * half).sin() / sine)


def _as_float(x: torch.Tensor, what: str) -> torch.Tensor:
    """The tensor in a type that interpolation can use; half precision in single."""
    if not x.is_floating_point():
        raise StructureError(f"floating-point values to {what}", x.dtype, "convert with .float()")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
