"""Upsampling of fields, centred on the input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import as_batch, check_input
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, per_axis
from symconv.nn._copies import runs_of

_MODES = {
    "nearest": {1: "nearest", 2: "nearest", 3: "nearest"},
    "linear": {1: "linear", 2: "bilinear", 3: "trilinear"},
}


class FieldUpsample(nn.Module):
    r"""Upsampling by whole factors, which keeps the picture's centre where it is.

        nearest:  y[i] = x[i // f]
        linear:   y[i] = x between its neighbours at position (i + 1/2) / f - 1/2

    Every position becomes f, placed symmetrically about it, so that turns and mirrors of the
    input are those of the output; an even window downwards and this upwards make a U-Net
    equivariant (features to concatenate are the sum of their fields). Interpolation that aligns
    corners also keeps the centre, but not the factor; other factors than whole ones do not.

    Shapes: input (N, field.channels, \*S) or without N, output (N, field.channels, \*(f S)).
    "nearest" is exact; "linear" is, up to the rounding of weights (none where f is a power of 2
    and values are integers).

    Args:
        field: What the channels mean.
        scale_factor: f, an integer or one per axis.
        mode: "nearest" or "linear" (in each axis).

    Raises:
        StructureError: The mode is unknown, a factor is not a positive integer, the group
            exchanges axes on which the factors differ, or (when called) the input has other
            channels.

    Example:
        >>> import torch
        >>> from symconv.lattice.groups import parse
        >>> up = FieldUpsample(parse("mirror").trivial(1), 2, mode="linear")
        >>> up
        FieldUpsample(mirror.trivial(1), 2, mode='linear')
        >>> up(torch.tensor([[[0.0, 4.0]]]))
        tensor([[[0., 1., 3., 4.]]])

    References:
        Ronneberger, Fischer, Brox, U-Net (2015).
    """

    def __init__(self, field: Field, scale_factor: Size, mode: str = "nearest"):
        super().__init__()
        runs_of(field)
        if mode not in _MODES:
            raise StructureError('mode="nearest" or "linear"', repr(mode))
        self.dimension = field.group.dimension
        self.scale_factor = per_axis(scale_factor, self.dimension, "scale_factor")
        if not field.group.keeps(self.scale_factor):
            raise StructureError(
                f"equal factors on the axes that {field.group} exchanges", self.scale_factor
            )
        self.field, self.mode = field, mode
        self.channels, self._source = field.channels, str(field)

    def forward(self, x: Tensor) -> Tensor:
        """The larger map (N, field.channels, *(f S)), or without N."""
        check_input(x, self.dimension, self.channels, self._source)
        batch = as_batch(x, self.dimension)
        y = F.interpolate(batch, **self._arguments())
        return y if batch is x else y.squeeze(0)

    def _arguments(self) -> dict[str, Any]:
        mode = _MODES[self.mode][self.dimension]
        corners = {"align_corners": False} if self.mode == "linear" else {}
        return {"scale_factor": tuple(map(float, self.scale_factor)), "mode": mode, **corners}

    def to_plain(self) -> nn.Module:
        """Torch's upsampling, which needs the axis N that this layer may do without."""
        return nn.Upsample(**self._arguments())

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        factors = self.scale_factor
        factor = factors[0] if len(set(factors)) == 1 else factors
        return f"{self.field}, {factor}" + (
            f", mode={self.mode!r}" if self.mode == "linear" else ""
        )
