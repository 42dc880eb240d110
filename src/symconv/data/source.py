"""Where pictures come from: a small value that a run can carry and load again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from symconv.data.bundled import digits, faces, textures
from symconv.data.folder import folder
from symconv.data.pictures import PictureSet
from symconv.errors import StructureError

BUNDLED = {"digits": digits, "faces": faces, "textures": textures}
CANVASES = (16, 24, 32, 48, 64, 96)


@dataclass(frozen=True)
class Source:
    """A picture set by name or folder, with the options that shape it.

    Args:
        name: "digits", "faces", "textures", or the path of a folder.
        canvas: Side of the canvas in pixels; None for the set's own.
        limit: Use at most this many pictures.
        full_frame: Pictures of a folder fill the canvas.
        colour: Pictures of a folder keep their colour.

    Example:
        >>> Source("faces", canvas=50)
        Traceback (most recent call last):
            ...
        symconv.errors.StructureError: expected a canvas of 16, 24, 32, 48, 64 or 96 pixels, \
got 50; the network halves the canvas three times
    """

    name: str = "digits"
    canvas: int | None = None
    limit: int | None = None
    full_frame: bool = False
    colour: bool = False

    def __post_init__(self) -> None:
        if self.canvas is not None and self.canvas not in CANVASES:
            raise StructureError(
                "a canvas of 16, 24, 32, 48, 64 or 96 pixels",
                self.canvas,
                "the network halves the canvas three times",
            )
        if self.limit is not None and self.limit < 1:
            raise StructureError("a positive limit", self.limit, "leave it out for all pictures")
        if self.name == "faces" and (self.canvas or 48) < 48:
            raise StructureError(
                "a canvas of at least 48 pixels for faces",
                self.canvas,
                "the faces are 25 pixels wide and need room to move",
            )
        if self.name == "textures" and (self.canvas or 32) > 64:
            raise StructureError(
                "a canvas of at most 64 pixels for textures",
                self.canvas,
                "larger windows do not fit into the part kept for validation",
            )
        if self.name in BUNDLED and (self.full_frame or self.colour):
            raise StructureError(
                "full_frame and colour only for a folder", self.name, "leave them out"
            )

    def load(self) -> PictureSet:
        """Load, split and standardise the pictures.

        Raises:
            StructureError: The pictures cannot be used; the message says why.
        """
        if self.name in BUNDLED:
            return BUNDLED[self.name](self.canvas, self.limit)
        return folder(
            Path(self.name).expanduser(),
            self.canvas,
            self.limit,
            full_frame=self.full_frame,
            colour=self.colour,
        )


def fingerprint(pictures: PictureSet) -> str:
    """A short digest of the pictures and labels themselves, so that changed data is noticed."""
    digest = hashlib.sha256()
    for split in (
        pictures.train,
        pictures.validation,
        pictures.validation_moved,
        pictures.validation_any_angle,
        pictures.test,
        pictures.moved,
        pictures.any_angle,
        pictures.shifted,
        pictures.rescaled,
    ):
        digest.update(split.pictures.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()[:16]
