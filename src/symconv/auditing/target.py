"""What the command audits: a model named as `package.module:name`, or an exported program."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from symconv.errors import StructureError

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar")
_TARGET = "a target such as package.module:name or program.pt2"


def load(target: str, args: str | None = None) -> nn.Module | ExportedProgram:
    """The model that a target names: `package.module:name`, or a program saved by `torch.export`.

    A name is imported, which runs that module's code. It may be a module, or a class or function
    that returns one. A pickled model is never loaded.

    Args:
        target: Dotted module, colon, dotted attribute; or a path that ends in .pt2.
        args: JSON, an object of keyword arguments or a list of positional ones.

    Raises:
        StructureError: The target, its arguments or what it gives is not what is needed.
        RuntimeError: The code that is run fails.
    """
    module, colon, name = target.rpartition(":")
    path = Path(target)
    if path.suffix.lower() == ".pt2":
        if args is not None:
            raise StructureError("no --args for a program", args, "it is built already")
        return _program(path)
    if path.suffix.lower() in PICKLES:
        raise StructureError(
            _TARGET,
            f"the pickle {target}",
            "loading a pickle runs whatever it holds, so it is never done: name a function that "
            "builds the model and reads its weights by torch.load(path, weights_only=True)",
        )
    if not colon or not module or not name:
        raise StructureError(_TARGET, repr(target), "write the module, a colon and the name")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise StructureError(_TARGET, target, f"write it as it is imported: {dotted}:{name}")
    return _built(_named(_imported(module), module, name), target, args)


def _imported(module: str) -> Any:
    """The module, with the current directory on the path as for `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(f"{missing}.")):
            raise StructureError(
                f"a module that can be imported from {os.getcwd()}", repr(module)
            ) from None
        raise RuntimeError(f"importing {module} failed: {_said(error)}") from error


def _named(found: Any, module: str, name: str) -> Any:
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n, value in vars(found).items() if callable(value) and n[0] != "_"]
            near = difflib.get_close_matches(part, public, n=3, cutoff=0.5) or sorted(public)[:8]
            mend = f"there is {', '.join(near)}" if near else "it defines no class or function"
            raise StructureError(f"a name in {module}", repr(name), mend)
        found = getattr(found, part)
    return found


def _built(found: Any, target: str, args: str | None) -> nn.Module | ExportedProgram:
    if isinstance(found, (nn.Module, ExportedProgram)):
        if args is not None:
            raise StructureError(f"no --args: {target} is a model already", args)
        return found
    if not callable(found):
        raise StructureError(f"{target} to be a model, a class or a function", type(found).__name__)
    positional, named = _arguments(args)
    _check_arguments(found, target, positional, named)
    try:
        model = found(*positional, **named)
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"building {target} failed: {_said(error)}") from error
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise StructureError(f"{target} to return an nn.Module", type(model).__name__)
    return model


def _check_arguments(
    found: Any, target: str, positional: Sequence[Any], named: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(found)
    except ValueError:
        return  # written in C: there is none to look at
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        expected = f"arguments of {target}({', '.join(signature.parameters)})"
        got = json.dumps(named or positional) if named or positional else "none"
        raise StructureError(expected, got, f"{error}: see --args") from None


def _arguments(text: str | None) -> tuple[Sequence[Any], dict[str, Any]]:
    try:
        found = json.loads(text) if text is not None else {}
    except json.JSONDecodeError as error:
        raise StructureError(
            "--args in JSON", f"{text} ({error})", """such as --args '{"num_classes": 10}'"""
        ) from None
    if isinstance(found, dict):
        return (), found
    if isinstance(found, list):
        return found, {}
    raise StructureError("--args to be an object or a list", text)


def _said(error: BaseException) -> str:
    """Type and first line of an error: torch's go on for a page."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _program(path: Path) -> ExportedProgram:
    """A program saved by `torch.export.save`; tensors in it are read as weights only."""
    if not path.is_file():
        raise StructureError("a file", f"{path}, which is none")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise StructureError(
            "a program saved by torch.export.save", f"{path}, no archive"
        ) from None
    if any("aotinductor" in name or "/opaque_obj" in name for name in names):
        raise StructureError(
            "a program of torch's operations alone",
            f"{path}, which holds compiled code or pickled objects",
        )
    if not any("/models/" in name for name in names):
        raise StructureError(
            "a program saved by torch.export.save",
            f"{path}, which holds none",
            "write torch.export.save(torch.export.export(model.eval(), (x,)), path)",
        )
    with _weights_only():
        try:
            return torch.export.load(path)
        except Exception as error:
            raise RuntimeError(f"reading {path} failed: {_said(error)}") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Within, torch.load never unpickles more than tensors, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def example(text: str, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """An input of a shape, drawn at random.

    Pictures and volumes (two axes of space or more) get the amplitudes of natural images, 1 over
    the frequency, with variance 1; other inputs are normal numbers, whole numbers and
    truth values zeros and ones.

    Args:
        text: Sizes of one item joined by x; after a colon a type of its own: 3x224x224, 77:int64.
        batch: Items.
        dtype: The type where the text names none.
        seed: Of the values.

    Raises:
        StructureError: The text is no shape.

    Example:
        >>> example("3x8x8").shape, example("5:int64", batch=2).dtype
        (torch.Size([1, 3, 8, 8]), torch.int64)

    References:
        David Field, Relations between the Statistics of Natural Images and the Response Properties
        of Cortical Cells (1987).
    """
    match = re.fullmatch(r"(\d+(?:x\d+)*)(?::(\w+))?", text.strip())
    sizes = [int(part) for part in match[1].split("x")] if match else [0]
    if match is None or 0 in sizes:
        raise StructureError(
            "--input with positive sizes of one item joined by x, such as 3x224x224",
            repr(text),
            "the batch is added: see --batch",
        )
    if match[2]:
        dtype = type_named(match[2])
    generator = torch.Generator().manual_seed(seed)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, 2, (batch, *sizes), generator=generator).to(dtype)
    if dtype.is_complex:
        return torch.randn(batch, *sizes, generator=generator, dtype=dtype)
    x = torch.randn(batch, *sizes, generator=generator, dtype=torch.float64)
    return (_natural(x) if len(sizes) > 2 else x).to(dtype)


def _natural(x: Tensor) -> Tensor:
    """Noise (N, C, *S) with amplitudes of 1 over the frequency and variance 1."""
    axes = tuple(range(2, x.ndim))
    squares = torch.zeros(())
    for axis in axes:
        frequency = torch.fft.fftfreq(x.shape[axis], dtype=x.dtype).square()
        squares = squares + frequency.view(-1, *(1,) * (x.ndim - 1 - axis))
    least = squares[squares > 0].min() if (squares > 0).any() else torch.ones(())
    weight = squares.clamp(min=float(least)).rsqrt()
    y = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * weight, dim=axes).real
    deviation = y.std(axes, keepdim=True, correction=0)
    return y / deviation.clamp(min=torch.finfo(y.dtype).tiny)


def type_named(name: str) -> torch.dtype:
    """A type of torch by its name.

    Raises:
        StructureError: There is none.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise StructureError("a type of torch such as float32 or int64", repr(name))
    return found
