"""Group convolution: convolution that also commutes with turns and mirrors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.functional import check_input, pad
from symconv.kernels.tied import expand, source_of, spread, with_negatives
from symconv.kernels.workspace import traced_for_export
from symconv.lattice.centring import check_window, padded_more
from symconv.lattice.filters import Block, Filter
from symconv.lattice.orbits import Orbits
from symconv.lattice.representations import Field
from symconv.lattice.steerable import Steered
from symconv.lattice.windows import Size, Window, per_axis
from symconv.nn._fourier import Plan, plan_of, through_fourier
from symconv.nn.centring import alignment
from symconv.structure import Structure

_CONV_LAYER: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _GroupConv(nn.Module):
    r"""Convolution that commutes with a point group as well as with translations.

        y = bias + F * x,   F[g o, g i, g t] = F[o, i, t]   for every element g,

    where g moves the taps t of the filter, and the channels i and o as the two fields say (with
    their signs). Each orbit of filter entries is one free weight; an entry that the group maps
    onto minus itself is zero. One class covers lifting (trivial to regular fields), regular to
    regular, projections, and sums of fields. The work is that of torch's convolution with as many
    channels, or less: on the CPU wide layers of kernel 1 between regular fields go through the
    group's Fourier transform (exact on integers on the lattice). The filter is spread from its free
    weights at each call (once in `eval()` without gradients: it is kept there until the weights
    change; off the CPU, writes through `weight.data` are seen only after `train()` or `eval()`).

    Shapes: input (N, in_field.channels, \*S) of any size S, or without N; output (N,
    out_field.channels, \*out); `weight` (free weights,): for each representation of the output,
    then of the input, (blocks, output copies, input copies, orbits); `bias` (copies that can
    have one,). Exact: with integer-valued weights and inputs both sides of ``act(g, layer(x)) ==
    layer(act(g, x))`` are equal to the last bit, if the sampling grid is centred: stride s needs
    ``(S + 2 p - d (k - 1) - 1) % s == 0`` on every axis that the group reverses. Off-centre sizes
    warn once (`OffCentreWarning`; not under `torch.compile` or `torch.export`, where a warning
    would break the graph). The weight has one axis: recipes that spare vectors from weight decay
    must name it.

    Off the lattice (``group.exact`` is False: C8, D8 and any other C_N or D_N, in 2-D) the filter's
    entries are mixtures: rings times angular harmonics of a low frequency, sampled at the taps
    (`symconv.lattice.steerable`); of 3 x 3, 5 x 5 and 7 x 7 taps 6, 11 and 16 are free. Quarter
    turns are exact up to rounding; at 45 degrees the relative error of a C8 layer, away from the
    border, is 0.004, 0.0014 and 0.0009 (kernels 3, 5, 7) on noise blurred by 2 pixels, 0.07, 0.03
    and 0.014 on a photograph, 0.5, 0.26 and 0.2 on white noise (`benchmarks/rotations.py`).
    Pointwise layers are as exact as on the lattice.

    Args:
        in_field: What the channels of the input mean, such as ``C4.trivial(3)``.
        out_field: The same for the output, over the same group.
        kernel_size: Taps of the window, an integer or one per axis; likewise the next three.
        stride: Step between outputs, in input positions.
        padding: Positions added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps, in input positions.
        groups: Blocks of copies that see only each other; each field must be that many equal
            blocks of neighbouring copies.
        bias: Add a learned bias, one per copy of a representation with an invariant vector
            (trivial, regular, quotient)? By default wherever there is one. True insists that the
            output has at least one; copies without (sign, vector) never get any.
        padding_mode: What lies on the padding: "zeros", "reflect", "replicate" or "circular".
        device: Where the parameters lie.
        dtype: Their type.
        align: Pad both ends further (in the padding mode) where the sampling grid would be
            off-centre, instead of warning.

    Raises:
        StructureError: The fields have different groups or another dimension than the layer; the
            group exchanges axes on which the window differs, or reverses one that is padded more
            at one end; the kernel holds too low frequencies for the fields (off the lattice);
            `bias=True` for a field without invariant vectors; or (when called) the
            input has other channels, or `align` cannot centre it.

    Example:
        >>> from symconv.lattice.groups import parse
        >>> C4 = parse("C4")
        >>> lift = GroupConv2d(C4.trivial(1), C4.regular(8), kernel_size=3, padding=1)
        >>> lift
        GroupConv2d(C4.trivial(1), C4.regular(8), kernel_size=3, padding=1)
        >>> lift.weight.shape, lift.bias.shape, lift(torch.zeros(5, 1, 9, 9)).shape
        (torch.Size([72]), torch.Size([8]), torch.Size([5, 32, 9, 9]))

    References:
        Cohen and Welling, Group equivariant convolutional networks (2016); Cohen and Welling,
        Steerable CNNs (2017); Weiler and Cesa, General E(2)-equivariant steerable CNNs (2019);
        Winkels and Cohen, 3D G-CNNs for pulmonary nodule detection (2018); Weiler, Hamprecht,
        Storath, Learning steerable filters for rotation equivariant CNNs (2018), section 2.
    """

    dimension: ClassVar[int]
    bias: nn.Parameter | None
    _bias_source: Tensor

    def __init__(
        self,
        in_field: Field,
        out_field: Field,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        align: bool = False,
    ):
        super().__init__()
        window = Window.of(self.dimension, kernel_size, stride, padding, dilation, padding_mode)
        self._configure(in_field, out_field, window, groups)
        self.padding = padding if isinstance(padding, str) else self._entries(padding, "padding")
        self.align = align
        filter_ = Filter.of(in_field, out_field, window.kernel_size, self.groups)
        self._tie(filter_, bias, device, dtype)

    # Construction, shared with the transpose

    def _entries(self, value: Size, name: str) -> tuple[int, ...]:
        return per_axis(value, self.dimension, name, 0)

    def _configure(self, in_field: Field, out_field: Field, window: Window, groups: int) -> None:
        for name, field in (("in_field", in_field), ("out_field", out_field)):
            if not isinstance(field, Field) or field.channels == 0:
                raise StructureError(f"{name} as a field, such as C4.regular(8)", repr(field))
        if in_field.group != out_field.group:
            raise StructureError(
                "two fields of one group",
                f"{in_field} and {out_field}",
                "bring both to a common subgroup with .restrict(subgroup)",
            )
        check_window(window, in_field.group)
        self.in_field, self.out_field, self.window = in_field, out_field, window
        self.in_channels, self.out_channels = in_field.channels, out_field.channels
        self.kernel_size, self.stride = window.kernel_size, window.stride
        self.dilation, self.padding_mode = window.dilation, window.padding_mode
        self.groups = per_axis(groups, 1, "groups")[0]

    def _tie(self, filter_: Filter, bias: bool | None, device: Any, dtype: Any) -> None:
        """Parameters and tables for a filter, and for the bias: a filter from nothing."""
        scalar, point = self.out_field.group.trivial(1), (1,) * self.dimension
        self._filter, self._offset = filter_, Filter.of(scalar, self.out_field, point)
        self._kept: tuple[Tensor, tuple[Any, ...], Any] | None = None
        if bias and not self._offset.count:
            raise StructureError(
                "an output field with an invariant vector (trivial, regular, quotient) for a bias",
                str(self.out_field),
                "a bias would break the symmetry: give bias=False or leave it out",
            )
        biases = 0 if bias is False else self._offset.count
        self.weight = nn.Parameter(torch.empty(filter_.count, device=device, dtype=dtype))
        free = torch.empty(biases, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(free) if biases else None)
        self._register_tables()
        self.reset_parameters()

    def _register_tables(self) -> None:
        device, self._mixed_in = self.weight.device, self.weight.dtype
        with torch.inference_mode(False):  # tables made for inference could not be trained with
            for row, blocks in enumerate(self._filter.rows):
                for column, block in enumerate(blocks):
                    for name, table in _tables(block.tie, block.out_size).items():
                        kind = self._mixed_in if table.dtype.kind == "f" else None
                        held = torch.from_numpy(table).to(device, kind)
                        self.register_buffer(f"_{name}_{row}_{column}", held, persistent=False)
            bias = torch.from_numpy(source_of(self._offset.orbits, self.out_channels)).flatten()
            self.register_buffer("_bias_source", bias.to(device), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Made anew instead of moved, so that `to_empty` leaves no garbage in them.
        super()._apply(fn, recurse)
        self._register_tables()
        self._kept = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; either way the filter is spread anew."""
        self._kept = None
        return super().train(mode)

    def reset_parameters(self) -> None:
        """Draw anew: each filter entry uniform in +-1 / sqrt(fan-in), as in torch's convolutions.

        Entries that the symmetry forces to zero do not count as fan-in.
        """
        with torch.no_grad():
            for row, blocks in enumerate(self._filter.rows):
                bound = 1 / math.sqrt(max(1.0, self._filter.live_inputs(row)))
                for block in blocks:
                    _slice(self.weight, block).uniform_(-bound, bound)
            if self.bias is not None:
                rows = range(len(self._filter.rows))
                live = max(1.0, max(map(self._filter.live_inputs, rows)))
                self.bias.uniform_(-1 / math.sqrt(live), 1 / math.sqrt(live))

    @property
    def filter_mean_square(self) -> float:
        """Mean square of the filter's entries, in expectation, for weights of variance 1.

        1 on the lattice where no entry is forced to zero; what schemes of initial weights that
        ask for a variance of the entries divide by.
        """
        return self._filter.mean_square

    # The filter

    def filter(self) -> Tensor:
        """The filter spread from its free weights, in the layout of torch's layer."""
        self._check_tables()
        return self._spread(self.weight)

    def _check_tables(self) -> None:
        # Weights can be put in place of others, which leaves the tables on meta or of another type.
        if torch.compiler.is_compiling():
            return
        mixed, weight = self._filter.steered, self.weight
        if self._bias_source.device != weight.device or (mixed and self._mixed_in != weight.dtype):
            self._register_tables()

    def _current_filter(self) -> Tensor:
        return self._current("filter", self._spread)

    def _current(self, name: str, make: Callable[[Tensor], Any]) -> Any:
        """What `make` makes of the weights, kept from the last call where no gradient is asked for.

        Args:
            name: What it is, "filter" or "blocks": one of them is kept.
            make: A function of the weights alone.
        """
        self._check_tables()
        weight = self.weight
        reusable = (
            not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
            and not traced_for_export()
            and type(weight) is nn.Parameter
            and not weight.is_inference()
        )
        if not reusable:
            return make(weight)
        # Writing through `.data` leaves the version as it is, so on the CPU values are compared;
        # elsewhere that would wait for the device, and `train()` or `eval()` is the remedy.
        state = name, weight.data_ptr(), weight._version, weight.dtype, weight.device
        if self._kept is not None:
            seen, at, made = self._kept
            if at == state and (weight.device.type != "cpu" or torch.equal(seen, weight)):
                return made
        seen = weight.detach().clone() if weight.device.type == "cpu" else weight
        self._kept = seen, state, make(weight)
        return self._kept[2]

    @cached_property
    def _fourier(self) -> Plan | None:
        return plan_of(self)

    def full_bias(self) -> Tensor | None:
        """The bias of every channel, 0 where there is none; None for a layer without bias."""
        if self.bias is None:
            return None
        if self._offset.count == self.out_channels:  # trivial fields: a bias each
            return self.bias
        signed = any(block.signed for (block,) in self._offset.rows)
        return (with_negatives(self.bias) if signed else self.bias).index_select(
            0, self._bias_source
        )

    def _spread(self, weight: Tensor) -> Tensor:
        filter_, rows = self._filter, []
        if len(filter_.rows) == len(filter_.rows[0]) == 1:
            return self._part(0, 0, weight).reshape(filter_.shape)
        for r, blocks in enumerate(filter_.rows):
            parts = []
            for c, b in enumerate(blocks):
                channels = b.out_copies * b.out_size, b.in_copies * b.in_size
                part = self._part(r, c, _slice(weight, b))
                parts.append(part.reshape(b.blocks, *channels, math.prod(self.kernel_size)))
            rows.append(torch.cat(parts, 2))
        return torch.cat(rows, 1).reshape(filter_.shape)

    def _part(self, row: int, column: int, free: Tensor) -> Tensor:
        """A block of the filter: (out copies, out size, in copies, in size * taps)."""
        b: Block = self._filter.rows[row][column]
        free = free.view(b.blocks * b.out_copies, b.in_copies, b.tie.count)
        source = getattr(self, f"_source_{row}_{column}")
        if isinstance(b.tie, Steered):
            return expand(free, source, getattr(self, f"_basis_{row}_{column}"))
        return spread(free, source, b.signed)

    # Use

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (N, in_field.channels, *S), or without N."""
        n = self.dimension
        check_input(x, n, self.in_channels, str(self.in_field))
        if not torch.compiler.is_compiling() and (y := through_fourier([self], x)) is not None:
            return y
        window = self._window_at(x.shape[-n:])
        # sizes may be symbols, or those of a ragged batch: there the convolution checks them
        if isinstance(x, Tensor) and not torch.compiler.is_compiling():
            window.output_size(x.shape[-n:])
        amounts: Any = 0
        if window.padding_mode == "zeros" and all(a == b for a, b in window.padding):
            amounts = tuple(before for before, _ in window.padding)
        else:
            x = pad(x, window)
        filter_, bias = self._current_filter(), self.full_bias()
        return _CONV[n](x, filter_, bias, self.stride, amounts, self.dilation, self.groups)

    def _window_at(self, size: Sequence[int]) -> Window:
        """The window, padded more where `align` asks for it."""
        extra = alignment(self, self.window, self.in_field.group, size, self.align)
        return padded_more(self.window, extra) if any(extra) else self.window

    def structure(self, input_size: Size) -> Structure:
        """What the layer connects and shares on inputs of `input_size`.

        Connections are the pairs whose weight the symmetry does not force to zero.
        """
        size = per_axis(input_size, self.dimension, "input_size")
        window = self._window_at(size)
        return Structure.group_conv(self.in_field, self.out_field, window, size, self.groups)

    def to_conv(self, input_size: Size | None = None) -> nn.Module:
        """The equal plain torch convolution.

        Args:
            input_size: Input positions per axis; a layer with `align=True` needs it, as its
                padding depends on the size, and the convolution then suits that size only.

        Raises:
            StructureError: `align=True` with a stride, and no size is given.
        """
        padding = self.padding
        if self.align and max(self.stride) > 1:
            if input_size is None:
                raise StructureError("input_size for a layer with align=True", None)
            window = self._window_at(per_axis(input_size, self.dimension, "input_size"))
            padding = tuple(before for before, _ in window.padding)
        return self._plain(_CONV_LAYER[self.dimension], padding=padding)

    def _plain(self, layer: Any, **options: Any) -> nn.Module:
        names = "in_channels out_channels kernel_size stride dilation groups padding_mode"
        arguments = {name: getattr(self, name) for name in names.split()} | options
        factory = {"device": self.weight.device, "dtype": self.weight.dtype}
        conv: Any = nn.utils.skip_init(layer, **arguments, bias=self.bias is not None, **factory)
        with torch.no_grad():
            conv.weight.copy_(self.filter())
            if (bias := self.full_bias()) is not None:
                conv.bias.copy_(bias)
        return conv.train(self.training)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        once, none = (1,) * self.dimension, (0,) * self.dimension
        defaults: dict[str, Any] = {"kernel_size": None, "stride": once, "padding": none,
            "output_padding": none, "dilation": once, "groups": 1, "padding_mode": "zeros",
            "align": False}  # fmt: skip
        values = {name: getattr(self, name, default) for name, default in defaults.items()}
        options = [f"{k}={_short(v)}" for k, v in values.items() if v != defaults[k]]
        if self.bias is None and self._offset.count:
            options.append("bias=False")
        return ", ".join([str(self.in_field), str(self.out_field), *options])


@lru_cache(maxsize=1024)
def _tables(tie: Orbits | Steered, outputs: int) -> dict[str, np.ndarray]:
    # no tensors: they would keep the mode they were made in
    if isinstance(tie, Steered):
        return {"source": tie.index, "basis": tie.basis}
    return {"source": source_of(tie, outputs)}


def _slice(weight: Tensor, block: Block) -> Tensor:
    return weight.narrow(0, block.start, block.weights)


def _short(value: Any) -> str:
    """A tuple of equal entries as one of them."""
    return repr(value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value)


class GroupConv1d(_GroupConv):
    """Group convolution over one axis of space; documented at its base class."""

    __doc__ = _GroupConv.__doc__
    dimension = 1


class GroupConv2d(_GroupConv):
    """Group convolution over two axes of space."""

    __doc__ = _GroupConv.__doc__
    dimension = 2


class GroupConv3d(_GroupConv):
    """Group convolution over three axes of space."""

    __doc__ = _GroupConv.__doc__
    dimension = 3
