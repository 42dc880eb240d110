"""From a dataset of many sizes to batches: collated by a DataLoader, bounded by a sampler."""

import functools
import itertools
import math
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import symconv as sc
from symconv.data import SizeBatchSampler, collate

SIDES = st.integers(1, 40)


@st.composite
def size_lists(draw):
    axes = draw(st.integers(1, 3))
    return draw(st.lists(st.tuples(*[SIDES] * axes), min_size=1, max_size=60))


@st.composite
def samplers(draw):
    sizes, step = draw(size_lists()), draw(st.integers(1, 8))
    least = max(math.prod(-(-s // step) * step for s in size) for size in sizes)
    options = dict(
        max_cells=least * draw(st.integers(1, 9)) + draw(st.integers(0, 5)),
        max_items=draw(st.one_of(st.none(), st.integers(1, 9))),
        pool=draw(st.one_of(st.none(), st.integers(1, 70))),
        shuffle=draw(st.booleans()),
        multiple_of=step,
        seed=draw(st.integers(0, 9)),
    )
    return sizes, options


def canvas(sizes, step=1):
    """Cells that a batch takes on one canvas."""
    largest = [max(axis) for axis in zip(*sizes, strict=True)]
    return len(sizes) * math.prod(math.ceil(s / step) * step for s in largest)


@given(samplers())
def test_every_item_comes_once_and_no_batch_is_too_large(case):
    sizes, options = case
    sampler = SizeBatchSampler(sizes, **options)
    for _ in range(2):
        expected = len(sampler)
        batches = list(sampler)
        assert len(batches) == expected
        assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
        for batch in batches:
            chosen = [sizes[i] for i in batch]
            assert 0 < canvas(chosen, options["multiple_of"]) <= options["max_cells"]
            assert len(batch) <= (options["max_items"] or len(batch))


@given(samplers())
def test_a_batch_ends_only_where_the_next_item_would_not_fit(case):
    sizes, options = case
    sampler = SizeBatchSampler(sizes, **options | {"shuffle": False})
    batches = list(sampler)
    for batch, after in itertools.pairwise(batches):
        more = canvas([sizes[i] for i in [*batch, after[0]]], options["multiple_of"])
        assert more > options["max_cells"] or len(batch) == options["max_items"]


@given(samplers(), st.integers(1, 7))
def test_replicas_share_the_batches_of_an_epoch(case, replicas):
    sizes, options = case
    whole = [frozenset(batch) for batch in SizeBatchSampler(sizes, **options)]
    shared = [
        [
            frozenset(batch)
            for batch in SizeBatchSampler(sizes, **options, rank=rank, replicas=replicas)
        ]
        for rank in range(replicas)
    ]
    assert len({len(batches) for batches in shared}) == 1
    assert {batch for batches in shared for batch in batches} == set(whole)
    assert len(shared[0]) == math.ceil(len(whole) / replicas)


def test_epochs_differ_and_can_be_repeated():
    sizes = np.random.default_rng(0).integers(8, 30, (50, 2))
    sampler = SizeBatchSampler(sizes, 2000, seed=3)
    first, second = list(sampler), list(sampler)
    assert first != second
    assert sampler.epoch == 2
    sampler.epoch = 0
    assert list(sampler) == first
    assert list(SizeBatchSampler(sizes, 2000, seed=4)) != first
    still = SizeBatchSampler(sizes, 2000, shuffle=False)
    assert list(still) == list(still)


def padding(batches, sizes):
    """Cells on the canvases per cell of the items."""
    held = sum(canvas([sizes[i] for i in batch]) for batch in batches)
    return held / sum(math.prod(size) for size in sizes)


def test_a_large_pool_saves_padding_and_a_pool_of_one_mixes_sizes():
    sizes = np.random.default_rng(0).integers(32, 256, (1000, 2)).tolist()
    alike, mixed = (list(SizeBatchSampler(sizes, 2**20, pool=pool)) for pool in (None, 1))
    assert padding(alike, sizes) < 1.5
    assert padding(mixed, sizes) > 2.5
    spread = [[np.std([math.prod(sizes[i]) for i in b]) for b in each] for each in (alike, mixed)]
    assert np.mean(spread[0]) < 0.5 * np.mean(spread[1])


def test_sorting_by_cells_alone_would_pad_more():
    """The negative control of how neighbours are found: tall beside wide."""
    sizes = np.random.default_rng(0).integers(32, 256, (1000, 2)).tolist()
    sizes.sort(key=math.prod)
    batches = SizeBatchSampler(sizes, 2**20, pool=1, shuffle=False)
    assert padding(list(batches), sizes) > 2


class Pictures(torch.utils.data.Dataset):
    """Pictures of many sizes, each filled with its index, and their labels."""

    sizes: tuple = tuple((4 + 3 * i % 11, 5 + 5 * i % 7) for i in range(12))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return torch.full((3, *self.sizes[i]), float(i)), i % 4


def check(images, labels, indices):
    assert isinstance(images, sc.Ragged)
    for image, label, i in zip(images.unbind(), labels, indices, strict=True):
        wanted, number = Pictures()[i]
        assert torch.equal(image, wanted)
        assert label == number


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_mixed_sizes_in_order(workers):
    pictures = Pictures()
    sampler = SizeBatchSampler(pictures.sizes, 400, seed=2)
    batches = list(sampler)
    sampler.epoch = 0
    context = multiprocessing.get_context("fork") if workers else None
    loader = DataLoader(
        pictures,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=context,
    )
    assert len(loader) == len(batches)
    for (images, labels), indices in zip(loader, batches, strict=True):
        check(images, labels, indices)


def test_what_is_no_map_is_joined_as_torch_joins_it():
    samples = [
        {
            "image": torch.full((1, 3 + i, 4), float(i)),
            "pair": (torch.ones(2, 5), i),
            "vector": torch.arange(3.0),
            "name": f"picture {i}",
            "score": 0.5 * i,
        }
        for i in range(3)
    ]
    batch = collate(samples)
    assert [x.shape for x in batch["image"].unbind()] == [(1, 3, 4), (1, 4, 4), (1, 5, 4)]
    assert isinstance(batch["pair"][0], sc.Ragged), "a map, though all sizes agree"
    plain = torch.utils.data.default_collate(
        [{k: v for k, v in sample.items() if k != "image"} for sample in samples]
    )
    assert torch.equal(batch["pair"][1], plain["pair"][1])
    assert torch.equal(batch["vector"], plain["vector"])
    assert batch["name"] == plain["name"]
    assert torch.equal(batch["score"], plain["score"])


def test_canvases_can_have_rounded_sizes():
    loader = DataLoader(
        Pictures(), batch_size=4, collate_fn=functools.partial(collate, multiple_of=8)
    )
    start = 0
    for images, labels in loader:
        check(images, labels, range(start, start + 4))
        start += 4
    assert start == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's driver pins memory")
def test_a_loader_pins_what_it_gives():
    loader = DataLoader(Pictures(), batch_size=4, collate_fn=collate, pin_memory=True)
    for number, (images, labels) in enumerate(loader):
        assert all(item.is_pinned() for item in images.unbind())
        check(images, labels, range(4 * number, 4 * number + 4))


def test_a_network_learns_from_a_loader():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        sc.nn.SpatialPyramidPool2d((1, 2)),
        torch.nn.Linear(40, 4),
    )
    sampler = SizeBatchSampler(Pictures.sizes, 600, pool=1)
    loader = DataLoader(Pictures(), batch_sampler=sampler, collate_fn=collate)
    optimiser = torch.optim.Adam(model.parameters(), 0.03)
    losses = []
    for _ in range(12):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SizeBatchSampler([], 100), "no sizes"),
        (lambda: SizeBatchSampler([(3, 4), (3, 4, 5)], 100), "item 1"),
        (lambda: SizeBatchSampler([(3, 4), (3, 0)], 100), "item 1"),
        (lambda: SizeBatchSampler([(3, 4), (3, 4.5)], 100), "item 1"),
        (lambda: SizeBatchSampler([(3, 4), None], 100), "item 1"),
        (lambda: SizeBatchSampler([(3, 4), (10, 11)], 100), "110 cells in item 1"),
        (lambda: SizeBatchSampler([(3, 4), (9, 9)], 100, multiple_of=8), "256 cells in item 1"),
        (lambda: SizeBatchSampler([(3, 4)], 0), "max_cells"),
        (lambda: SizeBatchSampler([(3, 4)], 100, max_items=0), "max_items"),
        (lambda: SizeBatchSampler([(3, 4)], 100, pool=0), "pool"),
        (lambda: SizeBatchSampler([(3, 4)], 100, pool=2.5), "pool"),
        (lambda: SizeBatchSampler([(3, 4)], 100, rank=2, replicas=2), "rank"),
        (lambda: SizeBatchSampler([(3, 4)], 100, seed=-1), "seed"),
        (lambda: collate([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)]), "channels"),
        (lambda: collate([torch.zeros(3, 4, 4), torch.zeros(4)]), "item 1"),
    ],
)
def test_bad_input_is_named(build, said):
    with pytest.raises(sc.StructureError, match=said):
        build()
