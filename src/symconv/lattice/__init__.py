"""Floor 0: exact integers. Windows, signed permutation groups, representations and orbits."""

from symconv.lattice import groups
from symconv.lattice.groups import Element, Group
from symconv.lattice.orbits import Orbits, filter_orbits, orbits
from symconv.lattice.representations import Field, Representation
from symconv.lattice.windows import PADDING_MODES, Window
from symconv.lattice.wiring import Connections

__all__ = [
    "PADDING_MODES",
    "Connections",
    "Element",
    "Field",
    "Group",
    "Orbits",
    "Representation",
    "Window",
    "filter_orbits",
    "groups",
    "orbits",
]
