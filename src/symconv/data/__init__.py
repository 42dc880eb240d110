"""Picture sets: training, validation and test splits, the latter also moved and turned."""

from symconv.data.augmentation import random_scales, random_shifts, random_turns
from symconv.data.pictures import PictureSet, Split
from symconv.data.sized import SizeBatchSampler, collate
from symconv.data.source import Source, fingerprint

__all__ = [
    "PictureSet",
    "SizeBatchSampler",
    "Source",
    "Split",
    "collate",
    "fingerprint",
    "random_scales",
    "random_shifts",
    "random_turns",
]
