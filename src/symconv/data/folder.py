"""A folder of pictures with one sub-folder per class."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symconv.data.pictures import PictureSet, check_classes, interleave, split_pictures
from symconv.errors import StructureError
from symconv.extras import needs

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def list_pictures(root: Path) -> tuple[tuple[str, ...], list[Path], NDArray]:
    """Class names, files and labels, in the order of their names.

    Raises:
        StructureError: There is no such folder, or no picture in it.
    """
    if not root.is_dir():
        raise StructureError(
            "digits, faces, textures or a folder of pictures",
            f"{str(root)!r}, which is no folder",
            "check the path",
        )
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {
        folder.name: sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        for folder in folders
    }
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise StructureError(
            "one sub-folder of pictures per class",
            f"no picture below {str(root)!r}",
            f"use files that end in {', '.join(sorted(SUFFIXES))}",
        )
    files = [file for group in found.values() for file in group]
    labels = np.repeat(np.arange(len(found)), [len(group) for group in found.values()])
    return tuple(found), files, labels


def read_picture(path: Path, side: int, colour: bool) -> NDArray:
    """Read one picture (channels, side, side) in 0..1: its central square, resized.

    What is transparent shows white. 16 bits a pixel are scaled by their range.

    Raises:
        OSError: The file is unreadable or truncated, or its pixels are fractions, whose range no
            file tells.
    """
    image = needs("PIL.Image", "train", "a folder of pictures")
    operations = needs("PIL.ImageOps", "train", "a folder of pictures")
    try:
        with image.open(path) as opened:
            picture = operations.exif_transpose(opened)
            if picture.mode == "F":
                raise OSError(f"{path}: pixels are fractions; save it with 8 or 16 bits a pixel")
            if picture.mode.startswith("I"):  # 16 bits a pixel; PIL would clip it
                wide = np.asarray(picture, dtype=np.float64) / 257.0
                picture = image.fromarray(wide.astype(np.uint8))
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = image.new("RGBA", picture.size, "white")
                picture = image.alpha_composite(white, picture)
            picture = picture.convert("RGB" if colour else "L")
            picture = operations.fit(picture, (side, side), image.Resampling.BICUBIC)
    except (SyntaxError, ValueError, EOFError, image.DecompressionBombError) as error:
        raise OSError(f"{path}: {error}") from error
    pixels = np.asarray(picture, dtype=np.float64) / 255.0
    return pixels.transpose(2, 0, 1) if colour else pixels[None]


def _read_all(files: list[Path], side: int, colour: bool) -> tuple[list[NDArray], list[int]]:
    """Read what can be read; one warning names and counts what cannot."""
    pictures, kept, broken, fault = [], [], [], ""
    for index, file in enumerate(files):
        try:
            pictures.append(read_picture(file, side, colour))
            kept.append(index)
        except OSError as error:
            broken.append(file)
            fault = fault or str(error)
    if broken:
        shown = ", ".join(str(file) for file in broken[:10])
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        warnings.warn(
            f"skipped {len(broken)} of {len(files)} pictures that cannot be read: {shown}{more} "
            f"(the first: {fault})",
            stacklevel=3,
        )
    return pictures, kept


def folder(
    root: Path,
    canvas: int | None = None,
    limit: int | None = None,
    *,
    full_frame: bool = False,
    colour: bool = False,
) -> PictureSet:
    """Pictures below `root`, one sub-folder a class.

    Args:
        root: The folder.
        canvas: Side of the canvas in pixels (32 if not given).
        limit: Use at most this many pictures.
        full_frame: The picture fills the canvas, and the moved test displaces the crop window.
            Otherwise its central square lies at half size on the canvas.
        colour: Keep three channels; otherwise grey.

    Raises:
        StructureError: No folder, no pictures, none readable, one class or too few of a class.
    """
    canvas = canvas or 32
    classes, files, labels = list_pictures(root)
    check_classes(labels, classes, str(root))
    if limit is not None:
        order = np.sort(interleave(labels, np.random.default_rng(1))[:limit])
        files, labels = [files[i] for i in order], labels[order]
    side = canvas + 2 * (canvas // 4) if full_frame else canvas // 2
    pictures, kept = _read_all(files, side, colour)
    if not pictures:
        raise StructureError(
            "pictures that can be read",
            f"{len(files)} unreadable files below {str(root)!r}",
            "check that they are pictures and complete",
        )
    return split_pictures(
        root.name,
        classes,
        np.stack(pictures),
        labels[kept],
        canvas=canvas,
        fractions=(0.5, 0.2),
        full_frame=full_frame,
    )
