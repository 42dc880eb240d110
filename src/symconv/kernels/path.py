"""Which code serves a call: compiled for the processor, Triton for a GPU, or plain torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from symconv.errors import StructureError
from symconv.kernels import native

PATHS = ("auto", "reference", "native", "triton")

_wanted: ContextVar[str] = ContextVar("symconv_path", default="auto")


@contextmanager
def use(path: str) -> Iterator[None]:
    """Serve the calls made inside by one path.

    Args:
        path: "auto" (the quickest that can, as outside), "reference" (plain torch), "native" (the
            compiled kernels) or "triton". A backward pass takes the path in force where it runs:
            on a GPU, in a thread of torch's own, that is "auto".

    Raises:
        StructureError: The path has another name, or (at a call) cannot serve it.

    Example:
        >>> import symconv as sc
        >>> layer, x = sc.nn.LocallyConnected1d(2, 3, 3, input_size=9), torch.randn(4, 2, 9)
        >>> with sc.kernels.use("reference"):
        ...     plain = layer(x)
        >>> torch.allclose(layer(x), plain, atol=1e-6)
        True
    """
    if path not in PATHS:
        raise StructureError(f"a path among {', '.join(PATHS)}", repr(path))
    token = _wanted.set(path)
    try:
        yield
    finally:
        _wanted.reset(token)


def choose(x: Tensor) -> str:
    """The path for operands of x's device and type: "native", "triton" or "reference".

    Raises:
        StructureError: The path that was asked for cannot serve them.
    """
    wanted = _wanted.get()
    on_gpu = x.device.type == "cuda" or (x.device.type == "cpu" and wanted == "triton" and _dry())
    if wanted == "reference":
        return wanted
    if native.serves(x) and wanted in ("auto", "native"):
        return "native"
    floating = x.dtype in native.TYPES or x.dtype == torch.float16
    if on_gpu and floating and wanted in ("auto", "triton") and not _triton_why_not():
        return "triton"
    if wanted == "auto":
        return "reference"
    can = f"{wanted} kernels for {x.dtype} on {x.device.type}"
    raise StructureError(can, info()[wanted], 'leave the path at "auto" or "reference"')


@cache
def _triton_why_not() -> str:
    """Why Triton's kernels cannot be used, or ""; imports triton, so asked late."""
    if find_spec("triton") is None:
        return "not installed"
    from symconv.kernels.triton import WHY_NOT  # an optional dependency

    return WHY_NOT


def _dry() -> bool:
    """Is Triton's interpreter on, which runs its kernels without a GPU?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


def info() -> dict[str, Any]:
    """What the kernels run on here.

    Returns:
        "native": the instruction set of the compiled kernels, or why there are none; "threads":
        how many they use; "triton": whether it can be imported; "path": the path in force.

    Example:
        >>> import symconv as sc
        >>> sorted(sc.kernels.info())
        ['native', 'path', 'threads', 'triton']
    """
    return {
        "path": _wanted.get(),
        "native": native.SET or f"not in use: {native.WHY_NOT}",
        "threads": torch.get_num_threads() if native.THREADS else 1,
        "triton": "installed" if find_spec("triton") else "not installed",
    }


def release() -> None:
    """Give memory that the compiled kernels keep for their next call back to the system.

    They keep what results took at most at one time, so that the gradients of a training step lie
    where those of the last step lay: fresh memory costs more than the arithmetic.
    """
    if native.SET:
        native._cpu.release()
