"""Labelled pictures on one square canvas: centred for training, moved or turned for the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from symconv.errors import StructureError

MOVE_SEED = 20_000
TURN_SEED = 30_000
ANGLE_SEED = 40_000
MIN_PER_CLASS = 10


@dataclass(frozen=True)
class Split:
    """Pictures with their labels.

    Args:
        pictures: Standardised pictures (N, channels, canvas, canvas), float32.
        labels: Class numbers (N,), int64.
    """

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """The first `count` pictures."""
        return Split(self.pictures[:count], self.labels[:count])


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures, split for training, tuning and the tests.

    Args:
        name: What to call the set.
        classes: Class names, in the order of the labels.
        train: Training pictures, centred on the canvas.
        validation: Pictures that settings are chosen on.
        validation_moved: The same, each displaced by a random whole offset.
        validation_any_angle: The same, each turned by a random angle.
        test: Held-out pictures, centred.
        moved: The same held-out pictures, each displaced by a random whole offset.
        any_angle: The same held-out pictures, each turned by a random angle (cubic splines).
        reach: Largest displacement of `moved`, in pixels along each axis.
        full_frame: Pictures fill the canvas (and move by their crop window) rather than lie on it.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    validation_moved: Split
    validation_any_angle: Split
    test: Split
    moved: Split
    any_angle: Split
    reach: int
    full_frame: bool

    @property
    def turned(self) -> Split:
        """The held-out pictures, each by one, two or three quarter turns (exact: no resampling)."""
        drawn = np.random.default_rng(TURN_SEED).integers(1, 4, len(self.test))
        turned = [
            torch.rot90(picture, int(turns), (-2, -1))
            for picture, turns in zip(self.test.pictures, drawn, strict=True)
        ]
        return Split(torch.stack(turned), self.test.labels)

    @property
    def mirrored(self) -> Split:
        """The held-out pictures, left and right exchanged."""
        return Split(self.test.pictures.flip(-1), self.test.labels)

    @property
    def channels(self) -> int:
        """Colour channels of a picture."""
        return self.train.pictures.shape[1]

    @property
    def canvas(self) -> int:
        """Side of the square canvas, in pixels."""
        return self.train.pictures.shape[-1]


def interleave(labels: NDArray, generator: np.random.Generator) -> NDArray:
    """An order in which every stretch holds the classes in their own proportions.

    Example:
        >>> order = interleave(np.array([0, 0, 0, 0, 1, 1]), np.random.default_rng(0))
        >>> [int(n) for n in np.bincount(np.array([0, 0, 0, 0, 1, 1])[order][:3])]
        [2, 1]
    """
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank = generator.permutation(len(members))
        position[members] = (rank + 0.5) / len(members)
    return np.lexsort((generator.permutation(len(labels)), position))


def check_classes(labels: NDArray, classes: tuple[str, ...], what: str) -> None:
    """Refuse sets that cannot be split: one class, or a class with too few pictures.

    Raises:
        StructureError: Fewer than two classes, or fewer than `MIN_PER_CLASS` in one of them.
    """
    if len(classes) < 2:
        raise StructureError(
            "at least two classes of pictures",
            f"{len(classes)} in {what}",
            "use one sub-folder per class",
        )
    counts = np.bincount(labels, minlength=len(classes))
    smallest = int(counts.argmin())
    if counts[smallest] < MIN_PER_CLASS:
        raise StructureError(
            f"at least {MIN_PER_CLASS} pictures per class",
            f"{counts[smallest]} of class {classes[smallest]!r} in {what}",
            "add pictures or leave the class out",
        )


def pad_to_frames(pictures: NDArray, canvas: int, fill: NDArray) -> NDArray:
    """Lay pictures (N, C, h, w) at the centre of frames of one and a half canvas sides."""
    frame = canvas + 2 * (canvas // 4)
    count, channels, height, width = pictures.shape
    frames = np.broadcast_to(fill[:, None, None], (count, channels, frame, frame)).copy()
    top, left = (frame - height) // 2, (frame - width) // 2
    frames[:, :, top : top + height, left : left + width] = pictures
    return frames


def windows(frames: NDArray, canvas: int, moves: NDArray) -> NDArray:
    """Cut a canvas from each frame so that its content appears displaced by `moves` (N, 2).

    A positive move brings content to a higher index, as `sc.translate` does.
    """
    margin = (frames.shape[-1] - canvas) // 2
    starts = margin - moves
    cut = [f[:, y : y + canvas, x : x + canvas] for f, (y, x) in zip(frames, starts, strict=True)]
    return np.stack(cut)


def turned_by_splines(frames: NDArray, generator: np.random.Generator) -> NDArray:
    """Turn each frame (N, C, f, f) about its centre by its own angle, uniform over the circle.

    Cubic splines, as `scipy.ndimage.rotate` has them: not the bilinear resampling of
    `random_turns`, so that a network trained on the one is tested on something else. What comes in
    from beyond the frame is zero; a canvas in its middle is smaller than that by enough.
    """
    angles = generator.uniform(0, 360, len(frames))
    turned = [
        ndimage.rotate(frame, angle, axes=(1, 2), reshape=False, order=3)
        for frame, angle in zip(frames, angles, strict=True)
    ]
    return np.stack(turned)


def centred(frames: NDArray, canvas: int) -> NDArray:
    """The canvas in the middle of each frame."""
    return windows(frames, canvas, np.zeros((len(frames), 2), int))


def border_level(pictures: NDArray) -> NDArray:
    """The median over the pictures' outermost pixels, per channel: the colour of the canvas."""
    ring = np.ones(pictures.shape[-2:], dtype=bool)
    ring[1:-1, 1:-1] = False
    return np.median(pictures[:, :, ring], axis=(0, 2))


def assemble(
    name: str,
    classes: tuple[str, ...],
    frames: dict[str, tuple[NDArray, NDArray]],
    *,
    canvas: int,
    reach: int,
    level: NDArray | None,
) -> PictureSet:
    """Cut the canvases, move and turn pictures, and standardise by the training pictures alone.

    Args:
        name: What to call the set.
        classes: Class names.
        frames: For "train", "validation" and "test": frames (N, C, f, f) and labels (N,).
        canvas: Side of the canvas.
        reach: Largest displacement in pixels.
        level: Value that becomes zero, per channel: the canvas's own colour, so that the zero
            padding of a layer continues the canvas. None (full-frame pictures) for the mean.
    """
    cut = {k: centred(f, canvas) for k, (f, _) in frames.items()}
    zero = cut["train"].mean((0, 2, 3)) if level is None else level
    scale = cut["train"].std((0, 2, 3))
    scale = np.where(scale > 1e-6, scale, 1.0)  # constant pictures stay constant, not NaN
    labels = {k: y for k, (_, y) in frames.items()}
    for offset, key, moved, turned in (
        (0, "test", "moved", "any_angle"),
        (1, "validation", "validation_moved", "validation_any_angle"),
    ):
        whole = frames[key][0]
        draw = np.random.default_rng(MOVE_SEED + offset)
        cut[moved] = windows(whole, canvas, draw.integers(-reach, reach + 1, (len(whole), 2)))
        draw = np.random.default_rng(ANGLE_SEED + offset)
        on_zero = whole - zero[:, None, None]
        cut[turned] = centred(turned_by_splines(on_zero, draw), canvas) + zero[:, None, None]
        labels[moved] = labels[turned] = labels[key]
    splits = {}
    for key, pictures in cut.items():
        standard = (pictures - zero[:, None, None]) / scale[:, None, None]
        splits[key] = Split(
            torch.from_numpy(standard.astype(np.float32)),
            torch.from_numpy(labels[key].astype(np.int64)),
        )
    return PictureSet(name, classes, **splits, reach=reach, full_frame=level is None)


def split_pictures(
    name: str,
    classes: tuple[str, ...],
    pictures: NDArray,
    labels: NDArray,
    *,
    canvas: int,
    fractions: tuple[float, float],
    full_frame: bool = False,
) -> PictureSet:
    """Split pictures (N, C, h, w) by class and put them on their canvas.

    Args:
        name: What to call the set.
        classes: Class names.
        pictures: Pictures of one size: frames of one and a half canvas sides when `full_frame`.
        labels: Class numbers (N,).
        canvas: Side of the canvas.
        fractions: Shares of training and validation pictures; the rest is for testing.
        full_frame: The pictures fill the canvas.
    """
    check_classes(labels, classes, name)
    order = interleave(labels, np.random.default_rng(0))
    ends = [round(len(order) * sum(fractions[: i + 1])) for i in range(2)]
    parts = dict(zip(("train", "validation", "test"), np.split(order, ends), strict=True))
    if full_frame:
        frames, level, reach = pictures, None, canvas // 4
    else:
        level = border_level(pictures[parts["train"]])
        frames = pad_to_frames(pictures, canvas, level)
        reach = min(canvas // 4, (canvas - max(pictures.shape[-2:])) // 2)
    return assemble(
        name,
        classes,
        {k: (frames[i], labels[i]) for k, i in parts.items()},
        canvas=canvas,
        reach=reach,
        level=level,
    )
