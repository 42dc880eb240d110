"""What a model gives back: checked, moved back, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from symconv.conversion.symmetrizing.motions import Shifts, Turns
from symconv.errors import StructureError
from symconv.lattice.groups import Element

Motion = Turns | Shifts
Moves = Callable[[Any, Any], Any]
KINDS = '"scores", "map" or a callable (element, y) -> y'


def mapped(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """A function of the tensors of one tree or several alike: dicts, lists and tuples."""
    if isinstance(first, Tensor):
        return function(first, *rest)
    if isinstance(first, Mapping):
        return {k: mapped(function, v, *(r[k] for r in rest)) for k, v in first.items()}
    if isinstance(first, (list, tuple)):
        items = [mapped(function, *each) for each in zip(first, *rest, strict=True)]
        if isinstance(first, tuple):
            return type(first)(*items) if hasattr(first, "_fields") else tuple(items)
        return items
    raise StructureError("an output of tensors, in dicts, lists or tuples", type(first).__name__)


def rows(y: Any, start: int, stop: int) -> Any:
    """Some samples of an output."""
    return mapped(lambda t: t[start:stop], y)


def joined(parts: Sequence[Any]) -> Any:
    """Outputs one after another."""
    if len(parts) == 1:
        return parts[0]
    return mapped(lambda *each: torch.cat(each), *parts)


def check_output(y: Any, samples: int, kind: str | Moves, motion: Motion, x: Tensor) -> None:
    """Refuse what `output` does not describe.

    Raises:
        StructureError: Another shape, another number of samples, or whole numbers.
    """
    space = x.ndim - 2
    if isinstance(kind, str) and not isinstance(y, Tensor):
        raise StructureError(
            f"one tensor for output={kind!r}",
            f"{type(y).__name__} from the model",
            "give a callable (element, y) -> y that moves it back",
        )

    def each(t: Tensor) -> None:
        if t.ndim == 0 or t.shape[0] != samples:
            raise StructureError(
                f"an output for each of {samples} samples", f"shape {tuple(t.shape)}"
            )
        if not (t.is_floating_point() or t.is_complex()):
            raise StructureError(
                "an output that can be averaged", t.dtype, "decide (argmax, thresholds) afterwards"
            )

    mapped(each, y)
    if kind == "scores" and y.ndim > space + 1:
        raise StructureError(
            f'scores (N, ...) with fewer than {space} further axes for output="scores"',
            f"shape {tuple(y.shape)}",
            'give output="map" for what has space, or a callable',
        )
    if kind == "map":
        if y.ndim != space + 2:
            raise StructureError(
                f'a map (N, channels, {space} axes of space) for output="map"',
                f"shape {tuple(y.shape)}",
                'give output="scores", or a callable',
            )
        motion.check_map(y, x)


def moved_back(y: Any, index: int, kind: str | Moves, motion: Motion, x: Tensor) -> Any:
    """An output of a batch that was moved by one motion."""
    if kind == "scores":
        return y
    return motion.back(index, y) if kind == "map" else _called(kind, motion.given(index, x), y)


def each_moved_back(y: Any, index: Tensor, kind: str | Moves, motion: Motion, x: Tensor) -> Any:
    """An output whose samples were moved each by its own motion."""
    if kind == "scores":
        return y
    if kind == "map":
        return motion.back_each(index, y)
    if len(index) == 0:
        return y
    order = index.argsort(stable=True)
    y, parts, start = mapped(lambda t: t[order], y), [], 0
    for number, count in zip(*(t.tolist() for t in index.unique(return_counts=True)), strict=True):
        part = rows(y, start, start + count)
        parts.append(_called(kind, motion.given(number, x), part))
        start += count
    back = order.argsort()
    return mapped(lambda t: t[back], joined(parts))


def _called(kind: Any, element: Any, y: Any) -> Any:
    """What a callable makes of an output, which must be of the same samples."""
    back = kind(element, y)

    def alike(t: Tensor, moved: Any) -> None:
        if not isinstance(moved, Tensor) or moved.shape[:1] != t.shape[:1]:
            came = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
            raise StructureError(f"{len(t)} samples back from output=", came)

    try:
        mapped(alike, y, back)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(
            "the same dict, list or tuple back from output=", type(back).__name__
        ) from error
    return back


def boxes(size: Sequence[float] = (1.0, 1.0)) -> Callable[[Element, Tensor], Tensor]:
    """A callable that moves boxes (x1, y1, x2, y2) as the elements of a planar group move pictures.

    Corners lie at p = (y, x); about the centre of the picture p' = M p, and the moved box is that
    of the two moved corners, x1 <= x2 and y1 <= y2 again. Exact for centres at halves and sizes of
    whole pixels, else to rounding.

    Shapes: boxes (..., 4).

    Args:
        size: Height and width of the picture in the boxes' unit, pixels counted by their edges (the
            last pixel ends at the width); (1, 1) for boxes as fractions.

    Raises:
        StructureError: The size is no pair, or (when called) the last axis is not 4 or the element
            none of a planar group.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> turn = parse("C4").elements[1]
        >>> boxes((10, 10))(turn, torch.tensor([1.0, 2.0, 4.0, 3.0]))  # left and above
        tensor([2., 6., 3., 9.])
    """
    if len(size) != 2:
        raise StructureError("a size (height, width)", size)
    middle = [float(size[1]) / 2, float(size[0]) / 2]

    def move(element: Element, y: Tensor) -> Tensor:
        if not isinstance(element, Element) or element.group.dimension != 2:
            raise StructureError("an element of a planar group for boxes", repr(element))
        if y.shape[-1:] != (4,):
            raise StructureError("boxes (..., 4)", f"shape {tuple(y.shape)}")
        centre = torch.tensor(middle, device=y.device, dtype=y.dtype)
        matrix = torch.tensor(element.matrix[::-1, ::-1].tolist(), device=y.device, dtype=y.dtype)
        axes = abs(element.matrix[::-1, ::-1]).argmax(axis=1).tolist()  # x before y
        corners = (y.unflatten(-1, (2, 2)) - centre)[..., axes] * matrix.sum(1) + centre[axes]
        return torch.cat([corners.amin(-2), corners.amax(-2)], -1)

    return move
