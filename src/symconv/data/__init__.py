"""Picture sets with train, validation, test and moved-test splits."""

from symconv.data.pictures import PictureSet, Split, random_shifts
from symconv.data.source import Source, fingerprint

__all__ = ["PictureSet", "Source", "Split", "fingerprint", "random_shifts"]
