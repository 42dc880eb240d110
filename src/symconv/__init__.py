"""symconv: choose the structure of a PyTorch layer.

Which inputs an output sees, which connections share one weight, which symmetries the layer
commutes with. Names are resolved when first used, so that `symconv --help` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symconv import conversion, data, export, functional, kernels, models, nn, testing
    from symconv.auditing import audit
    from symconv.comparison import compare
    from symconv.conversion import antialias, symmetrize
    from symconv.errors import StructureError
    from symconv.lattice import groups
    from symconv.ragged import Ragged
    from symconv.structure import Structure
    from symconv.transforms import act, rescale, rotate, translate

__version__ = "0.1.0"

_HOMES = {  # public name -> the module that holds it; None: the name is a module itself
    "Ragged": "symconv.ragged",
    "Structure": "symconv.structure",
    "StructureError": "symconv.errors",
    "act": "symconv.transforms",
    "antialias": "symconv.conversion",
    "audit": "symconv.auditing",
    "compare": "symconv.comparison",
    "conversion": None,
    "data": None,
    "export": None,
    "functional": None,
    "groups": "symconv.lattice",
    "kernels": None,
    "models": None,
    "nn": None,
    "rescale": "symconv.transforms",
    "rotate": "symconv.transforms",
    "symmetrize": "symconv.conversion",
    "testing": None,
    "translate": "symconv.transforms",
}

__all__ = [
    "Ragged",
    "Structure",
    "StructureError",
    "__version__",
    "act",
    "antialias",
    "audit",
    "compare",
    "conversion",
    "data",
    "export",
    "functional",
    "groups",
    "kernels",
    "models",
    "nn",
    "rescale",
    "rotate",
    "symmetrize",
    "testing",
    "translate",
]


def __getattr__(name: str) -> object:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'symconv' has no attribute {name!r}")
    home = _HOMES[name]
    found = getattr(import_module(home), name) if home else import_module(f"symconv.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
