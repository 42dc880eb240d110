"""The structures that are compared: one plain table.

To compare another structure, add a row: a function that builds its layer for an input shape, what
it changes in a training batch (or nothing), and how much it may compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from symconv.comparison.filters import (
    Filters,
    conv_filters,
    dense_filters,
    group_filters,
    local_filters,
    region_filters,
    scale_filters,
    sparse_filters,
    tiled_filters,
)
from symconv.comparison.layers import (
    Build,
    anywhere,
    at_any_scale,
    blur_pool,
    conv,
    conv_blurred,
    conv_polyphase,
    dense,
    field_norm,
    fine_pool,
    group_conv,
    group_pool,
    local,
    polyphase_pool,
    region,
    scale_conv,
    sparse,
    tiled,
)
from symconv.data import PictureSet, random_scales, random_shifts, random_turns
from symconv.models import Place, max_pool, no_pool, plain_norm

Shape = tuple[int, ...]
Augmentation = Callable[[PictureSet], Callable[[Tensor, torch.Generator], Tensor]]

#: Each test's name and the split that it is taken on.
TESTS = {
    "as they are": "test",
    "moved": "moved",
    "turned": "turned",
    "any angle": "any_angle",
    "mirrored": "mirrored",
}

#: What the equivariance error is measured for.
TRANSFORMS = ("shift", "turn 90", "turn 45")


@dataclass(frozen=True)
class Row:
    """One structure of the comparison.

    Args:
        name: What to call it.
        about: What is connected and shared, in one line.
        build: The layer for a place in the network.
        filters: The learned filters of a first layer, in labelled groups (count, height, width).
        colour: Its colour in every picture (colour-blind safe).
        marker: Its matplotlib marker.
        augment: Made for a picture set, changes each training batch; None for no change.
        chosen_on: The split that its learning rate is chosen on: validation pictures, changed as
            its training pictures are.
        norm: The norm that suits its layers.
        invariant: What makes its last features invariant, before the mean over positions.
        pool: What halves the map behind a layer at a place.
        work: Its budget as a multiple of the MACs that conv has within the common one; None for
            the common budget itself.
        beside: The plain row that says whether its symmetry pays, trained on the same pictures.
        default: Whether it takes part when no structures are named.
    """

    name: str
    about: str
    build: Build
    filters: Callable[[nn.Module, Shape], Filters]
    colour: str
    marker: str
    augment: Augmentation | None = None
    chosen_on: str = "validation"
    norm: Callable[[nn.Module, Tensor], nn.Module] = plain_norm
    invariant: Callable[[nn.Module], nn.Module] = no_pool
    pool: Callable[[Place], nn.Module] = max_pool
    work: float | None = None
    beside: str | None = None
    default: bool = True

    @property
    def augmented(self) -> bool:
        """Whether its training pictures are changed."""
        return self.augment is not None


def shifts(pictures: PictureSet) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Random whole displacements of up to a quarter of the canvas, as in the moved test."""
    return lambda batch, generator: random_shifts(
        batch, pictures.reach, pictures.full_frame, generator
    )


def turns(pictures: PictureSet) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Turns by random angles, all equally likely."""
    return lambda batch, generator: random_turns(batch, pictures.full_frame, generator)


def scales(pictures: PictureSet) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Random factors between a half and what the canvas has room for, at most two."""
    return lambda batch, generator: random_scales(
        batch, pictures.largest, pictures.full_frame, generator
    )


def with_scales(row: Row) -> Row:
    """The row trained on rescaled pictures."""
    return replace(
        row,
        name=f"{row.name}+scales",
        about=f"{row.name}, with training pictures rescaled at random",
        augment=scales,
        chosen_on="validation_rescaled",
        beside=None,
        default=False,
    )


def with_turns(row: Row, *, default: bool = False) -> Row:
    """The row trained on turned pictures."""
    return replace(
        row,
        name=f"{row.name}+turns",
        about=f"{row.name}, with training pictures turned at random",
        augment=turns,
        chosen_on="validation_any_angle",
        beside=None if row.beside is None else f"{row.beside}+turns",
        default=default,
    )


def of_group(
    name: str, about: str, colour: str, marker: str, *, work: float = 1.0, default: bool = False
) -> Row:
    """The row of a group convolution; the group is what comes before a hyphen."""
    return Row(
        name,
        about,
        group_conv(name.partition("-")[0]),
        group_filters,
        colour,
        marker,
        norm=field_norm,
        invariant=group_pool,
        work=work,
        beside="conv" if work == 1 else "conv-wide",
        default=default,
    )


DENSE = Row("dense", "every input, nothing shared", dense, dense_filters, "#8a8a8a", "o")
CONV = Row("conv", "a window, shared everywhere", conv, conv_filters, "#0072b2", "^")
CONV_SLIM = replace(
    CONV, name="conv-slim", about="conv with a quarter of the MACs", work=0.25, default=False
)
CONV_WIDE = replace(
    CONV,
    name="conv-wide",
    about="conv with four times the MACs",
    colour="#5e4fa2",
    marker="<",
    work=4.0,
    default=False,
)
CONV_WIDER = replace(
    CONV_WIDE, name="conv-wider", about="conv with eight times the MACs", marker=">", work=8.0
)
CONV_BLUR = replace(
    CONV,
    name="conv-blur",
    about="conv, with blurred pools",
    build=conv_blurred,
    colour="#1b7837",
    marker="D",
    pool=blur_pool,
    default=False,
)
CONV_POLYPHASE = replace(
    CONV,
    name="conv-polyphase",
    about="conv on a torus, pools on the grid that holds most",
    build=conv_polyphase,
    colour="#b2182b",
    marker="p",
    pool=polyphase_pool,
    default=False,
)
CONV_MAX = replace(
    CONV,
    name="conv-max",
    about="conv, finer maps, the largest response",
    colour="#4393c3",
    marker="v",
    invariant=anywhere,
    pool=fine_pool,
    work=1.0,
    default=False,
)
SCALE = Row(
    "scale",
    "conv-max, filters shared by three sizes",
    scale_conv,
    scale_filters,
    "#8c510a",
    "s",
    norm=field_norm,
    invariant=at_any_scale,
    pool=fine_pool,
    work=1.0,
    default=False,
)
C4 = of_group("C4", "conv, filters shared by quarter turns", "#009e73", "h", default=True)
C8 = of_group("C8", "conv, filters shared by eighth turns", "#7b3294", "8", default=True)
C16 = of_group("C16", "conv, filters shared by sixteenth turns", "#c51b7d", "p")
D4 = of_group("D4", "conv, shared by quarter turns and mirrors", "#a6761d", "*")
D8 = of_group("D8", "conv, shared by eighth turns and mirrors", "#543005", "d")

ROWS = (
    DENSE,
    replace(
        DENSE,
        name="dense+shifts",
        about="dense, with training pictures displaced at random",
        augment=shifts,
        chosen_on="validation_moved",
    ),
    Row("sparse", "a tenth of the inputs, nothing shared", sparse, sparse_filters, "#cc79a7", "v"),
    Row("local", "a window, nothing shared", local, local_filters, "#d55e00", "s"),
    Row(
        "region",
        "a window, shared in upper, middle, lower band",
        region,
        region_filters,
        "#e69f00",
        "P",
    ),
    Row("tiled", "a window, filters repeat every 2 px", tiled, tiled_filters, "#56b4e9", "X"),
    CONV,
    with_turns(CONV, default=True),
    with_scales(CONV),
    CONV_BLUR,
    CONV_POLYPHASE,
    CONV_MAX,
    with_scales(CONV_MAX),
    SCALE,
    with_scales(SCALE),
    C4,
    with_turns(C4, default=True),
    C8,
    with_turns(C8, default=True),
    with_turns(CONV_SLIM),
    CONV_WIDE,
    with_turns(CONV_WIDE),
    CONV_WIDER,
    C16,
    with_turns(C16),
    D4,
    with_turns(D4),
    D8,
    with_turns(D8),
    of_group("C4-wide", "C4 with four times the MACs of conv", "#00614a", "H", work=4.0),
    of_group("C8-wide", "C8 with four times the MACs of conv", "#40004b", "8", work=4.0),
)

STRUCTURES = {row.name: row for row in ROWS}
DEFAULT = tuple(row.name for row in ROWS if row.default)
