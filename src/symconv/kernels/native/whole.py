"""Is a compiled module whole? Loading one that was cut short kills the process."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path


def refuse_cut_short(module: str) -> None:
    """Looks at the length that an ELF file, as Linux loads it, says it has.

    Raises:
        ImportError: The file of the module is shorter: its build or installation was interrupted.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return  # importing it says so
    file = Path(spec.origin)
    with file.open("rb") as stream:
        head = stream.read(64)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return
    # The table of sections comes last: where it begins, the size of an entry, how many.
    (begin,) = struct.unpack_from("<Q", head, 40)
    size, count = struct.unpack_from("<HH", head, 58)
    if file.stat().st_size < begin + size * count:
        raise ImportError(f"{file.name} is cut short: install symconv again")
