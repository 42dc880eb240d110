"""The records of an audit, one a part: plain and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Steps = int | Fraction


@dataclass(frozen=True)
class ReceptiveField:
    """What one output position sees of the input, on the unbounded lattice, per space axis.

    Output o sees the input positions from ``o * stride - padding`` to that plus ``size - 1``.
    Behind an upsampling or a transposed convolution neighbouring outputs see fields of different
    phases: there the field may be displaced by up to one position of the map that was upsampled.

    Attributes:
        size: Input positions from the first to the last one seen; None on an axis that is seen
            whole.
        stride: Input positions per step of the output: 1/2 after upsampling by 2.
        padding: How far the field of output 0 begins before the input.
        holes: Some positions between the first and the last are not seen.
        everything: Every output sees the whole input (attention, global pooling, a dense layer).
    """

    size: tuple[int | None, ...]
    stride: tuple[Steps, ...]
    padding: tuple[Steps, ...]
    holes: bool = False
    everything: bool = False


@dataclass(frozen=True)
class LayerRow:
    """One layer, or one function called between layers; figures are summed over its calls.

    Multiply-accumulates are those of the call as made, all items of the batch. Inputs, outputs,
    connections and what follows from them are of one item. None: does not apply, is not known, or
    was not asked for; `connections` are None where no operand is a weight, as in attention.

    Attributes:
        name: As in `named_modules`; a function is "name of the enclosing module:function".
        kind: Class of the module, or the function.
        input_shape: Shape of the first input tensor of the first call.
        output_shape: Shape of the first output tensor of the first call.
        inputs: Inputs m.
        outputs: Outputs n.
        fan_in: Inputs k that an output sees (the largest).
        mean_fan_in: Their mean over the outputs.
        connections: Distinct (output, input) pairs that exist.
        parameters: Trained numbers the layer owns, with biases.
        weights: Trained numbers that multiply inputs, biases aside; of a weight that is computed
            (normed, of low rank), those that it is computed from.
        uses: How often a weight multiplies an input that exists, in the mean.
        macs: Multiply-accumulates, taps on zero padding included.
        padding_macs: Those of them that fall on zero padding.
        dense_parameters: Weights of a dense layer between the same lattices: m * n for each call.
        sharing: Connections per weight. It is `uses`, except where a pair of units meets several
            taps (a window around a small circle) or a filter holds a weight several times.
        receptive_field: Of the output with respect to the network's input.
        calls: How often the layer was called.
        note: What could not be counted ("unknown, at least ..."), or other remarks.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    inputs: int | None = None
    outputs: int | None = None
    fan_in: int | None = None
    mean_fan_in: float | None = None
    connections: int | None = None
    parameters: int | None = None
    weights: int | None = None
    uses: float | None = None
    macs: int | None = None
    padding_macs: int | None = None
    dense_parameters: int | None = None
    sharing: float | None = None
    receptive_field: ReceptiveField | None = None
    calls: int = 1
    note: str | None = None


@dataclass(frozen=True)
class Total:
    """The figures of the whole model.

    Attributes:
        parameters: Trained numbers, each storage once, with biases and norms.
        weights: Those of them that multiply inputs in a contraction, each storage once.
        connections: Summed over the layers.
        macs: Multiply-accumulates of the call; a lower bound if `unknown` is not empty.
        padding_macs: Those of them that fall on zero padding.
        dense_parameters: Summed over the layers.
        unknown: What could not be counted, one sentence each.
    """

    parameters: int
    weights: int
    connections: int
    macs: int
    padding_macs: int
    dense_parameters: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class EquivarianceRow:
    """How well one layer, or the whole model, commutes with one transform.

    Attributes:
        transform: "shift 1", "mirror", "turn 90", "rotate 30", "rescale 0.5" and the like.
        layer: Name of the layer; "" for the whole model.
        error: Relative error over all units.
        interior_error: Over the units whose receptive field avoids the border.
        local_error: Of this layer alone, fed with a transformed input.
        verdict: "exact" (rounding level), "approximate" or "broken"; None where none was measured.
        note: A remark.
        smallest_interior: The smallest input size that has interior units, where this one has none.
    """

    transform: str
    layer: str
    error: float | None
    interior_error: float | None
    local_error: float | None
    verdict: str | None
    note: str | None = None
    smallest_interior: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sizes:
    """Which input sizes a model takes.

    Attributes:
        smallest: Smallest input size that works, per space axis.
        law: Output size in symbols of the input size.
        fixed_by: The layer that fixes the input size, if one does.
        leak: Does what lies in a batch's zero padding reach valid output cells?
        notes: Remarks.
    """

    smallest: tuple[int, ...] | None = None
    law: str | None = None
    fixed_by: str | None = None
    leak: bool | None = None
    notes: tuple[str, ...] = ()
