"""Optional packages: imported when needed, and named with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
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
        raise _missing(module.split(".")[0], extra, purpose) from None


def require(package: str, extra: str, purpose: str) -> None:
    """Say which extra brings a package that is not installed, without importing one that is.

    Args:
        package: Name of the top-level package.
        extra: The extra of symconv that installs it.
        purpose: What needs it, in a few words.

    Raises:
        MissingExtraError: The package is not installed.

    Example:
        >>> require("json", "demo", "this example")
    """
    if find_spec(package) is None:
        raise _missing(package, extra, purpose)


def _missing(package: str, extra: str, purpose: str) -> MissingExtraError:
    return MissingExtraError(f"{purpose} needs {package}: pip install 'symconv[{extra}]'")
