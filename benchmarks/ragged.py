"""Batches of mixed sizes: one network on a `Ragged`, one by one, padded naively, as NestedTensor.

    python benchmarks/ragged.py [--width 32] [--rounds 15] [--threads 1] [--json ragged.json]

A ResNet-18 of torchvision's make (its width can be chosen) takes 8 and 64 pictures from a list:
sizes mixed (77 to 224), similar, extreme (one in eight large, the others small), small and equal.
What makes a batch of the list is part of the time. First the answers: in float64 the outputs and
gradients of ours must be those one by one. Naive padding is timed although its answers are wrong;
by how much is shown. Then everybody in turns: inference, and training steps, batch norm with the
statistics of the batch (one by one, of the picture; left out where that is a single value). Medians
and their ratios; processor time on one thread, elapsed time on more.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import bursts, clock, conditions, medians, save, show
from torch import Tensor, nn
from torch.nn import functional as F

import symconv as sc

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from auditing.networks import resnet18

LARGE = 256  # a side of the one picture in eight that makes a batch extreme
EQUAL = 128
TOLERANCE = {"output": 1e-12, "gradient": 1e-10}
BARS = {"to the better": 1.2, "one by one": 1.5, "training to naive": 1.25, "to a tensor": 1.1}


def sizes(mix: str, count: int) -> list[tuple[int, int]]:
    """Height and width of each picture."""
    random = np.random.default_rng(0)
    low, high = {"mixed": (77, 224), "similar": (200, 224), "small": (16, 32),
                 "extreme": (24, 64), "equal": (EQUAL, EQUAL)}[mix]  # fmt: skip
    found = random.integers(low, high + 1, (count, 2))
    if mix == "extreme":
        found[::8] = LARGE
    return [(int(height), int(width)) for height, width in found]


MIXES = ("mixed", "similar", "extreme", "small", "equal")


def padded(images: Sequence[Tensor]) -> Tensor:
    """One canvas for all, zeros around the pictures: common, and wrong."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    fill = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    return torch.stack([F.pad(image, by) for image, by in zip(images, fill, strict=True)])


def nested(model: nn.Module, images: Sequence[Tensor]) -> Any:
    """Torch's own tensor of mixed sizes, in either of its layouts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        try:
            return model(torch.nested.nested_tensor(list(images)))
        except (RuntimeError, NotImplementedError):
            return model(torch.nested.nested_tensor(list(images), layout=torch.jagged))


def last(x: Tensor) -> Tensor:
    """Channels last in memory, where torch convolves faster on a CPU; ours always lie so."""
    return x.contiguous(memory_format=torch.channels_last)


#: How each takes a list of pictures.
WAYS: dict[str, Callable[[nn.Module, Sequence[Tensor]], Any]] = {
    "ours": lambda model, images: model(sc.Ragged(images)),
    "one by one": lambda model, images: torch.cat([model(image[None]) for image in images]),
    "one by one, last": lambda model, images: torch.cat([model(last(i[None])) for i in images]),
    "naive": lambda model, images: model(padded(images)),
    "naive, last": lambda model, images: model(last(padded(images))),
    "tensor": lambda model, images: model(torch.stack(list(images))),
    "tensor, last": lambda model, images: model(last(torch.stack(list(images)))),
    "nested": nested,
}


def network(width: int) -> nn.Module:
    """The network, its batch norms as after some training."""
    torch.manual_seed(0)
    model = resnet18(width=width, classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, in units of the largest entry."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def answers(way: str, model: nn.Module, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores, and the gradient to all weights of the sum of their squares."""
    scores = WAYS[way](model, images)
    gradients = torch.autograd.grad(scores.square().sum(), list(model.parameters()))
    return scores.detach(), torch.cat([g.flatten() for g in gradients])


def check(model: nn.Module, images: Sequence[Tensor], what: str) -> float:
    """Hold ours to one by one in float64; the error of naive padding.

    Raises:
        SystemExit: An answer is off by more than the tolerance.
    """
    model, images = copy.deepcopy(model).double(), [image.double() for image in images]
    wanted = answers("one by one", model, images)
    for name, found, expected in zip(
        TOLERANCE, answers("ours", model, images), wanted, strict=True
    ):
        if not (error := relative(found, expected)) <= TOLERANCE[name]:  # nor not a number
            raise SystemExit(f"{what}: {name} differs by {error:.1e} of its largest entry")
    with torch.no_grad():
        return relative(WAYS["naive"](model, images), wanted[0])


def step(way: str, model: nn.Module, images: Sequence[Tensor]) -> None:
    """A training step up to fresh gradients."""
    model.zero_grad()
    WAYS[way](model, images).square().mean().backward()


def calls(model: nn.Module, images: Sequence[Tensor], train: bool) -> dict[str, Callable[[], Any]]:
    """Those that run; one that cannot is left out, aloud."""
    found: dict[str, Callable[[], Any]] = {}
    for way, call in WAYS.items():
        if way.startswith("tensor") and len({image.shape for image in images}) > 1:
            continue
        mine = copy.deepcopy(model).train(train)

        def run(way: str = way, call: Callable = call, mine: nn.Module = mine) -> None:
            if train:
                return step(way, mine, images)
            with torch.no_grad():
                call(mine, images)

        try:
            run()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            if way == "ours":
                raise
            print(f"  {way} left out of {'training' if train else 'inference'}: "
                  f"{' '.join(str(error).split())[:90]}")  # fmt: skip
            continue
        found[way] = run
    return found


def raced(mix: str, count: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for inference and one for training."""
    model, generator = network(options.width), torch.Generator().manual_seed(1)
    images = [torch.randn(3, *size, generator=generator) for size in sizes(mix, count)]
    print(f"{mix}, {count} pictures")
    wrong = check(model, images, f"{mix}, {count}")
    for kind in ("inference", "training"):
        field = calls(model, images, kind == "training")
        times = medians(bursts(field, options.rounds, clock(options.threads), options.seconds))
        row: dict[str, Any] = {"mix": mix, "pictures": count, "kind": kind, "naive error": wrong}
        row |= {f"{way} ms": times.get(way, "") for way in WAYS}
        yield row | ratios(mix, count, kind, times)


def ratios(mix: str, count: int, kind: str, times: dict[str, float]) -> dict[str, Any]:
    """Our time in units of the others', and which bars it misses.

    The bars are for torch's usual layout; "to the best" is of everybody, whatever the layout.
    """
    ours, single, naive = times["ours"], times.get("one by one"), times["naive"]
    better = min(naive, single or naive)
    best = min(time for way, time in times.items() if way != "ours")
    row: dict[str, Any] = {"to the better": ours / better, "to the best": ours / best}
    row |= {"to naive": ours / naive}
    row |= {"one by one / ours": single / ours if single else ""}
    row |= {"to a tensor": ours / times["tensor"] if "tensor" in times else ""}
    missed = []
    if kind == "training":
        missed += ["training to naive"] * (ours / naive > BARS["training to naive"])
    else:
        missed += ["to the better"] * (ours / better > BARS["to the better"])
        few = single is not None and single / ours < BARS["one by one"]
        missed += ["one by one"] * (few and (mix == "small" or count == 64))
    if "tensor" in times:
        missed += ["to a tensor"] * (ours / times["tensor"] > BARS["to a tensor"])
    return row | {"missed": ", ".join(missed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="bound per case, 3 rounds at least"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mixes", nargs="*", choices=MIXES, default=MIXES)
    parser.add_argument("--pictures", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = conditions() | {"network": f"ResNet-18 of width {options.width}", "bars": BARS}
    print("  ".join(f"{key}: {value}" for key, value in report.items()))
    report["rows"] = [row for count in options.pictures for mix in options.mixes
                      for row in raced(mix, count, options)]  # fmt: skip
    keys = "mix", "pictures", "kind"
    for title, chosen in (("milliseconds", lambda k: k.endswith(" ms")),
                          ("ratios", lambda k: not k.endswith(" ms"))):  # fmt: skip
        show(title, [{k: v for k, v in row.items() if k in keys or chosen(k)}
                     for row in report["rows"]])  # fmt: skip
    if options.json:
        save(report, options.json)


if __name__ == "__main__":
    main()
