"""Functions on k positions per axis that filters of scale layers are made of."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from numpy.polynomial.hermite import hermval
from scipy.signal.windows import dpss

from symconv.errors import StructureError

_APART = 1e-6  # the weakest combination of functions over the strongest
BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # the binomial filter of the dyadic scale-space


@lru_cache(maxsize=64)
def functions(
    basis: str, kernel_size: tuple[int, ...], order: int, sigma: float, factor: float
) -> np.ndarray:
    """The basis (F, *kernel_size), each function of norm 1, products of functions of one axis.

    "hermite": Hermite polynomials times a Gaussian of standard deviation `sigma`; "discrete": the
    sequences of k values that hold most of their energy at frequencies below 1 / (2 factor), those
    that the next scale still has (Slepian); both up to a total order. "dyadic": every tap free.

    Raises:
        StructureError: On these taps the functions are copies of each other, or vanish.
    """
    if basis == "dyadic":
        return np.eye(prod(kernel_size)).reshape(-1, *kernel_size)
    axes = [
        _hermite(k, order, sigma) if basis == "hermite" else _slepian(k, order, factor)
        for k in kernel_size
    ]
    found = []
    for orders in product(*(range(len(axis)) for axis in axes)):
        if sum(orders) <= order:
            function = np.ones(())
            for axis, number in zip(axes, orders, strict=True):
                function = np.multiply.outer(function, axis[number])
            found.append(function)
    orders = product(*(range(min(order + 1, k)) for k in kernel_size))
    wanted = sum(sum(numbers) <= order for numbers in orders)
    strengths = np.linalg.svd(np.stack(found).reshape(len(found), -1), compute_uv=False)
    if len(found) < wanted or strengths[-1] < _APART * strengths[0]:
        raise StructureError(
            f"{wanted} different functions on {' x '.join(map(str, kernel_size))} taps",
            f"sigma={sigma:g} and order={order}, for which they are not",
            "take a sigma nearer to a quarter of the taps a side, or a lower order",
        )
    return np.stack(found)


def _hermite(k: int, order: int, sigma: float) -> np.ndarray:
    at = (np.arange(k) - (k - 1) / 2) / sigma
    rows = [hermval(at, np.eye(order + 1)[n]) * np.exp(-(at**2) / 2) for n in range(order + 1)]
    return np.stack([row / np.linalg.norm(row) for row in rows[:k] if np.linalg.norm(row) > 1e-9])


def _slepian(k: int, order: int, factor: float) -> np.ndarray:
    if k == 1:
        return np.ones((1, 1))
    return np.asarray(dpss(k, min(k / (2 * factor), 0.499 * k), min(order + 1, k), norm=2))
