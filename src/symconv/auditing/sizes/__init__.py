"""Which input sizes a model takes, what comes out, and whether zero padding leaks."""

from symconv.auditing.sizes.find import find_sizes

__all__ = ["find_sizes"]
