import warnings
from itertools import islice

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    from symconv.train.loop import Recipe, batches, fit, scores


def blobs(count=120):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pictures = torch.randn(count, 1, 4, 4, generator=generator)
    pictures[:, 0, 0, :3] += 4 * nn.functional.one_hot(labels, 3)
    return pictures, labels


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
    )


def accuracy(model, pictures, labels):
    return (scores(model, pictures).argmax(1) == labels).float().mean()


def test_it_learns_and_an_untrained_network_has_not():
    pictures, labels = blobs()
    assert accuracy(network().eval(), pictures, labels) < 0.7
    fitted = fit(network(), pictures, labels, Recipe(steps=60, batch=30, learning_rate=0.01))
    assert accuracy(fitted.model, pictures, labels) > 0.95
    assert not fitted.model.training
    assert len(fitted.step_seconds) == 60


def test_the_seed_decides_everything():
    pictures, labels = blobs()
    weights = []
    for seed in (1, 1, 2):
        model = fit(network(), pictures, labels, Recipe(steps=5, batch=30, seed=seed)).model
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_augmentation_sees_every_batch_and_its_own_generator():
    pictures, labels = blobs()
    seen, draws = [], []

    def augment(batch, generator):
        seen.append(len(batch))
        draws.append(float(torch.rand((), generator=generator)))
        return batch

    fit(network(), pictures, labels, Recipe(steps=4, batch=30), augment)
    assert seen == [30] * 4
    assert len(set(draws)) == 4


def test_progress_counts_the_steps():
    pictures, labels = blobs()
    seen = []
    fit(network(), pictures, labels, Recipe(steps=3, batch=30), on_step=seen.append)
    assert seen == [1, 2, 3]


def test_batches_cover_an_epoch_once():
    stream = batches(10, 5, seed=0)
    first = torch.cat(list(islice(stream, 2)))
    second = torch.cat(list(islice(stream, 2)))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert len(next(batches(3, 8, seed=0))) == 3
