"""The body of `symconv cost`: texts in, tables or one JSON document out."""

from __future__ import annotations

import json

from rich.console import Console

from symconv.cost.counts import parse_sizes, table
from symconv.cost.show import show
from symconv.errors import StructureError
from symconv.lattice.windows import Size


def run(
    input_shape: str,
    kernel: str,
    out_channels: int,
    *,
    stride: str,
    padding: str,
    padding_mode: str,
    dilation: str,
    groups: int,
    tile: str,
    dtype: str,
    measure: bool,
    as_json: bool,
) -> None:
    """Print what the structures cost; torch is loaded only to measure.

    Raises:
        StructureError: A text is no size, or the sizes do not fit each other.
    """
    costs = table(
        parse_sizes(input_shape, "--input"),
        _size(kernel, "--kernel"),
        out_channels,
        _size(stride, "--stride"),
        _padding(padding),
        _size(dilation, "--dilation"),
        groups,
        padding_mode,
        tile=_size(tile, "--tile"),
        dtype=dtype,
    )
    measured = None
    if measure:
        from symconv.cost import measure as bench  # loads torch, which counting does not need

        Console(stderr=True).print("measuring: building each layer, then passes in turn")
        measured = bench.measure(costs)
    if as_json:
        rows = None if measured is None else [m.to_dict() for m in measured]
        print(json.dumps(costs.to_dict() | {"measured": rows}, indent=2))
    else:
        show(costs, measured)


def _padding(text: str) -> Size | str:
    if text in ("same", "valid"):
        return text
    try:
        return _size(text, "--padding")
    except StructureError as error:
        expected = '--padding "same", "valid" or whole numbers joined by x, such as 1x2'
        raise StructureError(expected, error.got) from None


def _size(text: str, name: str) -> Size:
    """One number for every axis, or one per axis."""
    sizes = parse_sizes(text, name)
    return sizes[0] if len(sizes) == 1 else sizes
