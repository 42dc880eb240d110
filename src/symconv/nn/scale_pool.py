"""From a field over scales to channels that do not depend on size."""

from __future__ import annotations

from symconv.errors import StructureError
from symconv.lattice.representations import Field
from symconv.lattice.scales import Scales
from symconv.nn.group_pool import GroupPool


class ScalePool(GroupPool):
    r"""One channel per copy of a field over scales: the maximum or mean over its scales.

        y[n, c, p] = max (or mean) over k of  x[n, c, k, p]

    Where an object grows by the factor its features move up one scale, and the maximum over scales
    stays, as long as they do not leave at an end. A global pool over space then gives features
    that depend neither on place nor, within the scales that are kept, on size: take the maximum
    there too, as a sum or a mean counts the area.

    Shapes: input (N, field.channels, \*S), output (N, field.copies, \*S). Exact.

    Args:
        field: What the channels mean, of ``sc.groups.scales(factor, count)``.
        reduce: "max" or "mean".

    Raises:
        StructureError: `field` is none over scales, `reduce` is unknown, or (when called) the
            input has other channels.

    Example:
        >>> import torch
        >>> import symconv as sc
        >>> pool = ScalePool(sc.groups.scales(2, 3).regular(8))
        >>> pool
        ScalePool(scales(2.0, 3).regular(8))
        >>> pool(torch.rand(2, 24, 16, 16)).shape
        torch.Size([2, 8, 16, 16])

    References:
        I. Sosnovik, M. Szmaja, A. Smeulders, Scale-equivariant steerable networks (2020).
    """

    def __init__(self, field: Field, reduce: str = "max"):
        if not isinstance(field, Field) or not isinstance(field.group, Scales):
            raise StructureError(
                "a field over scales",
                repr(field),
                "make one with sc.groups.scales(2, 3).regular(8); GroupPool takes other fields",
            )
        super().__init__(field, reduce)
