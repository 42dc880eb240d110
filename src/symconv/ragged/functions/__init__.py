"""What sc.Ragged makes of torch's functions: a table from function to handler."""

from symconv.ragged.functions.attention import ATTENTION
from symconv.ragged.functions.convolution import CONVOLUTIONS
from symconv.ragged.functions.indexing import getitem
from symconv.ragged.functions.joining import JOINING
from symconv.ragged.functions.losses import LOSSES, cells
from symconv.ragged.functions.norms import NORMS
from symconv.ragged.functions.pointwise import POINTWISE
from symconv.ragged.functions.pooling import POOLS
from symconv.ragged.functions.reductions import REDUCTIONS
from symconv.ragged.functions.resize import RESIZE
from symconv.ragged.functions.shapes import SHAPES
from symconv.ragged.functions.views import VIEWS

HANDLERS = (
    POINTWISE
    | CONVOLUTIONS
    | POOLS
    | NORMS
    | REDUCTIONS
    | SHAPES
    | VIEWS
    | JOINING
    | ATTENTION
    | RESIZE
    | LOSSES
)

__all__ = ["HANDLERS", "cells", "getitem"]
