"""`Structure`: what a layer connects, shares and commutes with, in exact integers."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.sparse import coo_array, csr_array

from symconv import drawing
from symconv.errors import StructureError
from symconv.lattice.filters import Filter
from symconv.lattice.orbits import Orbits
from symconv.lattice.representations import Field
from symconv.lattice.tied import Tied
from symconv.lattice.windows import Size, Window, per_axis
from symconv.lattice.wiring import Connections, Dense, Listed, Transposed, Windowed, Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """The structure of a linear layer y = W x between two lattices of features.

    W is never built to answer the counts: they come from closed forms over the axes, so that a
    convolution on a 4096 x 4096 image answers in milliseconds. They are Python integers and never
    wrap. Boundaries are counted exactly: a tap on zero padding is no connection, and two taps of a
    circular, reflecting or replicating window that fall on one input are one connection.

    Make one from a layer (``layer.structure(input_size)``, ``Structure.of(module, input_size)``)
    or with the constructors below.

    Attributes:
        kind: "dense", "sparse", "local", "region", "tiled", "conv", "group conv" or one of these
            transposed.
        wiring: The connections themselves.

    Example:
        >>> window = Window.of(2, kernel_size=3, padding=1)
        >>> conv = Structure.conv(3, 16, window, (32, 32))
        >>> conv
        Structure(conv, (3, 32, 32) -> (16, 32, 32))
        >>> conv.inputs, conv.outputs, conv.fan_in, conv.parameters
        (3072, 16384, 27, 432)
        >>> conv.connections, conv.macs, conv.padding_macs
        (424128, 442368, 18240)
        >>> Structure.local(3, 16, window, (32, 32)).parameters // conv.parameters
        1024

    References:
        Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.2: sparse interactions,
        parameter sharing and equivariant representations.
    """

    kind: str
    wiring: Wiring

    # Constructors

    @classmethod
    def dense(cls, inputs: Size, outputs: Size) -> Structure:
        """Every output sees every input, nothing is shared: m * n weights (n, m).

        Args:
            inputs: Number of inputs, or their shape (channels, *space).
            outputs: Number of outputs, or their shape.
        """
        return cls("dense", Dense(_shape(inputs, "inputs"), _shape(outputs, "outputs")))

    @classmethod
    def sparse(cls, connections: np.ndarray, inputs: Size) -> Structure:
        """Output o sees the inputs ``connections[o]``, nothing is shared: n * k weights (n, k).

        Args:
            connections: Integer array (outputs, fan_in).
            inputs: Number of inputs, or their shape (channels, *space).
        """
        table, shape = np.asarray(connections), _shape(inputs, "inputs")
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer) or not table.size:
            raise StructureError(
                "connections as integers (outputs, fan_in)", f"{table.dtype} of shape {table.shape}"
            )
        if table.min() < 0 or table.max() >= math.prod(shape):
            got = f"values from {table.min()} to {table.max()}"
            raise StructureError(f"connections in 0..{math.prod(shape) - 1}", got)
        ordered = np.sort(table, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise StructureError("distinct connections for each output", "one that occurs twice")
        return cls("sparse", Listed(shape, (len(table),), table))

    @classmethod
    def local(
        cls, in_channels: int, out_channels: int, window: Window, input_size: Size, groups: int = 1
    ) -> Structure:
        """A window, nothing shared: weights (*output_size, *kernel, in // groups, out)."""
        size = per_axis(input_size, window.dimension, "input_size")
        period = window.output_size(size)
        return cls("local", _windowed(in_channels, out_channels, window, size, groups, period))

    @classmethod
    def region(
        cls,
        in_channels: int,
        out_channels: int,
        window: Window,
        input_size: Size,
        regions: np.ndarray,
        groups: int = 1,
    ) -> Structure:
        """A window, one filter per region: weights (regions, *kernel, in // groups, out).

        Args:
            in_channels: Input channels.
            out_channels: Output channels.
            window: The window.
            input_size: Input positions per axis.
            regions: Labels 0..R-1 over the output positions.
            groups: Blocks of channels that see only each other.

        Raises:
            StructureError: The labels do not have the output's size.
        """
        size = per_axis(input_size, window.dimension, "input_size")
        labels, outputs = np.asarray(regions), window.output_size(size)
        if labels.shape != outputs or not np.issubdtype(labels.dtype, np.integer):
            got = f"{labels.dtype} of shape {labels.shape}"
            raise StructureError(f"an integer region label for each output of {outputs}", got)
        if not np.array_equal(found := np.unique(labels), np.arange(len(found))):
            raise StructureError("region labels 0..R-1, each used", f"labels {found.tolist()[:8]}")
        return cls("region", _windowed(in_channels, out_channels, window, size, groups, labels))

    @classmethod
    def tiled(
        cls,
        in_channels: int,
        out_channels: int,
        window: Window,
        input_size: Size,
        tile: Size,
        groups: int = 1,
    ) -> Structure:
        """A window, filters that repeat with a period: weights (*tile, *kernel, in // g, out)."""
        size = per_axis(input_size, window.dimension, "input_size")
        period = per_axis(tile, window.dimension, "tile")
        return cls("tiled", _windowed(in_channels, out_channels, window, size, groups, period))

    @classmethod
    def conv(
        cls, in_channels: int, out_channels: int, window: Window, input_size: Size, groups: int = 1
    ) -> Structure:
        """A window, one filter everywhere: weights (out, in // groups, *kernel), as in torch."""
        size = per_axis(input_size, window.dimension, "input_size")
        once = (1,) * window.dimension
        wiring = _windowed(in_channels, out_channels, window, size, groups, once, torch_layout=True)
        return cls("conv", wiring)

    @classmethod
    def group_conv(
        cls, in_field: Field, out_field: Field, window: Window, input_size: Size, groups: int = 1
    ) -> Structure:
        """A convolution that commutes with a point group: one weight an orbit of the filter.

        Off the lattice (C8 and its like) the filter's entries are mixtures of the free weights:
        `weight_ids` then names the entries, and `parameters` counts the weights.

        A pair of units whose weight the symmetry forces to zero is no connection; multiply-
        accumulates are those of the plain convolution that is executed.

        Args:
            in_field: Field of the input.
            out_field: Field of the output.
            window: The window.
            input_size: Input positions per axis.
            groups: Blocks of copies that see only each other.
        """
        conv = cls.conv(in_field.channels, out_field.channels, window, input_size, groups)
        filter_ = Filter.of(in_field, out_field, window.kernel_size, groups)
        free = filter_.count if filter_.steered else None
        return cls("group conv", Tied(cast(Windowed, conv.wiring), filter_.orbits, free))

    @classmethod
    def of(cls, module: nn.Module, input_size: Size | None = None) -> Structure:
        """The structure of one layer: ours, or torch's linear and (transposed) convolutions.

        Args:
            module: The layer.
            input_size: Input positions per axis; not for fully connected layers.

        Raises:
            StructureError: The module is no such layer, or needs an `input_size`.
        """
        if hasattr(module, "structure"):
            describe: Any = module.structure
            try:
                return describe() if input_size is None else describe(input_size)
            except TypeError as error:
                wanted = "an input_size" if input_size is None else "no input_size"
                raise StructureError(
                    f"{wanted} for {type(module).__name__}", repr(input_size)
                ) from error
        return _of_torch(cls, module, input_size)

    def transpose(self) -> Structure:
        """The structure of W^T: the same connections and weights from outputs to inputs."""
        if isinstance(self.wiring, Transposed):
            return Structure(self.kind.removesuffix(" transposed"), self.wiring.base)
        return Structure(f"{self.kind} transposed", Transposed(self.wiring))

    # Counts

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, *space) of the input, or (features,)."""
        return self.wiring.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(channels, *space) of the output, or (features,)."""
        return self.wiring.output_shape

    @property
    def inputs(self) -> int:
        """Number of inputs m."""
        return math.prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Number of outputs n."""
        return math.prod(self.output_shape)

    @property
    def fan_in(self) -> int:
        """Inputs k that an output sees (the largest; fewer at a border of zeros)."""
        return self.wiring.fan_in

    @property
    def connections(self) -> int:
        """Distinct (output, input) pairs that exist."""
        return self.wiring.connections

    @property
    def parameters(self) -> int:
        """Free weights of the layer, used or not, without bias."""
        return self.wiring.parameters

    @property
    def sharing(self) -> float:
        """Connections per free weight."""
        return self.connections / self.parameters if self.parameters else 0.0

    @property
    def dense_parameters(self) -> int:
        """Weights of a dense layer between the same lattices: m * n."""
        return self.inputs * self.outputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one item as executed, taps on zero padding included."""
        return self.wiring.macs

    @property
    def padding_macs(self) -> int:
        """Those of `macs` that fall on zero padding."""
        return self.wiring.padding_macs

    # The connections themselves

    def weight_ids(self) -> Connections:
        """Arrays output, input, weight, sign: every connection and the weight it holds.

        A pair occurs twice where two taps of a window fall on one input. Of a steered filter,
        whose entries are mixtures of weights, the entries are numbered instead.
        """
        return self.wiring.listed()

    def materialize(self, layer: nn.Module) -> csr_array:
        """The layer as a sparse matrix W (n, m), so that y = W x + bias on flattened features.

        Args:
            layer: A layer of this structure; its `weight` is read in the layout of its class.

        Raises:
            StructureError: The layer's weight has another number of entries.
        """
        weight: Any = layer.weight
        if weight.numel() != self.parameters:
            raise StructureError(
                f"a layer with {self.parameters} weights for {self}", f"{weight.numel()} weights"
            )
        held: Any = layer.filter() if self._mixed else weight  # type: ignore[operator]
        values = held.detach().cpu().double().numpy().reshape(-1)
        pairs = self.weight_ids()
        entries = values[pairs.weight] * pairs.sign
        shape = (self.outputs, self.inputs)
        return coo_array((entries, (pairs.output, pairs.input)), shape=shape).tocsr()

    @property
    def _mixed(self) -> bool:
        """Whether the connections hold mixtures of the weights instead of one each."""
        wiring = self.wiring.base if isinstance(self.wiring, Transposed) else self.wiring
        return isinstance(wiring, Tied) and wiring.free is not None

    # Faces

    def counts(self) -> dict[str, int | float]:
        """Every count by name."""
        names = (
            "inputs outputs fan_in connections parameters sharing dense_parameters macs "
            "padding_macs"
        )
        return {name: getattr(self, name) for name in names.split()}

    def draw(self, ax: Axes | None = None) -> Figure:
        """A picture of who sees whom, weights by colour.

        A small structure is drawn as two rows of units joined by lines, a larger one as its
        matrix; one too large for either as its kind on a small lattice, and the title says so.

        Args:
            ax: Matplotlib axes to draw on; a new figure if left out.

        Raises:
            MissingExtraError: matplotlib is not installed; the message names the extra.
        """
        small = self._small()
        title = f"{self.kind}: {self.connections:,} connections, {self.parameters:,} weights"
        if small is not self:
            shape = " x ".join(map(str, small.input_shape))
            title = f"{self.kind}, as it looks on {shape}"
        return drawing.draw(small.weight_ids(), small.inputs, small.outputs, title, ax)

    def _small(self) -> Structure:
        """This structure, or the same kind on a lattice small enough to draw."""
        if self.connections <= drawing.MOST_CONNECTIONS:
            return self
        match self.wiring:
            case Windowed(window=window, input_size=size) as wiring:
                crop = _crop(window, size)
                if self.kind == "local":
                    return Structure.local(1, 1, window, crop)
                if isinstance(wiring.sharing, tuple):
                    return Structure.tiled(1, 1, window, crop, wiring.sharing)
                outputs = window.output_size(crop)
                pairs = zip(outputs, wiring.sharing.shape, strict=True)
                rows = np.ix_(*(np.arange(n) * whole // n for n, whole in pairs))
                labels = wiring.sharing[rows]  # from all over: a corner may lie in one region
                labels = np.unique(labels, return_inverse=True)[1].reshape(outputs)
                return Structure.region(1, 1, window, crop, labels)
            case Tied(base=base, orbits=orbits):
                one = Structure.conv(1, 1, base.window, _crop(base.window, base.input_size))
                first = slice(base.window.taps)  # the filter between the first two channels
                tap = Orbits(orbits.weight[first], orbits.sign[first], orbits.count)
                return Structure(self.kind, Tied(cast(Windowed, one.wiring), tap))
            case Transposed():
                return self.transpose()._small().transpose()
            case Listed(table=table):
                rng, fan_in = np.random.default_rng(0), min(4, table.shape[1])
                rows = [rng.choice(16, fan_in, replace=False) for _ in range(12)]
                return Structure.sparse(np.sort(np.stack(rows)), 16)
            case _:
                return Structure.dense(16, 12)

    def __repr__(self) -> str:
        return f"Structure({self.kind}, {self.input_shape} -> {self.output_shape})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the counts, and the picture where matplotlib is installed."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{name.replace('_', ' ')}</th>"
            f"<td style='text-align:right'>{f'{value:,.4g}' if name == 'sharing' else f'{value:,}'}"
            "</td></tr>"
            for name, value in self.counts().items()
        )
        caption = f"<caption>{html.escape(repr(self))}</caption>"
        return f"<table>{caption}{rows}</table>{drawing.svg_or_nothing(self.draw)}"


def _shape(value: Size, name: str) -> tuple[int, ...]:
    return per_axis(value, len(value) if isinstance(value, Sequence) else 1, name)


def _crop(window: Window, size: tuple[int, ...]) -> tuple[int, ...]:
    """A lattice large enough to show a window and small enough to draw."""
    reach = zip(window.extent, window.stride, size, strict=True)
    return tuple(min(s, max(8, e + 3 * step)) for e, step, s in reach)


def _windowed(
    in_channels: int,
    out_channels: int,
    window: Window,
    size: tuple[int, ...],
    groups: int,
    sharing: tuple[int, ...] | np.ndarray,
    torch_layout: bool = False,
) -> Windowed:
    named = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    for name, value in named.items():
        per_axis(value, 1, name)
    if in_channels % groups or out_channels % groups:
        raise StructureError(
            f"channels that groups={groups} divides", f"{in_channels} in, {out_channels} out"
        )
    window.output_size(size)  # refuses an input too small before anything is counted
    return Windowed(window, size, in_channels, out_channels, groups, sharing, torch_layout)


def _of_torch(cls: type[Structure], module: nn.Module, input_size: Size | None) -> Structure:
    from torch import nn  # here, so that counting alone never loads torch

    if isinstance(module, nn.Linear):
        if input_size is not None:
            raise StructureError("no input_size for a fully connected layer", input_size)
        return cls.dense(module.in_features, module.out_features)
    transposed = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *transposed)):
        raise StructureError(
            "a layer of symconv, or torch's Linear, Conv or ConvTranspose",
            type(module).__name__,
            "call it on the layers of a network one by one",
        )
    dimension = len(module.kernel_size)
    if input_size is None:
        raise StructureError(f"input_size of {dimension} axes", None, "counts depend on the size")
    window = Window.of(
        dimension,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.padding_mode,
    )
    if not isinstance(module, transposed):
        return cls.conv(module.in_channels, module.out_channels, window, input_size, module.groups)
    size = window.transposed_size(input_size, module.output_padding)
    base = cls.conv(module.out_channels, module.in_channels, window, size, module.groups)
    if base.output_shape[1:] != per_axis(input_size, dimension, "input_size"):
        # torch allows it below the dilation too; outputs that no filter reaches are no transpose
        raise StructureError(f"output_padding below stride {window.stride}", module.output_padding)
    return base.transpose()
