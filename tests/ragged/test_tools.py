"""Ragged batches under torch.compile, autocast, DistributedDataParallel and fixed-size layers."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import symconv as sc
from ragged.alone import assert_alone, error, items_of


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


SIZES = [
    [(33, 40), (20, 61), (17, 17)],
    [(60, 33), (64, 50), (40, 31), (25, 30)],
    [(50, 33), (33, 34), (55, 34), (64, 64), (18, 18)],
    [(18, 17), (61, 64)],
]


class Counted:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


@pytest.mark.parametrize("train", [False, True])
def test_one_compiled_graph_serves_every_size(train):
    torch._dynamo.reset()
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)).double().train(train)
    count = Counted()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for sizes in SIZES:
        items = items_of(sizes, channels=3)
        x = sc.Ragged(items, multiple_of=32)
        assert len(x.canvases) == 1
        got = compiled(x)
        model.load_state_dict(state)
        wanted = model(sc.Ragged(items))
        model.load_state_dict(state)
        assert error(got, wanted) < 1e-12
    assert count.graphs == 1


def test_compiled_maps_come_back_ragged():
    torch._dynamo.reset()

    def model(x):
        y = F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear")
        y = torch.cat([y, y.flatten(2).softmax(2).view(*y.shape)], 1)
        return F.pad(y[:, 1:] * y.mean((2, 3), keepdim=True)[:, 1:].sigmoid(), (1, 1, 1, 1))

    items = items_of([(8, 6), (12, 16), (30, 20)], channels=3)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for got, item in zip(compiled(sc.Ragged(items, multiple_of=16)), items, strict=True):
        assert error(got, model(item[None])[0]) < 1e-12


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_default_backend():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    compiled = torch.compile(model, fullgraph=True)
    items = items_of([(8, 6), (30, 20)], channels=3, dtype=torch.float32)
    got = compiled(sc.Ragged(items, multiple_of=32))
    wanted = torch.cat([model(item[None]) for item in items])
    assert error(got, wanted) < 1e-5


def test_gradients_through_a_compiled_network():
    torch._dynamo.reset()
    model = network()[:4].append(nn.AdaptiveAvgPool2d(2)).double().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    items = items_of([(33, 40), (20, 61)], channels=3)
    parameters = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(compiled(sc.Ragged(items, multiple_of=32)).square().sum(), parameters),
        torch.autograd.grad(model(sc.Ragged(items)).square().sum(), parameters),
        strict=True,
    )
    for got, wanted in pairs:
        assert error(got, wanted) < 1e-11


def test_autocast():
    model = network().eval()
    items = items_of([(33, 40), (20, 61), (90, 81)], channels=3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(sc.Ragged(items))
        wanted = torch.cat([model(item[None]) for item in items])
    assert got.dtype == wanted.dtype == torch.bfloat16
    assert error(got, wanted) < 3e-2
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(sc.Ragged(items))
        same = model(sc.Ragged([items[0]] * 2)) - model(torch.stack([items[0]] * 2))
    assert got.dtype == torch.bfloat16
    assert same.abs().max() < 0.1
    got.float().sum().backward()


def run(rank, port, results):
    """One of two processes: a training step, its gradients averaged."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(network().double().eval())
    items = items_of(SIZES[rank], channels=3, seed=rank)
    model(sc.Ragged(items)).square().sum().backward()
    results[rank] = [p.grad.clone() for p in model.module.parameters()]
    dist.destroy_process_group()


def test_distributed_data_parallel():
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        port = 29500 + os.getpid() % 2000
        torch.multiprocessing.spawn(run, (port, results), nprocs=2)
        model, losses = network().double().eval(), []
        for rank in range(2):
            items = items_of(SIZES[rank], channels=3, seed=rank)
            losses += [model(item[None]).square().sum() for item in items]
        wanted = torch.autograd.grad(sum(losses) / 2, list(model.parameters()))
        for rank in range(2):
            for one, other in zip(results[rank], wanted, strict=True):
                assert error(one, other) < 1e-11


def test_own_layers():
    group = sc.groups.parse("C4")
    plain, regular = group.trivial(3), group.regular(2)
    model = nn.Sequential(
        sc.nn.GroupConv2d(plain, regular, 3, padding=1), sc.nn.FieldBatchNorm(regular), nn.ReLU(),
        sc.nn.TiledConv2d(8, 8, 3, tile=2, padding=1, padding_mode="reflect"),
        sc.nn.GroupConv2d(regular, regular, 1), sc.nn.FieldLayerNorm(regular),
        sc.nn.PointwiseChain(sc.nn.GroupConv2d(regular, regular, 1)),
        sc.nn.GroupConvTranspose2d(regular, regular, 2, stride=2),
        sc.nn.GroupPool(regular), nn.AdaptiveMaxPool2d(2), nn.Flatten(),
    ).double().eval()  # fmt: skip
    items = items_of([(9, 7), (12, 12), (5, 14), (30, 8)], channels=3, grad=True)
    assert_alone(model, items, parameters=list(model.parameters()))
