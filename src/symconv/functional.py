"""Functional forms: the layers without their parameters, in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symconv.errors import StructureError
from symconv.kernels.local import local_adjoint, local_correlation
from symconv.kernels.phase import align, polyphase, unalign
from symconv.kernels.sparse import sparse_product
from symconv.lattice.windows import Size, Window, per_axis

__all__ = [
    "align",
    "local_conv",
    "local_conv_transpose",
    "polyphase",
    "sparse_linear",
    "unalign",
]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TORCH_MODE = {"zeros": "constant"}


def local_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    r"""Unshared convolution: a window slides over the input, each output has its own filter.

    With zeros beyond the border, padding p, stride s and dilation d,

        y[b, o, l] = bias[o, l] + sum over taps t, channels c of
                     x[b, c, s l + d t - p] * W[l, t, c, o]

    Exact up to the rounding of sums; differentiable to any order. Memory beside the operands: see
    `symconv.kernels.local`.

    Args:
        x: Input (N, C, \*S), or (C, \*S) without a batch; one to three axes of space.
        weight: Filters (\*out, \*kernel, C // groups, O), `out` the output's size.
        bias: (O, \*out) or (O,).
        stride: Step between outputs, an integer or one per axis.
        padding: Zeros added at both ends of an axis, or "same" or "valid".
        dilation: Step between taps.
        groups: Blocks of channels that see only each other, as in torch.

    Raises:
        StructureError: The shapes do not fit each other.

    Example:
        >>> x = torch.arange(5.0).reshape(1, 1, 5)
        >>> weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1).expand(4, 2, 1, 1)
        >>> local_conv(x, weight)
        tensor([[[ 1.,  6., 15., 28.]]])
    """
    n = _dimension(weight)
    window = Window.of(n, weight.shape[n : 2 * n], stride, padding, dilation)
    check_input(x, n, weight.shape[-2] * groups, "weight.shape[-2] * groups")
    out = window.output_size(x.shape[-n:])
    if out != tuple(weight.shape[:n]):
        raise StructureError(
            f"a filter for each output of {out}",
            f"{tuple(weight.shape[:n])} filters from weight of shape {tuple(weight.shape)}",
            "weight is (*output_size, *kernel_size, channels // groups, out_channels)",
        )
    check_groups(weight.shape[-2] * groups, weight.shape[-1], groups)
    check_bias(bias, weight.shape[-1], out)
    return correlate(x, weight.flatten(0, n - 1), None, bias, window, groups)


def local_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    r"""The transpose of `local_conv` with the same weight: each input spreads its own filter.

    With padding p, stride s and dilation d,

        y[b, c, s l + d t - p] += x[b, o, l] * W[l, t, c, o]    for all l, taps t, channels o

    Exact up to the rounding of sums; differentiable to any order.

    Args:
        x: Input (N, O, \*S), or (O, \*S) without a batch.
        weight: Filters (\*S, \*kernel, C // groups, O): C output channels, O input channels.
        bias: (C, \*out) or (C,), out = (S - 1) s - 2 p + d (kernel - 1) + 1 + output_padding.
        stride: Step between the places where neighbouring inputs write.
        padding: Positions cut from both ends of the output.
        output_padding: Positions added at the end of the output, less than `stride`.
        groups: Blocks of channels that see only each other, as in torch.
        dilation: Step between taps.

    Raises:
        StructureError: The shapes do not fit each other.

    Example:
        >>> x = torch.tensor([[[1.0, 10.0]]])
        >>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
        >>> local_conv_transpose(x, weight)
        tensor([[[ 1., 32., 40.]]])
    """
    n = _dimension(weight)
    window = Window.of(n, weight.shape[n : 2 * n], stride, padding, dilation)
    check_input(x, n, weight.shape[-1], "weight.shape[-1]")
    check_size(x, tuple(weight.shape[:n]), "weight.shape")
    check_groups(weight.shape[-2] * groups, weight.shape[-1], groups)
    out = transposed_size(window, x.shape[-n:], output_padding)
    check_bias(bias, weight.shape[-2] * groups, out)
    return correlate_transposed(x, weight.flatten(0, n - 1), bias, window, out, groups)


def sparse_linear(
    x: Tensor, weight: Tensor, connections: Tensor, bias: Tensor | None = None
) -> Tensor:
    r"""A linear map in which each output sees k chosen inputs.

        y[..., o] = bias[o] + sum over j < k of  x[..., connections[o, j]] * W[o, j]

    Exact up to the rounding of sums; differentiable to any order. No (n, m) matrix is built and
    the input is not gathered (see `symconv.kernels.sparse`).

    Args:
        x: Input (\*, m).
        weight: (n, k).
        connections: Integers (n, k) in 0..m-1, checked when they are new or were written to
            (not through `.data` or a numpy view: such writes are not seen).
        bias: (n,).

    Raises:
        StructureError: The shapes do not fit each other, or a connection is out of range.

    Example:
        >>> x = torch.tensor([1.0, 10.0, 100.0])
        >>> sparse_linear(x, torch.tensor([[1.0, 2.0]]), torch.tensor([[0, 2]]))
        tensor([201.])
    """
    if weight.ndim != 2 or connections.shape != weight.shape:
        raise StructureError(
            "weight and connections of one shape (outputs, fan_in)",
            f"{tuple(weight.shape)} and {tuple(connections.shape)}",
        )
    if connections.dtype not in (torch.int64, torch.int32):
        raise StructureError("connections of type int64 or int32", connections.dtype)
    if x.ndim < 1:
        raise StructureError("an input (*, features)", "a scalar")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise StructureError(f"a bias of shape {(weight.shape[0],)}", tuple(bias.shape))
    x, weight, bias = cast(x, weight, bias)
    if x.ndim == 2:
        return sparse_product(x, weight, connections, bias)
    y = sparse_product(x.reshape(-1, x.shape[-1]), weight, connections, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


# What the layers share


def correlate(
    x: Tensor,
    weight: Tensor,
    labels: Tensor | None,
    bias: Tensor | None,
    window: Window,
    groups: int,
) -> Tensor:
    """Local correlation of an input and its padding; filters (F, *kernel, C, O)."""
    zeros, n = window.padding_mode == "zeros", window.dimension
    x = x if zeros else pad(x, window)  # first: under autocast it may give another type
    x, weight, bias = cast(x, weight, bias)
    batch = as_batch(x, n)
    padding = _flat(window.padding) if zeros else (0,) * (2 * n)
    each, shared = (bias, None) if bias is not None and bias.ndim > 1 else (None, bias)
    steps = window.stride, padding, window.dilation, groups
    y = add_bias(local_correlation(batch, weight, each, labels, *steps), shared, n)
    return y if x.ndim == n + 2 else y.squeeze(0)


def correlate_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    output_size: Sequence[int],
    groups: int,
) -> Tensor:
    """The transpose of `correlate` and of its zero padding."""
    x, weight, bias = cast(x, weight, bias)
    batch = as_batch(x, window.dimension)
    steps = window.stride, _flat(window.padding), window.dilation, groups
    y = local_adjoint(batch, weight, None, output_size, *steps)
    return add_bias(y if batch is x else y.squeeze(0), bias, window.dimension)


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [amount for pair in pairs for amount in pair]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Torch's convolution of a padded input with one filter (*kernel, C // groups, O)."""
    n = weight.ndim - 2
    filters = weight.permute(n + 1, n, *range(n))
    return _CONV[n](x, filters, bias, tuple(stride), 0, tuple(dilation), groups)


def pad(x: Tensor, window: Window) -> Tensor:
    """The input with the window's padding, filled as its padding mode says."""
    if not any(map(any, window.padding)):
        return x
    amounts = [amount for pair in reversed(window.padding) for amount in pair]
    mode = _TORCH_MODE.get(window.padding_mode, window.padding_mode)
    batch = as_batch(x, window.dimension)  # torch pads the last axes of batches only
    padded = F.pad(batch, amounts, mode=mode)
    return padded if batch is x else padded.squeeze(0)


def as_batch(x: Tensor, dimension: int) -> Tensor:
    """A single example (C, *S) as a batch of one; a batch as it is."""
    return x.unsqueeze(0) if x.ndim == dimension + 1 else x


def add_bias(y: Tensor, bias: Tensor | None, dimension: int) -> Tensor:
    """Add a bias (O,) or (O, *out) to outputs (..., O, *out)."""
    if bias is None:
        return y
    return y + (bias.view(-1, *(1,) * dimension) if bias.ndim == 1 else bias)


def cast(*tensors: Tensor | None) -> Any:
    """The tensors in autocast's type where autocast is on, as torch's convolutions take them.

    Raises:
        StructureError: They do not have one floating-point type, or lie on several devices.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    devices = {tensor.device for tensor in given}
    if len(devices) > 1:
        names = ", ".join(str(tensor.device) for tensor in given)
        raise StructureError("input and parameters on one device", names, "move one with .to()")
    kind = given[0].device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        to = torch.get_autocast_dtype(kind)
        return [t if t is None or t.dtype in (to, torch.float64) else t.to(to) for t in tensors]
    dtypes = {tensor.dtype for tensor in given}
    if len(dtypes) > 1 or not given[0].is_floating_point():
        names = ", ".join(str(tensor.dtype) for tensor in given)
        raise StructureError(
            "input and parameters of one floating-point type", names, "convert one with .to(dtype)"
        )
    return tensors


def transposed_size(window: Window, size: Sequence[int], output_padding: Size) -> tuple[int, ...]:
    """Output size of the transpose; `output_padding` must stay below the stride.

    Raises:
        StructureError: It does not: the transpose would have outputs that no filter reaches.
    """
    extra = per_axis(output_padding, window.dimension, "output_padding", 0)
    if any(e >= s for e, s in zip(extra, window.stride, strict=True)):
        raise StructureError(f"output_padding less than stride {window.stride}", extra)
    return window.transposed_size(size, extra)


# Checks


def check_input(x: Tensor, dimension: int, channels: int, source: str) -> None:
    """Is x (N, C, *S) or (C, *S) with the right channels?

    Raises:
        StructureError: It is not.
    """
    shape = tuple(x.shape)
    if x.ndim not in (dimension + 1, dimension + 2):
        space = ", ".join("DHW"[-dimension:])
        raise StructureError(
            f"an input (N, {channels}, {space}) or ({channels}, {space})", f"shape {shape}"
        )
    if shape[-dimension - 1] != channels:
        raise StructureError(
            f"{channels} channels ({source})",
            f"{shape[-dimension - 1]} in an input of shape {shape}",
        )


def check_size(x: Tensor, size: tuple[int, ...], source: str) -> None:
    """Has x the size that unshared filters were made for?

    Raises:
        StructureError: It has not; names both sizes.
    """
    got = tuple(x.shape[-len(size) :])
    if got != size:
        raise StructureError(
            f"an input of size {size} ({source})",
            f"size {got}",
            "filters that are not shared fit one size: resize the input or build another layer",
        )


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Does `groups` divide both numbers of channels?

    Raises:
        StructureError: It does not.
    """
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise StructureError(
            "groups that divide in_channels and out_channels",
            f"groups={groups} with {in_channels} in and {out_channels} out",
        )


def check_bias(bias: Tensor | None, channels: int, size: tuple[int, ...]) -> None:
    """Is the bias one per channel, or one per channel and position?

    Raises:
        StructureError: It is neither.
    """
    shapes = ((channels,), (channels, *size))
    if bias is not None and tuple(bias.shape) not in shapes:
        raise StructureError(f"a bias of shape {shapes[0]} or {shapes[1]}", tuple(bias.shape))


def _dimension(weight: Tensor) -> int:
    if weight.ndim not in (4, 6, 8):
        raise StructureError(
            "weight (*output_size, *kernel_size, channels // groups, out_channels) in 1 to 3 "
            "dimensions",
            f"shape {tuple(weight.shape)}",
        )
    return weight.ndim // 2 - 1
