"""The training loop: one for every structure.

This is the only module that imports lightning_fabric, which takes seconds to load; keep it out of
the way of commands that do not train.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the same for all structures but for the learning rate.

    Args:
        steps: Optimiser steps.
        batch: Pictures in a step (fewer where there are fewer pictures).
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay.
        seed: Orders the batches and draws the augmentation.
        accelerator: "cpu", "cuda", "auto": as lightning_fabric takes it.
        precision: "32-true", "bf16-mixed", ...: as lightning_fabric takes it.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0
    accelerator: str = "cpu"
    precision: Any = "32-true"


@dataclass(frozen=True)
class Fitted:
    """What training leaves behind.

    Args:
        model: The trained network, in eval mode.
        loss: Mean training loss over the last tenth of the steps.
        step_seconds: Duration of every step.
    """

    model: nn.Module
    loss: float
    step_seconds: list[float]


def batches(count: int, size: int, seed: int, device: torch.device | str = "cpu"):
    """Endless index batches: one random order after another, remainders left out.

    Args:
        count: Number of pictures.
        size: Pictures in a batch.
        seed: Seed of the orders.
        device: Where the indices are wanted.

    Example:
        >>> stream = batches(5, 2, seed=0)
        >>> len(set(next(stream).tolist() + next(stream).tolist()))
        4
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator).to(device)
        yield from order[: count - count % size].split(size)


def fit(
    model: nn.Module,
    pictures: Tensor,
    labels: Tensor,
    recipe: Recipe,
    augment: Augment | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Fitted:
    """Train a classifier with AdamW and a one-cycle learning rate.

    Args:
        model: Maps pictures (N, channels, H, W) to scores (N, classes); trained in place.
        pictures: All training pictures (N, channels, H, W).
        labels: Their classes (N,).
        recipe: Steps, batch, learning rate and the rest.
        augment: Changes a batch before it is used; draws from the generator that it is given.
        on_step: Called with the number of steps done.
    """
    fabric = Fabric(accelerator=recipe.accelerator, devices=1, precision=recipe.precision)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.learning_rate, total_steps=recipe.steps
    )
    network, fast = fabric.setup(model, optimiser)
    pictures, labels = fabric.to_device(pictures), fabric.to_device(labels)
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    stream = batches(len(labels), recipe.batch, recipe.seed, fabric.device)
    losses, seconds = [], []
    network.train()
    for step in range(recipe.steps):
        started = time.perf_counter()
        index = next(stream)
        batch = pictures[index]
        if augment is not None:
            batch = augment(batch, generator)
        loss = F.cross_entropy(network(batch), labels[index])
        fast.zero_grad()
        fabric.backward(loss)
        fast.step()
        schedule.step()
        losses.append(loss.item())  # waits for the device, so that the clock below is true
        seconds.append(time.perf_counter() - started)
        if on_step is not None:
            on_step(step + 1)
    tail = losses[-max(1, len(losses) // 10) :]
    return Fitted(model.eval(), sum(tail) / len(tail), seconds)


@torch.no_grad()
def scores(model: nn.Module, pictures: Tensor, batch: int = 256) -> Tensor:
    """The network's scores (N, classes) for pictures (N, channels, H, W), on the CPU."""
    device = next(model.parameters()).device
    parts = [model(part.to(device)).float().cpu() for part in pictures.split(batch)]
    return torch.cat(parts)
