"""Three picture sets that come with scikit-learn and scikit-image: no download."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from symconv.data.pictures import (
    PictureSet,
    assemble,
    check_classes,
    interleave,
    split_pictures,
)
from symconv.extras import needs


def limited(pictures: NDArray, labels: NDArray, limit: int | None) -> tuple[NDArray, NDArray]:
    """At most `limit` pictures, the classes in their own proportions."""
    if limit is None:
        return pictures, labels
    order = interleave(labels, np.random.default_rng(1))[:limit]
    return pictures[order], labels[order]


def digits(canvas: int | None = None, limit: int | None = None) -> PictureSet:
    """Handwritten digits (1,797 pictures, ten classes), 8x8 enlarged to 12x12, on a 16x16 canvas.

    Enlarged by cubic splines: turns by any angle then lose little, and the zero border is wide
    enough for displacements of two pixels. Other canvases hold the digit at three quarters too.

    References:
        Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
    """
    datasets = needs("sklearn.datasets", "demo", "the digits set")
    raw = datasets.load_digits()
    pictures, labels = limited(raw.images[:, None] / 16.0, raw.target, limit)
    canvas = canvas or 16
    pictures = enlarged(pictures, 3 * canvas // 4)
    classes = tuple(str(c) for c in range(10))
    shares = (1000 / 1797, 297 / 1797)
    return split_pictures("digits", classes, pictures, labels, canvas=canvas, fractions=shares)


def enlarged(pictures: NDArray, side: int) -> NDArray:
    """Pictures (N, C, s, s) with `side` pixels a side, about the same centre, by cubic splines."""
    factor = side / pictures.shape[-1]
    return np.asarray(
        ndimage.zoom(pictures, (1, 1, factor, factor), mode="nearest", grid_mode=True)
    )


def faces(canvas: int | None = None, limit: int | None = None) -> PictureSet:
    """A hundred aligned faces and a hundred patches without one, 25x25, on a 48x48 canvas.

    References:
        Huang, Ramesh, Berg, Learned-Miller, Labeled Faces in the Wild (2007).
    """
    library = needs("skimage.data", "demo", "the faces set")
    labels = np.repeat([1, 0], 100)
    pictures, labels = limited(library.lfw_subset()[:, None], labels, limit)
    return split_pictures(
        "faces", ("no face", "face"), pictures, labels, canvas=canvas or 48, fractions=(0.5, 0.2)
    )


def textures(canvas: int | None = None, limit: int | None = None) -> PictureSet:
    """Crops of brick, grass and gravel (Brodatz-like, 512x512 each), 32x32, full frame.

    The left half of each picture is for training (its lower quarter for validation), the right
    half for testing: no two splits share a pixel, and a moved window stays in its own half.
    """
    library = needs("skimage.data", "demo", "the textures set")
    canvas = canvas or 32
    frame = canvas + 2 * (canvas // 4)
    classes = ("brick", "grass", "gravel")
    areas = {
        "train": (slice(0, 384), slice(0, 256)),
        "validation": (slice(384, 512), slice(0, 256)),
        "test": (slice(0, 512), slice(256, 512)),
    }
    shares = {"train": 0.5, "validation": 0.2, "test": 0.3}
    check_classes(np.repeat(np.arange(3), (limit or 600) // 3), classes, "textures")
    generator = np.random.default_rng(2)
    frames = {}
    for split, (rows, columns) in areas.items():
        each = round((limit or 600) * shares[split] / len(classes))
        cut = []
        for name in classes:
            area = getattr(library, name)()[rows, columns] / 255.0
            corners = generator.integers(0, np.array(area.shape) - frame + 1, (each, 2))
            cut += [area[None, y : y + frame, x : x + frame] for y, x in corners]
        labels = np.repeat(np.arange(len(classes)), each)
        order = interleave(labels, generator)
        frames[split] = (np.stack(cut)[order], labels[order])
    return assemble("textures", classes, frames, canvas=canvas, reach=canvas // 4, level=None)
