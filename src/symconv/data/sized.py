"""Batches of pictures of many sizes: how a DataLoader collates them, and which go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler
from torch.utils.data._utils.collate import collate as by_type
from torch.utils.data._utils.collate import default_collate_fn_map

from symconv.errors import StructureError
from symconv.ragged import Ragged


def collate(samples: Sequence[Any], multiple_of: int = 1) -> Any:
    """Joins samples to a batch as torch's `default_collate`, but maps of any size to a `Ragged`.

    A tensor with two axes or more is a map (channels, *S) and goes into a `Ragged`, even where all
    sizes agree; numbers, tensors with one axis or none, strings, and what holds them (tuples,
    dictionaries) are joined as always. Exact: nothing is resized or cropped.

    Args:
        samples: What the dataset gave, each of the same make.
        multiple_of: Canvases have sizes of multiples of this; see `Ragged`.

    Raises:
        StructureError: The maps differ in their axes, channels, type or device.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> pictures = [(torch.zeros(3, 20 + i, 30), i % 2) for i in range(4)]
        >>> images, labels = next(iter(DataLoader(pictures, batch_size=4, collate_fn=collate)))
        >>> [tuple(size) for size in images.sizes], labels
        ([(20, 30), (21, 30), (22, 30), (23, 30)], tensor([0, 1, 0, 1]))
    """
    stack = default_collate_fn_map[Tensor]

    def tensors(batch: Sequence[Tensor], *, collate_fn_map: Any = None) -> Any:
        if all(item.ndim < 2 for item in batch):
            return stack(batch, collate_fn_map=collate_fn_map)
        return Ragged(list(batch), multiple_of=multiple_of)

    joined: dict[Any, Any] = {**default_collate_fn_map, Tensor: tensors}
    return by_type(samples, collate_fn_map=joined)


class SizeBatchSampler(Sampler[list[int]]):
    r"""Batches of a dataset whose items have many sizes: as many of them as fit a bound on cells.

    The items are put into a random order and cut into pools of `pool` items; each pool is sorted by
    size, and the whole is cut into batches of up to `max_cells`, which are put into a random order
    again. Large items come in small batches, small ones in large batches: a training step holds
    about as much memory whatever the size of its items.

    The cells of a batch are counted as if it lay on one canvas, its length times the largest size
    along every axis. However a `Ragged` packs the batch, it holds no more.

    A large pool makes batches of similar sizes, quick to compute; `pool=1` mixes sizes as chance
    has it, so that batch statistics and gradients do not go with the size.

    Args:
        sizes: The size of every item of the dataset, a tuple over its axes of space (or a number).
        max_cells: Bound on the cells of a batch, channels not counted.
        max_items: Bound on the items of a batch; None for none.
        pool: Items that are sorted together; None for all of them.
        shuffle: Draw the orders anew in each epoch; otherwise the batches are always the same.
        multiple_of: Sizes are rounded up to multiples of this, as a `Ragged` does.
        seed: Of the random orders.
        rank: This process, where several share the batches.
        replicas: Number of such processes. All of them get equally many batches: some come twice
            where their number does not divide.

    Attributes:
        epoch: The epoch that comes next, counted from 0; set it to repeat or to resume one.

    Raises:
        StructureError: There are no sizes, they differ in their axes, a number is out of range, or
            an item has more cells than `max_cells` by itself.

    Example:
        >>> sampler = SizeBatchSampler([(8, 8)] * 6 + [(16, 16)] * 2, max_cells=256)
        >>> sorted(len(batch) for batch in sampler)
        [1, 1, 2, 4]
    """

    def __init__(
        self,
        sizes: Sequence[Any],
        max_cells: int,
        *,
        max_items: int | None = None,
        pool: int | None = None,
        shuffle: bool = True,
        multiple_of: int = 1,
        seed: int = 0,
        rank: int = 0,
        replicas: int = 1,
    ):
        self.max_cells = _whole(max_cells, "max_cells")
        self.max_items = None if max_items is None else _whole(max_items, "max_items")
        step = _whole(multiple_of, "multiple_of")
        self._sizes = -(-_array(sizes) // step) * step
        self.pool = len(self._sizes) if pool is None else _whole(pool, "pool")
        self.shuffle, self.seed, self.epoch = shuffle, _whole(seed, "seed", 0), 0
        self.replicas, self.rank = _whole(replicas, "replicas"), _whole(rank, "rank", 0)
        if rank >= replicas:
            raise StructureError(f"a rank below the {replicas} replicas", rank)
        cells = self._sizes.prod(1)
        if (most := int(cells.max())) > max_cells:
            item = int(cells.argmax())
            raise StructureError(
                f"items of at most max_cells={max_cells} cells",
                f"{most} cells in item {item} of size {tuple(self._sizes[item].tolist())}",
                "raise max_cells, or crop or leave out such items",
            )

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the next epoch, lists of indices of the dataset."""
        batches = self._batches()
        self.epoch += 1
        yield from batches

    def __len__(self) -> int:
        """Batches of the next epoch; their number may differ between epochs."""
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        """The batches of this process in epoch `epoch`."""
        random, count = np.random.default_rng((self.seed, self.epoch)), len(self._sizes)
        order = random.permutation(count) if self.shuffle else np.arange(count)
        pools = []
        for number, start in enumerate(range(0, count, self.pool)):
            pool = order[start : start + self.pool]
            pool = pool[_by_size(self._sizes[pool])]
            pools.append(pool[::-1] if number % 2 else pool)  # up and down: no jumps between pools
        batches = list(self._cut(np.concatenate(pools)))
        if self.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        missing = -len(batches) % self.replicas
        batches += (batches * (missing // len(batches) + 1))[:missing]
        return batches[self.rank :: self.replicas]

    def _cut(self, order: NDArray) -> Iterator[list[int]]:
        """Consecutive items as long as they keep to the bounds."""
        batch: list[int] = []
        canvas: tuple[int, ...] = ()
        for item, size in zip(order.tolist(), self._sizes[order].tolist(), strict=True):
            wider = tuple(map(max, canvas, size)) if batch else tuple(size)
            full = len(batch) == self.max_items
            if batch and (full or (len(batch) + 1) * math.prod(wider) > self.max_cells):
                yield batch
                batch, wider = [], tuple(size)
            batch.append(item)
            canvas = wider
        yield batch


def _by_size(sizes: NDArray) -> NDArray:
    """An order in which neighbours have similar sizes along every axis.

    Half octaves of the first axes, then the last axis: sorted by their cells alone, wide items
    would lie beside tall ones, and share canvases that are mostly empty.
    """
    first = np.round(2 * np.log2(sizes[:, :-1]))
    return np.lexsort([sizes[:, -1], *first.T[::-1]])


def _whole(value: Any, name: str, least: int = 1) -> int:
    """`value`, if it is an integer of at least `least`."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise StructureError(f"{name} as an integer of at least {least}", repr(value))
    return int(value)


def _array(sizes: Sequence[Any]) -> NDArray:
    """Sizes (N, axes) as integers."""
    wanted = "sizes as one tuple of positive integers per item, all over the same axes"
    rows = [tuple(size) if isinstance(size, Iterable) else (size,) for size in sizes]
    if not rows:
        raise StructureError(wanted, "no sizes", "an empty dataset has no batches")
    for item, row in enumerate(rows):
        whole = all(isinstance(s, (int, np.integer)) and s > 0 for s in row)
        if not row or not whole or len(row) != len(rows[0]):
            raise StructureError(wanted, f"{sizes[item]!r} for item {item}")
    return np.array(rows, dtype=np.int64)
