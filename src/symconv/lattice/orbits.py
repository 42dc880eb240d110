"""Sharing is symmetry: connections that a symmetry maps onto each other hold one weight.

Let a group act on the connections of a linear map y = W x. The map commutes with the group exactly
when W takes the same value along every orbit, so each orbit is one free weight. Where the group
also flips signs (a signed representation), the members of an orbit carry a sign, and an orbit that
maps a connection onto minus itself forces that weight to zero.

No symmetry gives dense, sparse and locally connected layers; all translations give convolution;
translations by a tile give tiled convolution; translations within a region give region
convolution; the point group acting on one window gives group convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from symconv.errors import StructureError
from symconv.lattice.representations import Field

ABSENT = -1  # in a permutation: no image; in a weight table: forced to zero


@dataclass(frozen=True, eq=False)
class Orbits:
    """Which free weight each connection holds, and with which sign.

    Attributes:
        weight: Orbit number of each connection, in order of first appearance; `ABSENT` where the
            symmetry forces zero.
        sign: +1 or -1; 0 where forced to zero. The first connection of an orbit has +1.
        count: Number of orbits: the free weights.
    """

    weight: np.ndarray
    sign: np.ndarray
    count: int


def orbits(
    connections: int,
    permutations: Sequence[np.ndarray],
    signs: Sequence[np.ndarray] | None = None,
) -> Orbits:
    """Orbits of `connections` items under the group that signed permutations generate.

    Each item c gets two nodes, (c, +) and (c, -); a generator that maps c to s * p(c) joins
    (c, +) to (p(c), s) and (c, -) to (p(c), -s). Connected components of this *signed double
    cover* are the signed orbits: an item whose two nodes meet equals its own negative, hence zero.
    Generators suffice: a component is closed under all that they compose to.

    Args:
        connections: Number of items.
        permutations: One integer array of length `connections` per generator: the image of each
            item. `ABSENT` where a partial symmetry (translations inside a region, or up to a
            border) has no image.
        signs: One array of +1 and -1 per generator; all +1 if left out.

    Raises:
        StructureError: An array has another length, or an image lies outside the items.

    Example:
        A window of 3 taps under the mirror: the outer taps share a weight. Under the mirror with
        a sign (an odd filter), the middle one is forced to zero.

        >>> orbits(3, [np.array([2, 1, 0])])
        Orbits(weight=array([0, 1, 0]), sign=array([1, 1, 1]), count=2)
        >>> orbits(3, [np.array([2, 1, 0])], [np.array([-1, -1, -1])])
        Orbits(weight=array([ 0, -1,  0]), sign=array([ 1,  0, -1]), count=1)

    References:
        Cohen, Welling, Group Equivariant Convolutional Networks (2016); Ravanbakhsh, Schneider,
        Poczos, Equivariance Through Parameter-Sharing (2017), theorem 4.1.
    """
    signs = [np.ones(connections, np.int64)] * len(permutations) if signs is None else signs
    item = np.arange(connections)
    targets = np.empty((2 * connections, len(permutations)), np.int64)
    for column, image, sign in zip(targets.T, permutations, signs, strict=True):
        _check_generator(connections, image, sign)
        there = np.where(image == ABSENT, item, image)
        crosses = (sign < 0) & (image != ABSENT)
        column[:connections] = there + crosses * connections
        column[connections:] = there + ~crosses * connections
    nodes, steps = targets.shape
    rows = np.arange(nodes + 1) * steps
    graph = csr_array((np.ones(targets.size), targets.ravel(), rows), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    return _number(component[:connections], component[connections:])


def _check_generator(connections: int, image: np.ndarray, sign: np.ndarray) -> None:
    if len(image) != connections or len(sign) != connections:
        raise StructureError(
            f"one image and one sign for each of {connections} connections",
            f"{len(image)} images and {len(sign)} signs",
        )
    if connections and (image.min() < ABSENT or image.max() >= connections):
        raise StructureError(
            f"images from 0 to {connections - 1}, or {ABSENT} for none",
            f"images from {image.min()} to {image.max()}",
        )


def _number(plus: np.ndarray, minus: np.ndarray) -> Orbits:
    """Number the orbits by first appearance from the components of the double cover."""
    free = plus != minus
    either = np.minimum(plus, minus)  # one name for an orbit and its negative
    names, first, inverse = np.unique(either[free], return_index=True, return_inverse=True)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(first)] = np.arange(len(names))
    weight = np.full(len(plus), ABSENT)
    weight[free] = rank[inverse]
    positive = plus[free][first]  # the sheet on which the orbit's first connection lies
    sign = np.zeros(len(plus), np.int64)
    sign[free] = np.where(plus[free] == positive[inverse], 1, -1)
    return Orbits(weight, sign, len(names))


def filter_orbits(in_field: Field, out_field: Field, kernel_size: Sequence[int]) -> Orbits:
    """Free weights of a filter that is equivariant between two fields.

    A connection (output channel, input channel, tap) is moved by a group element g to
    (g output channel, g input channel, g tap), with the product of the two representations' signs.
    Taps lie at doubled, centred coordinates, so that even kernels have exact integer positions too.

    Args:
        in_field: Field of the input.
        out_field: Field of the output, over the same group.
        kernel_size: Taps per axis. A group off the lattice moves taps onto taps for kernel 1 only
            (`steerable` serves the others).

    Returns:
        Orbits over the flattened (out channels, in channels, *kernel_size).

    Raises:
        StructureError: The fields have different groups, the kernel another dimension, or the
            group exchanges axes of different lengths.

    Example:
        >>> from symconv.lattice.groups import cyclic
        >>> C4 = cyclic(4)
        >>> filter_orbits(C4.trivial(1), C4.trivial(1), (3, 3)).weight.reshape(3, 3)
        array([[0, 1, 0],
               [1, 2, 1],
               [0, 1, 0]])
    """
    group, kernel = in_field.group, np.asarray(kernel_size)
    if out_field.group != group:
        raise StructureError("two fields of one group", f"{group} and {out_field.group}")
    if len(kernel) != group.dimension:
        raise StructureError(f"a kernel of {group.dimension} axes for {group}", tuple(kernel_size))
    axes = np.indices(tuple(kernel_size)).reshape(len(kernel), -1).T
    centred = 2 * axes - (kernel - 1)
    shape = (out_field.channels, in_field.channels, len(axes))
    images, signs = [], []
    for g in group.generators:
        moved = np.rint(centred @ group.matrices[g].T).astype(np.int64)
        if not group.keeps(kernel.tolist()):
            raise StructureError(
                f"a kernel of equal lengths on the axes that {group} exchanges", tuple(kernel_size)
            )
        tap = np.ravel_multi_index(tuple(((moved + kernel - 1) // 2).T), tuple(kernel))
        out, into = out_field.permutation[g], in_field.permutation[g]
        image = np.ravel_multi_index(np.ix_(out, into, tap), shape)
        sign = np.multiply.outer(out_field.signs[g], in_field.signs[g])[..., None]
        images.append(image.ravel())
        signs.append(np.broadcast_to(sign, shape).ravel())
    return orbits(int(np.prod(shape)), images, signs)
