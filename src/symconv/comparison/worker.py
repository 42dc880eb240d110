"""What happens inside one run: train, test, and look at the trained network."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symconv.comparison.counting import build, count
from symconv.comparison.equivariance import equivariance_errors, feature_maps
from symconv.comparison.packing import pack
from symconv.comparison.runs import Run
from symconv.comparison.shifts import shifts_and_scales
from symconv.comparison.structures import STRUCTURES, TESTS, Row
from symconv.data import PictureSet, Source, Split
from symconv.models import SmallNetwork
from symconv.train.loop import Recipe, fit, scores

SHOWN_FILTERS = 8


@lru_cache(maxsize=2)
def load(source: Source) -> PictureSet:
    """The pictures, read once per process; the process that started this one has warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return source.load()


def execute(run: Run) -> dict:
    """Train one network and return what is to be known of it, as JSON can hold it.

    The caller's random state and thread count are left as they were.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            return _execute(run, load(run.source), STRUCTURES[run.structure])
    finally:
        torch.set_num_threads(threads)


def _execute(run: Run, data: PictureSet, row: Row) -> dict:
    shape = tuple(data.train.pictures.shape[1:])
    network = build(row, shape, run.width, len(data.classes), run.options)
    before = equivariance_errors(network.eval(), data.test) if run.inspect else {}
    recipe = Recipe(
        run.steps,
        run.batch,
        run.learning_rate,
        run.weight_decay,
        run.seed,
        run.accelerator,
        run.precision,
    )
    train = data.train.first(run.train_size)
    augment = row.augment(data) if row.augment else None
    fitted = fit(network, train.pictures, train.labels, recipe, augment)
    counts = count(network)
    result = {
        "loss": fitted.loss,
        "seconds": sum(fitted.step_seconds),
        "step_seconds": undisturbed(fitted.step_seconds),
        "parameters": counts.parameters,
        "connections": counts.connections,
        "macs": counts.macs,
        "fan_in": counts.fan_in,
        "inputs": counts.inputs,
    }
    if not run.final:
        return result | validate(network, getattr(data, row.chosen_on))
    correct = {name: right(network, getattr(data, split)) for name, split in TESTS.items()}
    result["accuracy"] = {name: float(c.float().mean()) for name, c in correct.items()}
    result["correct"] = {name: pack(c.numpy()) for name, c in correct.items()}
    if run.inspect:
        result |= {"errors_before": before} | inspect(network, data, row)
    return result


def undisturbed(step_seconds: list[float]) -> float:
    """How long a step takes when nothing else runs: what a tenth of the steps stay below.

    Example:
        >>> undisturbed([1.0, 1.1, 1.0, 9.0, 5.0, 1.0])
        1.0
    """
    return float(np.quantile(step_seconds, 0.1))


def right(network: SmallNetwork, split: Split) -> Tensor:
    """Whether each picture is classified correctly."""
    return scores(network, split.pictures).argmax(1) == split.labels


def validate(network: SmallNetwork, split: Split) -> dict:
    """Accuracy and loss on the validation pictures."""
    found = scores(network, split.pictures)
    return {
        "validation": float((found.argmax(1) == split.labels).float().mean()),
        "validation_loss": float(F.cross_entropy(found, split.labels)),
    }


def inspect(network: SmallNetwork, data: PictureSet, row: Row) -> dict:
    """What the page and the table show of a trained network beyond its accuracy."""
    network.cpu()
    with torch.no_grad():
        works, reason = other_size(network, data)
        return {
            "errors": equivariance_errors(network, data.test),
            "shares": shifts_and_scales(network, data),
            "other_sizes": works,
            "other_sizes_reason": reason,
            "filters": [
                {"label": label, "values": np.round(values[:SHOWN_FILTERS], 4).tolist()}
                for label, values in row.filters(network.layers[0], network.shapes[0])
            ],
            "maps": feature_maps(network, data.test),
        }


def other_size(network: SmallNetwork, data: PictureSet) -> tuple[bool, str]:
    """Whether the trained network runs on a canvas half as large again, and why not."""
    larger = F.pad(data.test.pictures[:2], [data.canvas // 4] * 4)
    try:
        network(larger)
    except (ValueError, RuntimeError) as error:
        return False, str(error).splitlines()[0]
    return True, ""
