"""What a training step holds at its peak beside operands and gradients; Linux, glibc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch
from timing import resident, step
from torch import Tensor, nn

# Blocks of this size and more go back to the system when they are freed: none is used again
# unseen. (Left alone, glibc raises the limit to 32 MiB.)
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def extra(layer: nn.Module, x: Tensor) -> float:
    """MiB of resident memory that a training step adds beyond its output and its gradients.

    Steps before it load the code, which is not counted, and what libraries keep for good.
    """
    x.requires_grad_()
    back = torch.ones_like(layer(x))
    for _ in range(2):
        step(layer, x, back)
    x.grad = None
    layer.zero_grad()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from here
    before = resident("VmRSS")
    step(layer, x, back)
    made = [back, x, *layer.parameters()]  # output and gradients have these sizes
    bytes_ = sum(t.numel() * t.element_size() for t in made)
    return resident("VmHWM") - before - bytes_ / 2**20


def in_process(file: str, *arguments: str) -> Any:
    """What `file arguments` prints as JSON, in a process that does nothing else."""
    environment = os.environ | ENVIRONMENT
    command = [sys.executable, file, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)
