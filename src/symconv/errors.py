"""The one error type for input that does not fit a structure."""

from __future__ import annotations


class StructureError(ValueError):
    """Input that does not fit: says what was expected, what came and how to mend it.

    Args:
        expected: What the caller should have given, in a few words.
        got: What came instead.
        mend: How to put it right.

    Example:
        >>> raise StructureError("16 input features", "8", "build the layer with in_features=8")
        Traceback (most recent call last):
            ...
        symconv.errors.StructureError: expected 16 input features, got 8; \
build the layer with in_features=8
    """

    def __init__(self, expected: str, got: object, mend: str | None = None):
        message = f"expected {expected}, got {got}"
        super().__init__(f"{message}; {mend}" if mend else message)
        self.expected, self.got, self.mend = expected, str(got), mend

    def __reduce__(self):
        return type(self), (self.expected, self.got, self.mend)
