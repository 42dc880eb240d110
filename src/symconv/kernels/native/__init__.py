"""The compiled kernels for the processor: whether they are here, and memory for their results.

They are built from `symconv/kernels/cpu` when symconv is installed and a C++ compiler is there.
The instruction set (AVX-512, AVX2 or the portable one) is chosen when they are loaded. They run in
torch's own threads, as many as `torch.get_num_threads()` says. Their results do not depend on that
number, not in a single bit: every sum has one order.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels.native.whole import refuse_cut_short

INTERFACE = 1  # of the compiled module; raised there and here when its functions change

_cpu: Any = None
SET = ""  # the instruction set, "" where there are no compiled kernels
THREADS = False  # has torch brought an OpenMP runtime whose threads they can use?
WHY_NOT = ""
try:
    refuse_cut_short("symconv.kernels._cpu")
    from symconv.kernels import _cpu  # pyright: ignore[reportAttributeAccessIssue]

    if getattr(_cpu, "interface", 0) != INTERFACE:
        raise ImportError("it was built from other sources than these: install symconv anew")
except ImportError as missing:
    _cpu = None
    WHY_NOT = f"the compiled module does not load ({missing})"
    warnings.warn(
        f"local and sparse layers run on plain torch: {WHY_NOT}. symconv.kernels.info() tells what "
        "is in use; installing symconv where a C++ compiler is builds the module",
        RuntimeWarning,
        stacklevel=2,
    )
else:
    SET, THREADS = _cpu.instruction_sets()[0], _cpu.has_threads()

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}

MOST = 1 << 52  # entries of a tensor and of its laid out copy that still have a 64-bit address
LARGE = 1 << 20  # bytes from which results lie in memory of the extension: see cpu/memory.h


def serves(x: Tensor) -> bool:
    """Are there compiled kernels for x's device and type?"""
    return SET != "" and x.device.type == "cpu" and x.dtype in TYPES


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous tensor of `like`'s type, not filled.

    Raises:
        StructureError: It would have more entries than can be addressed.
    """
    if math.prod(shape) >= MOST:  # results of expanded tensors: more than memory holds
        raise StructureError(f"a result of fewer than {MOST} entries", f"shape {tuple(shape)}")
    if math.prod(shape) * like.element_size() < LARGE:
        return like.new_empty(shape)
    return torch.from_dlpack(_cpu.empty(TYPES[like.dtype], list(shape)))


def in_large_pages(tensor: Tensor) -> Tensor:
    """A tensor like this one, not filled, where reading it is quickest; or the tensor itself."""
    plain = type(tensor) is Tensor and serves(tensor)  # not a compiler's stand-in for one
    return empty(tensor, tensor.shape) if plain else tensor


def address(tensor: Tensor | None) -> int:
    """Where the tensor's data begins, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def check(like: Tensor, *operands: Tensor | None) -> None:
    """Are the operands of one type and on the processor? The kernels take it on trust.

    Raises:
        StructureError: They are not.
    """
    for operand in operands:
        if operand is not None and (operand.dtype != like.dtype or operand.device != like.device):
            raise StructureError(
                f"operands of type {like.dtype} on {like.device}",
                f"{operand.dtype} on {operand.device}",
            )
