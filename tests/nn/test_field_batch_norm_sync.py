"""Batch norm over several processes equals batch norm over the joined batch."""

import multiprocessing

import pytest
import torch
from torch import distributed

import symconv as sc
from nn.synced import FIELDS, SPLIT, batch, process, run


@pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_equal_one(tmp_path):
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of others
    queue = context.Queue()
    workers = [
        context.Process(target=process, args=(rank, tmp_path / "store", queue)) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in range(len(SPLIT) * len(FIELDS) * 2)]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    for field in FIELDS:
        x, target = batch(field), batch(field).flip(0)
        together = run(sc.nn.FieldBatchNorm(field).double(), x, target)
        for rank, part in enumerate(x.split(SPLIT)):
            alone = run(sc.nn.FieldBatchNorm(field).double(), part, target.split(SPLIT)[rank])
            for sync, whole in ((True, together), (False, alone)):
                mine = [a for a in answers if a[:3] == (rank, str(field), sync)]
                (_, _, _, (grad, _, _), state) = mine[0]
                wanted = whole[0].split(SPLIT)[rank] if sync else whole[0]
                torch.testing.assert_close(torch.tensor(grad, dtype=torch.float64), wanted)
                for name, value in whole[2].items():
                    torch.testing.assert_close(torch.tensor(state[name], dtype=value.dtype), value)
        grads = [a[3] for a in answers if a[1:3] == (str(field), True)]
        for _, _, mean in grads:  # DDP takes the mean over processes of what each sums up
            total = torch.tensor(mean, dtype=torch.float64) * len(SPLIT)
            torch.testing.assert_close(total, together[1])
        parts = [torch.tensor(own, dtype=torch.float64) for _, own, _ in grads]
        torch.testing.assert_close(sum(parts), together[1])
        apart = [a[3][0] for a in answers if a[1:3] == (str(field), False)]
        assert apart[0] != grads[0][0]  # statistics apart give other gradients
