"""Optional packages: imported when needed, and named with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """An optional package is not installed; the message holds the pip line."""


def needs(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: Dotted name of the module.
        extra: The extra of symconv that installs it.
        purpose: What needs it, in a few words.

    Raises:
        MissingExtraError: The module is not installed.

    Example:
        >>> needs("json", "demo", "this example").__name__
        'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but fails on an import of its own is another matter.
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}: pip install 'symconv[{extra}]'"
        ) from None
