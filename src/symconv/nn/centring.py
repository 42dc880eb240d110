"""Where a strided layer samples: centred on the input for its group, or a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from symconv.errors import StructureError
from symconv.lattice.centring import exact_sizes, extra_padding, remainders
from symconv.lattice.groups import Group
from symconv.lattice.windows import Window


class OffCentreWarning(UserWarning):
    """A strided layer samples off the centre of its input, so that its group acts inexactly."""


def alignment(
    layer: torch.nn.Module, window: Window, group: Group, size: Sequence[int], align: bool
) -> tuple[int, ...]:
    """Padding to add at both ends of each axis; without `align` none, but a warning once a layer.

    Args:
        layer: The layer that asks: named in the warning, and marked as having warned.
        window: Its window.
        group: Its group.
        size: Input positions per axis.
        align: Whether to pad.

    Raises:
        StructureError: `align` is asked for and no padding centres the window on this size.
    """
    if max(window.stride) == 1:
        return (0,) * len(size)
    ragged = not all(isinstance(s, (int, torch.SymInt)) for s in size)
    if align and ragged:
        raise StructureError("align=False for items of mixed sizes", "align=True", "pad each item")
    if align:
        return extra_padding(window, group, size)
    # Under tracing a warning would break the graph, and sizes may be symbols.
    if not (ragged or torch.compiler.is_compiling()) and any(remainders(window, group, size)):
        _warn_once(layer, window, group, tuple(size))
    return (0,) * len(size)


def _warn_once(layer: torch.nn.Module, window: Window, group: Group, size: Sequence[int]) -> None:
    if layer.__dict__.get("_warned"):
        return
    layer.__dict__["_warned"] = True
    better = " or ".join(str(exact) for exact in exact_sizes(window, group, size))
    warnings.warn(
        f"{layer} samples an input of size {size} off its centre, so that {group} acts on it "
        f"inexactly; size {better} would be exact (also: another padding, an even kernel, or "
        "align=True)",
        OffCentreWarning,
        stacklevel=4,
    )
