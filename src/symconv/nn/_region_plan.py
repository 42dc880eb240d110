"""How a region convolution runs: which boxes of the output its labels fill, how they join."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor

from symconv.errors import StructureError

FEW_BOXES = 16  # boxes that do not join are each written over the whole output
POSITIONS_PER_BOX = 16  # what a convolution costs to start, in positions of the local kernel

Place = tuple[slice, ...]
Cuts = int | tuple[int, list["Cuts"]]  # a label, or an axis and the parts that lie along it


class Plan(NamedTuple):
    """A box of the output per label.

    Attributes:
        boxes: The bounding box of each label.
        full: Does the label fill it?
        cuts: How the boxes join to the output, or None where they overlap or interlock.
    """

    boxes: list[Place]
    full: list[bool]
    cuts: Cuts | None


def plan(labels: np.ndarray) -> Plan | None:
    """One convolution per label, or None where the local kernel is the better way.

    Example:
        >>> plan(np.array([0, 0, 1, 1])).cuts
        (0, [0, 1])
        >>> plan(np.array([0, 1, 0, 0])).full
        [False, True]
        >>> plan(np.arange(100))
    """
    count = int(labels.max()) + 1
    boxes = ndimage.find_objects(labels + 1)
    full = [bool((labels[place] == label).all()) for label, place in enumerate(boxes)]
    cuts = _cuts(dict(enumerate(boxes))) if all(full) else None
    covered = sum(math.prod(part.stop - part.start for part in place) for place in boxes)
    few = count <= FEW_BOXES or (cuts is not None and count <= labels.size // POSITIONS_PER_BOX)
    return Plan(boxes, full, cuts) if few and covered <= 2 * labels.size else None


def _cuts(boxes: dict[int, Place]) -> Cuts | None:
    """Cut disjoint boxes that fill a larger one straight across, again and again, to one each."""
    if len(boxes) == 1:
        return next(iter(boxes))
    axes = len(next(iter(boxes.values())))
    for axis in range(axes):
        slabs: list[dict[int, Place]] = []
        reach = -1
        for label, place in sorted(boxes.items(), key=lambda item: item[1][axis].start):
            if place[axis].start >= reach:
                slabs.append({})
            slabs[-1][label] = place
            reach = max(reach, place[axis].stop)
        if len(slabs) > 1:
            parts = [_cuts(slab) for slab in slabs]
            return None if None in parts else (axis, [part for part in parts if part is not None])
    return None


def checked_labels(regions: Tensor | np.ndarray, dimension: int) -> np.ndarray:
    """The labels as a new int64 array.

    Raises:
        StructureError: They are not integers 0..R-1, each used, over `dimension` axes.
    """
    labels = regions.detach().cpu().numpy() if isinstance(regions, Tensor) else np.asarray(regions)
    if labels.ndim != dimension or not labels.size:
        raise StructureError(
            f"regions over {dimension} axes of output positions", f"shape {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise StructureError("regions as integer labels", f"type {labels.dtype}")
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise StructureError(
            "region labels 0..R-1, each used",
            f"labels {shown}",
            "number them anew: torch.unique(regions, return_inverse=True)[1]",
        )
    return np.array(labels, dtype=np.int64)  # a copy: the caller may write on theirs
