"""Correctness per picture as a short text."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray


def pack(correct: NDArray) -> dict:
    """Booleans (pictures,) as JSON can hold them, a bit each.

    Example:
        >>> pack(np.array([True, False, True]))
        {'count': 3, 'bits': 'oA=='}
    """
    bits = np.packbits(np.asarray(correct, dtype=np.uint8))
    return {"count": len(correct), "bits": base64.b64encode(bits.tobytes()).decode()}


def unpack(packed: dict) -> NDArray:
    """The inverse of `pack`.

    Example:
        >>> unpack(pack(np.array([True, False, True]))).tolist()
        [True, False, True]
    """
    bits = np.frombuffer(base64.b64decode(packed["bits"]), np.uint8)
    return np.unpackbits(bits, count=packed["count"]).astype(bool)
