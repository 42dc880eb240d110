"""Labelled pictures on one square canvas: centred for training, moved otherwise for the tests."""

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
PAIR_SEED = 50_000
SCALE_SEED = 60_000
FARTHEST = 8
SMALLEST, LARGEST = 0.5, 2.0
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
        shifted: The same held-out pictures, displaced along each axis by some pixels one way.
        shifted_back: The same, the other way: apart by 1 to 8 pixels along each axis, or as far as
            the canvas has room.
        rescaled: The same held-out pictures, each rescaled by a random factor (cubic splines).
        validation_rescaled: The validation pictures, likewise.
        largest: The largest factor: 2, or what the canvas has room for.
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
    shifted: Split
    shifted_back: Split
    rescaled: Split
    validation_rescaled: Split
    largest: float
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
    def farthest(self) -> int:
        """Most pixels along an axis between `shifted` and `shifted_back`."""
        return max(1, min(FARTHEST, 2 * self.reach))

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


def rescaled_by_splines(
    frames: NDArray, canvas: int, factors: NDArray, full_frame: bool
) -> NDArray:
    """Rescale each frame (N, C, f, f) about its centre, and cut the canvas from its middle.

    Cubic splines, and before shrinking a Gaussian of the width that keeps aliases away: not the
    bare bilinear resampling of `random_scales`. What comes in from beyond a frame is zero, or for
    full-frame pictures its reflection.
    """
    mode, middle = "reflect" if full_frame else "constant", (frames.shape[-1] - 1) / 2
    out = np.empty((*frames.shape[:2], canvas, canvas))
    for i, (frame, factor) in enumerate(zip(frames, factors, strict=True)):
        offset = middle - (canvas - 1) / 2 / factor
        blur = 0.5 * max(0.0, 1 / factor - 1)
        for c, plane in enumerate(frame):
            smooth = ndimage.gaussian_filter(plane, blur, mode=mode) if blur else plane
            out[i, c] = ndimage.affine_transform(
                smooth, [1 / factor] * 2, offset, (canvas, canvas), order=3, mode=mode
            )
    return out


def apart(count: int, farthest: int, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Offsets (N, 2) of two copies, 1 to `farthest` pixels apart on each axis, about the centre."""
    distance = generator.integers(1, max(1, farthest) + 1, (count, 2))
    distance *= generator.choice([-1, 1], (count, 2))
    return distance - distance // 2, -(distance // 2)


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
    largest: float = LARGEST,
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
        largest: Largest factor of the rescaled pictures.
    """
    cut = {k: centred(f, canvas) for k, (f, _) in frames.items()}
    zero = cut["train"].mean((0, 2, 3)) if level is None else level
    scale = cut["train"].std((0, 2, 3))
    scale = np.where(scale > 1e-6, scale, 1.0)  # constant pictures stay constant, not NaN
    labels = {k: y for k, (_, y) in frames.items()}
    for offset, key, moved, turned, rescaled in (
        (0, "test", "moved", "any_angle", "rescaled"),
        (1, "validation", "validation_moved", "validation_any_angle", "validation_rescaled"),
    ):
        whole = frames[key][0]
        draw = np.random.default_rng(MOVE_SEED + offset)
        cut[moved] = windows(whole, canvas, draw.integers(-reach, reach + 1, (len(whole), 2)))
        draw = np.random.default_rng(ANGLE_SEED + offset)
        on_zero = whole - zero[:, None, None]
        cut[turned] = centred(turned_by_splines(on_zero, draw), canvas) + zero[:, None, None]
        draw = np.random.default_rng(SCALE_SEED + offset)
        factors = np.exp(draw.uniform(np.log(SMALLEST), np.log(largest), len(whole)))
        scaled = rescaled_by_splines(on_zero, canvas, factors, full_frame=level is None)
        cut[rescaled] = scaled + zero[:, None, None]
        labels[moved] = labels[turned] = labels[rescaled] = labels[key]
    whole, draw = frames["test"][0], np.random.default_rng(PAIR_SEED)
    pair = apart(len(whole), min(FARTHEST, 2 * reach), draw)
    for name_of, offsets in zip(("shifted", "shifted_back"), pair, strict=True):
        cut[name_of], labels[name_of] = windows(whole, canvas, offsets), labels["test"]
    splits = {}
    for key, pictures in cut.items():
        standard = (pictures - zero[:, None, None]) / scale[:, None, None]
        splits[key] = Split(
            torch.from_numpy(standard.astype(np.float32)),
            torch.from_numpy(labels[key].astype(np.int64)),
        )
    return PictureSet(
        name, classes, **splits, reach=reach, full_frame=level is None, largest=largest
    )


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
        frames, level, reach, largest = pictures, None, canvas // 4, LARGEST
    else:
        level = border_level(pictures[parts["train"]])
        frames = pad_to_frames(pictures, canvas, level)
        reach = min(canvas // 4, (canvas - max(pictures.shape[-2:])) // 2)
        largest = min(LARGEST, canvas / max(pictures.shape[-2:]))
    return assemble(
        name,
        classes,
        {k: (frames[i], labels[i]) for k, i in parts.items()},
        canvas=canvas,
        reach=reach,
        level=level,
        largest=largest,
    )
