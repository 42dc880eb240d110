"""One process of the test of synchronised batch norm, importable by a spawned interpreter."""

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import symconv as sc

D4 = sc.groups.parse("D4")
FIELDS = [D4.regular(2) + D4.trivial(1), D4.vector(2) + D4.regular(1)]
SPLIT = (3, 2)  # unequal batches


def batch(field):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(SPLIT), field.channels, 4, 4, generator=generator, dtype=torch.float64)


def loss(layer, x, target):
    return ((layer(x) - target) ** 3).sum()


def run(layer, x, target):
    """Gradients and statistics after one backward pass."""
    x = x.clone().requires_grad_()
    loss(layer, x, target).backward()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    return x.grad, layer.weight.grad, state


def process(rank, path, queue):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=len(SPLIT)
    )
    for field in FIELDS:
        x, target = (v.split(SPLIT)[rank] for v in (batch(field), batch(field).flip(0)))
        for sync in (True, False):
            layer = sc.nn.FieldBatchNorm(field, sync=sync).double()
            found = run(layer, x, target)
            wrapped = DistributedDataParallel(sc.nn.FieldBatchNorm(field, sync=sync).double())
            loss(wrapped, x, target).backward()
            mean = wrapped.module.weight.grad
            queue.put((rank, str(field), sync, [v.tolist() for v in (*found[:2], mean)],
                       {name: value.tolist() for name, value in found[2].items()}))  # fmt: skip
    distributed.destroy_process_group()
