"""Sparsely connected linear layers with a constant fan-in."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.functional import sparse_linear
from symconv.nn import _shared
from symconv.structure import Structure

ENTRIES = 1 << 22  # of a dense matrix looked at together when connections are drawn or grown


class SparseLinear(nn.Module):
    r"""A linear layer in which each output sees exactly `fan_in` distinct inputs.

        y[..., o] = bias[o] + sum over j < fan_in of  x[..., connections[o, j]] * weight[o, j]

    Shapes: input (\*, in_features); output (\*, out_features); `weight` and the buffer
    `connections` (int64; each row ascends unless given otherwise) both (out_features, fan_in);
    `bias` (out_features,). Exact up to the rounding of sums. No dense matrix is built.

    Change `connections` with `rewire` or `copy_`; writes through `.data` are not seen.

    The repr gives a layer of the same shape; connections that were drawn are in the state_dict.

    Args:
        in_features: Number of inputs m.
        out_features: Number of outputs n.
        fan_in: Inputs per output k, at most m.
        bias: Add a learned bias?
        connections: The inputs of each output, integers (n, k), kept in this order: weight[o, j]
            belongs to connections[o, j]. Drawn uniformly if not given.
        generator: Draws the connections; torch's global one if not given.
        device: Where the parameters lie.
        dtype: Their type.

    Raises:
        StructureError: `fan_in` exceeds `in_features`, connections repeat or are out of range, or
            (when called) the input has other features.

    Example:
        >>> layer = SparseLinear(784, 100, fan_in=16)
        >>> layer
        SparseLinear(784, 100, fan_in=16)
        >>> layer(torch.zeros(5, 784)).shape, layer.structure().parameters
        (torch.Size([5, 100]), 1600)

    References:
        Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.2: sparse interactions.
    """

    connections: Tensor
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        fan_in: int,
        bias: bool = True,
        *,
        connections: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features = _shared.positive(in_features, "in_features")
        self.out_features = _shared.positive(out_features, "out_features")
        self.fan_in = _shared.positive(fan_in, "fan_in")
        if fan_in > in_features:
            raise StructureError(f"fan_in of at most in_features={in_features}", fan_in)
        if connections is None:
            chosen = _draw(out_features, in_features, fan_in, generator).sort(1).values
        else:  # in the order given, which is the order of the weights
            chosen = torch.as_tensor(connections).detach().clone()
            _check(chosen, (out_features, fan_in), in_features)
        self.register_buffer("connections", chosen.long().to(device or torch.get_default_device()))
        self.register_load_state_dict_post_hook(_check_again)
        biases = (out_features,) if bias else None
        shape = out_features, fan_in
        _shared.make_parameters(self, shape, biases, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in +-1 / sqrt(fan_in) as `torch.nn.Linear` does."""
        _shared.draw_uniform(self, self.fan_in)

    def forward(self, x: Tensor) -> Tensor:
        """The output for an input (*, in_features)."""
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise StructureError(
                f"an input (*, {self.in_features})",
                f"shape {tuple(x.shape)}",
                "build the layer with in_features of the input's last axis",
            )
        return sparse_linear(x, self.weight, self.connections, self.bias)

    def structure(self) -> Structure:
        """What the layer connects; nothing is shared."""
        return Structure.sparse(self.connections.cpu().numpy(), self.in_features)

    @classmethod
    def from_linear(cls, linear: nn.Linear, fan_in: int) -> Self:
        """The layer that keeps the `fan_in` weights of largest magnitude of each output.

        Raises:
            StructureError: `fan_in` exceeds the inputs.
        """
        if not 1 <= fan_in <= linear.in_features:
            raise StructureError(f"fan_in in 1..{linear.in_features}", fan_in)
        weight = linear.weight.detach()
        chosen = weight.abs().topk(fan_in, 1).indices.sort(1).values
        layer = cls(
            linear.in_features,
            linear.out_features,
            fan_in,
            linear.bias is not None,
            connections=chosen,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(weight.gather(1, chosen))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """The equal dense layer, zero where there is no connection."""
        factory = {"device": self.weight.device, "dtype": self.weight.dtype}
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, **factory)
        with torch.no_grad():
            linear.weight.zero_().scatter_(1, self.connections, self.weight)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear.train(self.training)

    @torch.no_grad()
    def rewire(
        self,
        fraction: float,
        gradient: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Change connections in place: prune each output's smallest weights, grow as many others.

        A grown connection was not there before and starts with weight zero, so the output changes
        by what was pruned only. Where the optimiser keeps a value per weight, move it along with
        the returned positions, and start the new ones at zero:

            origin = layer.rewire(0.3, gradient)
            for value in optimizer.state[layer.weight].values():
                if value.shape == origin.shape:
                    value.copy_(value.gather(1, origin.clamp(0)) * (origin >= 0))

        Args:
            fraction: Share of each output's connections to replace, in 0..1 (rounded to whole
                connections, and to the inputs that are not yet connected).
            gradient: The loss's gradient to the dense weight (out_features, in_features): the
                largest grow. It is ``y_gradient.T @ x`` for a batch. Random ones if not given.
            generator: Draws the random ones.

        Returns:
            Integers (out_features, fan_in): where in its old row each weight was, -1 if it is new.

        Raises:
            StructureError: `fraction` or the shape of `gradient` is out of range.

        Example:
            >>> layer = SparseLinear(10, 4, fan_in=5)
            >>> (layer.rewire(0.4) < 0).sum(1)
            tensor([2, 2, 2, 2])

        References:
            Evci, Gale, Menick, Castro, Elsen, Rigging the lottery: making all tickets winners
            (2020).
        """
        shape = self.out_features, self.in_features
        if not 0 <= fraction <= 1:
            raise StructureError("fraction in 0..1", fraction)
        if gradient is not None and tuple(gradient.shape) != shape:
            raise StructureError(f"a dense gradient of shape {shape}", tuple(gradient.shape))
        count = min(round(fraction * self.fan_in), self.in_features - self.fan_in)
        kept = self.weight.abs().topk(self.fan_in - count, 1).indices
        grown = self._missing(count, gradient, generator)
        origin = torch.cat([kept, torch.full_like(grown, -1)], 1)
        connections, order = torch.cat([self.connections.gather(1, kept), grown], 1).sort(1)
        origin = origin.gather(1, order)
        weight = self.weight.gather(1, origin.clamp(0))
        self.weight.copy_(weight.masked_fill(origin < 0, 0))
        self.connections.copy_(connections)
        return origin

    def _missing(
        self, count: int, gradient: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """`count` inputs of each output that it does not see, of largest gradient or random."""
        parts = []
        for rows in self.connections.split(max(1, ENTRIES // self.in_features)):
            if gradient is None:
                scores = torch.rand(len(rows), self.in_features, generator=generator)
                scores = scores.to(rows.device)
            else:
                start = sum(map(len, parts))
                scores = gradient[start : start + len(rows)].abs()
            parts.append(scores.scatter(1, rows, -1.0).topk(count, 1).indices)
        return torch.cat(parts)

    def extra_repr(self) -> str:
        """The constructor's arguments; those at their default are left out."""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}, fan_in={self.fan_in}{bias}"


def _draw(outputs: int, inputs: int, fan_in: int, generator: torch.Generator | None) -> Tensor:
    """Uniformly random connections (outputs, fan_in), distinct in each row."""
    if 2 * fan_in > inputs:
        rows = max(1, ENTRIES // inputs)
        sizes = [min(rows, outputs - start) for start in range(0, outputs, rows)]
        scores = (torch.rand(size, inputs, generator=generator, device="cpu") for size in sizes)
        return torch.cat([part.argsort(1)[:, :fan_in] for part in scores])
    # Draw what repeats again: at most half the inputs are taken, so few rounds suffice.
    chosen = torch.randint(inputs, (outputs, fan_in), generator=generator, device="cpu")
    while True:
        chosen = chosen.sort(1).values
        again = torch.zeros_like(chosen, dtype=torch.bool)
        again[:, 1:] = chosen[:, 1:] == chosen[:, :-1]
        count = int(again.sum())
        if not count:
            return chosen
        chosen[again] = torch.randint(inputs, (count,), generator=generator, device="cpu")


def _check(connections: Tensor, shape: tuple[int, int], inputs: int) -> None:
    if tuple(connections.shape) != shape or connections.is_floating_point():
        got = f"{connections.dtype} of shape {tuple(connections.shape)}"
        raise StructureError(f"connections as integers of shape {shape}", got)
    low, high = (int(bound) for bound in connections.aminmax())
    if low < 0 or high >= inputs:
        raise StructureError(f"connections in 0..{inputs - 1}", f"values from {low} to {high}")
    ascending = connections.sort(1).values
    repeated = (ascending[:, 1:] == ascending[:, :-1]).any(1)
    if repeated.any():
        row = int(repeated.nonzero()[0])
        raise StructureError(
            "distinct connections for each output",
            f"output {row} with {connections[row].tolist()}",
            "give each output distinct inputs",
        )


def _check_again(layer: SparseLinear, _: Any) -> None:
    if not layer.connections.is_meta:
        _check(layer.connections, (layer.out_features, layer.fan_in), layer.in_features)
