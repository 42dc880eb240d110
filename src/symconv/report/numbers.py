"""Numbers in few characters."""

from __future__ import annotations


def short(number: float) -> str:
    """A count with three digits.

    Example:
        >>> [short(n) for n in (7, 765.444, 1234, 64482, 1724944, 2_500_000_000)]
        ['7', '765', '1.23k', '64.5k', '1.72M', '2.5G']
    """
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{float(f'{number / limit:.3g}'):g}{unit}"
    return f"{number:.3g}"
