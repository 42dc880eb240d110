"""What the kernels share: sizes, the bound on workspace, the walk over outputs, when to export."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from symconv.errors import StructureError

BYTES = 4 << 20  # of patches held at a time: measured as quick as more, and it stays in the cache


def traced_for_export() -> bool:
    """Is the graph being recorded for elsewhere, where our own operators do not exist?"""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def eager(*tensors: Tensor | None) -> bool:
    """Is this plain eager PyTorch, where nobody compiles, transforms or watches what is called?

    Then an operator need not go through the dispatcher, which costs as much as a small product.
    """
    return (
        not torch.compiler.is_compiling()
        and all(t is None or (type(t) in (Tensor, Parameter) and not t.is_meta) for t in tensors)
        and not _get_current_dispatch_mode_stack()
        and not _get_current_function_mode_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not any(t is not None and is_legacy_batchedtensor(t) for t in tensors)
    )


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Refuse forward-mode derivatives, which torch would lose without a word in our operators.

    Raises:
        StructureError: A tensor carries a tangent.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise StructureError(
            "derivatives by a backward pass",
            "forward-mode differentiation (jvp, jacfwd, dual tensors)",
            "use torch.autograd.functional.jvp or jacobian",
        )


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type to sum in: half precision is summed in single, as torch's convolutions do."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def boxes(size: Sequence[int], most: int) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Cut a lattice into boxes of at most `most` positions whose flat indices are contiguous.

    Yields:
        The flat range of a box, and its slice of each axis.

    Example:
        >>> [flat for flat, _ in boxes((2, 3), 2)]
        [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None), slice(5, 6, None)]
    """
    split = 0  # axes before it are walked one by one, those after it are whole
    while split < len(size) - 1 and math.prod(size[split + 1 :]) > most:
        split += 1
    inner = math.prod(size[split + 1 :])
    rows = max(1, most // inner)
    for outer in range(math.prod(size[:split])):
        index, rest = [], outer
        for extent in reversed(size[:split]):
            rest, i = divmod(rest, extent)
            index.insert(0, slice(i, i + 1))
        for start in range(0, size[split], rows):
            stop = min(start + rows, size[split])
            whole = (slice(0, extent) for extent in size[split + 1 :])
            first = (outer * size[split] + start) * inner
            flat = slice(first, first + (stop - start) * inner)
            yield flat, (*index, slice(start, stop), *whole)


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Output positions per axis; `padding` holds the zeros before and after each axis."""
    whole = [n + b + a for n, b, a in zip(size, padding[::2], padding[1::2], strict=True)]
    rows = zip(whole, kernel, stride, dilation, strict=True)
    return [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in rows]


def empty(*tensors: Tensor) -> bool:
    """Has one of the tensors no elements?"""
    return any(tensor.numel() == 0 for tensor in tensors)
