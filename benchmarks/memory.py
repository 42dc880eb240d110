"""What a training step holds at its peak beside operands and gradients; Linux, glibc."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timing import resident, step
from torch import Tensor, nn

# Blocks of this size and more go back to the system when they are freed, so that nothing is used
# again unseen. (Left alone, glibc raises the limit to 32 MiB.)
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def extra(build: Callable[[], tuple[nn.Module, Tensor]], small: tuple[nn.Module, Tensor]) -> float:
    """MiB of resident memory beyond layer, input, output and gradients when training.

    Memory that is kept from one step to the next counts; code, which steps of a small layer load,
    does not. Meant for a fresh process.
    """
    trained(*small)
    before = resident("VmRSS")
    layer, x = build()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from here
    back = trained(layer, x)
    held = sum(t.numel() * t.element_size() for t in (back, x, *layer.parameters()))
    return resident("VmHWM") - before - 2 * held / 2**20  # as much in output and gradients


def trained(layer: nn.Module, x: Tensor) -> Tensor:
    """Two training steps; the gradient that came from behind."""
    x.requires_grad_()
    with torch.no_grad():
        back = torch.ones_like(layer(x))
    for _ in range(2):
        step(layer, x, back)
    return back


def apart(call: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """The calls' results, each from a copy of this process, which has run nothing in torch yet."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(call, tasks, chunksize=1)


def in_process(file: str, *arguments: str) -> Any:
    """What `file arguments` prints as JSON, in a process that does nothing else."""
    environment = os.environ | ENVIRONMENT
    command = [sys.executable, file, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)
