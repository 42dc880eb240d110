"""One call of a model: what the audit measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from symconv.auditing.state import left_as_found
from symconv.errors import StructureError


class ModelError(StructureError):
    """The model fails in its own forward on the input given."""


@dataclass(frozen=True, eq=False)
class Call:
    """A model with the arguments of one call.

    Attributes:
        model: The module to call; of an exported program, the module that runs it.
        args: Positional arguments.
        kwargs: Arguments by name.
        program: The exported program that the model came from, if it came from one.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    program: torch.export.ExportedProgram | None = None

    @classmethod
    def of(cls, model: Any, x: Any) -> Call:
        """Make a call from a model and its input in any of the usual forms.

        Args:
            model: A module, or a program that `torch.export` made.
            x: A tensor; or a tuple or list of positional arguments; or a dictionary of arguments
                by name.

        Raises:
            StructureError: The model or the input is none of these, or it has lazy layers that
                were never called.

        Example:
            >>> Call.of(nn.Linear(3, 2), torch.zeros(1, 3)).run().shape
            torch.Size([1, 2])
        """
        program = model if isinstance(model, torch.export.ExportedProgram) else None
        module = program.module() if program else model
        if not isinstance(module, nn.Module):
            mend = "build it first: audit(Net(), x)" if isinstance(model, type) else None
            raise StructureError("a torch.nn.Module or an exported program", _named(model), mend)
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            mend = "call it once, so that its lazy layers know their sizes"
            raise StructureError("a model whose parameters exist", _named(model), mend)
        if isinstance(x, Tensor):
            return cls(module, (x,), {}, program)
        if isinstance(x, Mapping) and x and all(isinstance(name, str) for name in x):
            return cls(module, (), dict(x), program)
        if isinstance(x, (tuple, list)) and x:
            return cls(module, tuple(x), {}, program)
        raise StructureError(
            "a tensor, a tuple of arguments or a dictionary of arguments by name",
            _named(x),
            "torch.randn(1, 3, 224, 224) makes an example picture",
        )

    def run(self) -> Any:
        """Call the model as it is, on the arguments as they are."""
        return self.model(*self.args, **self.kwargs)

    def check(self) -> None:
        """Call the model once, in evaluation mode and without a trace.

        Raises:
            ModelError: It fails.
        """
        with left_as_found(self.model), torch.no_grad():
            try:
                self.run()
            except Exception as error:
                raise ModelError(
                    f"an input that {type(self.model).__name__} takes",
                    f"{self.describe()}, on which it raises {type(error).__name__}: "
                    + (str(error).strip().splitlines() or [""])[0],
                    "call the model on it yourself to see where",
                ) from error

    def replaced(self, *args: Any, **kwargs: Any) -> Call:
        """The same model with other arguments."""
        return Call(self.model, args, kwargs, self.program)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor among the arguments, with its path ("0", "mask", "0.boxes")."""
        return tensors_of([*self.args]) + tensors_of(self.kwargs)

    def describe(self) -> str:
        """The input in one line.

        Example:
            >>> Call.of(nn.Identity(), torch.zeros(1, 3, 8, 8)).describe()
            '1x3x8x8 float32'
        """
        found = self.tensors()
        if not found:
            return f"no tensor but {_named(self.args or self.kwargs)}"
        shown = [
            f"{'x'.join(map(str, t.shape)) or 'scalar'} {str(t.dtype).removeprefix('torch.')}"
            for _, t in found
        ]
        if len(found) == 1 and not self.kwargs:
            return shown[0]
        return ", ".join(f"{path}: {s}" for (path, _), s in zip(found, shown, strict=True))


def tensors_of(output: Any) -> list[tuple[str, Tensor]]:
    """Every tensor in a nest of tuples, lists, dictionaries and dataclasses, with its path.

    The path of a bare tensor is "". What is no tensor is left out.

    Example:
        >>> out = {"scores": torch.zeros(1), "maps": (torch.zeros(2), torch.zeros(3))}
        >>> [(path, len(t)) for path, t in tensors_of(out)]
        [('scores', 1), ('maps.0', 2), ('maps.1', 3)]
    """
    return list(_walk(output, ""))


def _walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        parts = [(str(name), part) for name, part in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = list(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    elif isinstance(value, (tuple, list)):
        parts = [(str(i), part) for i, part in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    else:
        return
    for name, part in parts:
        yield from _walk(part, f"{path}.{name}" if path else name)


def _named(value: object) -> str:
    """A value that does not fit, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
