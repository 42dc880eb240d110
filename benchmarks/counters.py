"""What counters of MACs report for the same networks, beside the count of `sc.audit`.

    python benchmarks/counters.py [--torchvision] [--json counters.json]

Prints the tables of docs/counters.md. Counters that are not installed are left out: torchinfo,
thop, fvcore, ptflops, calflops (with transformers and accelerate), torchprofile; torch's own is
always there. The networks are those of tests/auditing/networks.py, or torchvision's by
--torchvision. Every counter gets a fresh model in evaluation mode and one picture of 3x224x224 (the
small cases: their own input). A counter that reports FLOPs is halved only where its documentation
says that a multiply-accumulate counts as two.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import symconv as sc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "auditing"))
NETWORKS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2", "vit_b_16", "swin_t", "convnext_t")
TORCHVISION = {"convnext_t": "convnext_tiny"}


def ours(model: nn.Module, x: Tensor) -> int:
    return sc.audit(model, x, receptive_field=False, equivariance=False, sizes=False).total.macs


def torch_flops(model: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:  # two FLOPs a MAC
        model(x)
    return counter.get_total_flops() / 2


def torchinfo(model: nn.Module, x: Tensor) -> float:
    summary = importlib.import_module("torchinfo").summary
    return summary(model, input_data=x, verbose=0).total_mult_adds


def thop(model: nn.Module, x: Tensor) -> float:
    return importlib.import_module("thop").profile(model, (x,), verbose=False)[0]


def fvcore(model: nn.Module, x: Tensor) -> float:
    analysis = importlib.import_module("fvcore.nn").FlopCountAnalysis(model, x)
    return analysis.total()  # "one fused multiply-add as one flop"


def ptflops(model: nn.Module, x: Tensor, backend: str = "pytorch") -> float:
    found = importlib.import_module("ptflops").get_model_complexity_info(
        model, tuple(x.shape[1:]), as_strings=False, print_per_layer_stat=False, backend=backend
    )
    return found[0]


def ptflops_aten(model: nn.Module, x: Tensor) -> float:
    return ptflops(model, x, "aten")


def calflops(model: nn.Module, x: Tensor) -> float:
    found = importlib.import_module("calflops").calculate_flops(
        model, args=[x], output_as_string=False, print_results=False
    )
    return found[1]  # FLOPs, MACs, parameters


def torchprofile(model: nn.Module, x: Tensor) -> float:
    return importlib.import_module("torchprofile").profile_macs(model, x)


def parameters() -> dict[str, Any]:
    """Parameters of the network with one weight under two names, by those that report them."""
    x, shape = torch.randn(TOKENS), TOKENS[1:]
    reports: dict[str, Callable[[nn.Module], float]] = {
        "symconv": lambda m: (
            sc.audit(m, x, receptive_field=False, equivariance=False, sizes=False).total.parameters
        ),
        "torchinfo": lambda m: (
            importlib.import_module("torchinfo").summary(m, input_data=x, verbose=0).total_params
        ),
        "thop": lambda m: importlib.import_module("thop").profile(m, (x,), verbose=False)[1],
        "ptflops": lambda m: importlib.import_module("ptflops").get_model_complexity_info(
            m, shape, as_strings=False, print_per_layer_stat=False
        )[1],
        "calflops": lambda m: importlib.import_module("calflops").calculate_flops(
            m, args=[x], output_as_string=False, print_results=False
        )[2],
    }
    there = installed()
    return {
        name: counted(lambda m, _, report=report: report(m), Tied, TOKENS)
        for name, report in reports.items()
        if name in there
    }


COUNTERS: dict[str, tuple[str, Callable[[nn.Module, Tensor], float]]] = {
    "symconv": ("symconv", ours),
    "torch FlopCounterMode": ("torch", torch_flops),
    "torchinfo": ("torchinfo", torchinfo),
    "thop": ("thop", thop),
    "fvcore": ("fvcore", fvcore),
    "ptflops": ("ptflops", ptflops),
    "ptflops (aten)": ("ptflops", ptflops_aten),
    "calflops": ("calflops", calflops),
    "torchprofile": ("torchprofile", torchprofile),
}


class Does(nn.Module):
    """A module without layers: a function, and weights if it needs some."""

    def __init__(self, function: Callable[..., Tensor], *shape: int):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(shape)) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x) if self.weight is None else self.function(x, self.weight)


def attend(x: Tensor) -> Tensor:
    """Scaled dot-product attention of four heads, each item (tokens, features) its own query."""
    x = x.unflatten(-1, (4, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(x, x, x)


class Attention(nn.Module):
    """Self-attention as encoders call it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        return self.attention(x, x, x, need_weights=False)[0]


class Tied(nn.Module):
    """One matrix under two names, used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Linear(32, 32, bias=False) for _ in range(2))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        return self.second(self.first(x))


PICTURE, TOKENS = (1, 8, 16, 16), (1, 64, 32)
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # with its MACs by hand
    "convolution 3x3": (lambda: nn.Conv2d(8, 4, 3, padding=1), PICTURE, 256 * 9 * 8 * 4),
    "in 4 groups": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=4), PICTURE, 256 * 9 * 2 * 8),
    "transposed, stride 2": (lambda: nn.ConvTranspose2d(8, 4, 2, 2), PICTURE, 256 * 4 * 8 * 4),
    "`F.conv2d`": (
        lambda: Does(lambda x, w: F.conv2d(x, w, padding=1), 4, 8, 3, 3), PICTURE, 256 * 9 * 8 * 4,
    ),
    "`x @ x.mT`": (lambda: Does(lambda x: x @ x.mT), TOKENS, 64 * 64 * 32),
    "`torch.einsum`": (
        lambda: Does(lambda x, w: torch.einsum("btc,cd->btd", x, w), 32, 48), TOKENS, 64 * 32 * 48,
    ),
    "scaled dot-product": (
        lambda: Does(attend), TOKENS, 2 * 64 * 64 * 32,
    ),
    "`nn.MultiheadAttention`": (Attention, TOKENS, 64 * 32 * (96 + 32) + 2 * 64 * 64 * 32),
    "`nn.LSTM`": (
        lambda: nn.LSTM(32, 32, batch_first=True), TOKENS, 64 * 4 * (32 * 32 + 32 * 32),
    ),
    "one weight under two names": (Tied, TOKENS, 2 * 64 * 32 * 32),
}  # fmt: skip


def networks(of_torchvision: bool) -> dict[str, Callable[[], nn.Module]]:
    if not of_torchvision:
        home = importlib.import_module("networks")
        return {name: getattr(home, name) for name in NETWORKS}
    declare_operators()
    home = importlib.import_module("torchvision.models")
    return {name: getattr(home, TORCHVISION.get(name, name)) for name in NETWORKS}


def declare_operators() -> None:
    """Declare what torchvision registers from its binary, where that is built for another torch."""
    with contextlib.suppress(RuntimeError):
        torch.library.define("torchvision::nms", "(Tensor a, Tensor b, float c) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor a, Tensor b, float c) -> Tensor")


def counted(count: Callable, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Any:
    """What a counter finds, or why it fails."""
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            return count(model, x)
        except Exception as error:
            print(f"  {type(error).__name__}: {error}", file=sys.__stderr__)
            return f"fails: {type(error).__name__}"


def installed() -> dict[str, Callable]:
    found = {}
    for name, (package, count) in COUNTERS.items():
        with contextlib.suppress(ImportError):
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(package)
            found[name] = count
    return found


def table(
    cases: dict[str, tuple[Callable, tuple[int, ...]]], show: Callable[[Any, Any], str]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Rows of counters, columns of cases; as Markdown and as numbers."""
    values: dict[str, dict[str, Any]] = {}
    for counter, count in installed().items():
        values[counter] = {}
        for case, (build, shape) in cases.items():
            print(f"{counter}: {case}", file=sys.stderr, flush=True)
            values[counter][case] = counted(count, build, shape)
    lines = [f"| | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
    for counter, found in values.items():
        cells = [show(case, value) for case, value in found.items()]
        lines.append(f"| {counter} | {' | '.join(cells)} |")
    return lines, values


def transposed(lines: list[str]) -> list[str]:
    """A Markdown table with rows and columns exchanged."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    rule = "|---" * len(columns[0]) + "|"
    out = [f"| {' | '.join(row)} |" for row in columns]
    return [out[0], rule, *out[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torchvision", action="store_true", help="torchvision's definitions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    declare_operators()  # some counters import torchvision where it is
    packages = sorted({package for name, (package, _) in COUNTERS.items() if name in installed()})
    versions = {name: version(name) for name in packages}
    if options.torchvision:
        versions["torchvision"] = version("torchvision")
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    big, large = table(
        {name: (build, (1, 3, 224, 224)) for name, build in networks(options.torchvision).items()},
        lambda _, value: value if isinstance(value, str) else f"{value / 1e9:.3f}",
    )
    print("\nGMACs of one picture 3x224x224\n", *transposed(big), sep="\n")
    tiny, small = table(
        {name: (build, shape) for name, (build, shape, _) in SMALL.items()},
        lambda case, value: value if isinstance(value, str) else f"{value / SMALL[case][2]:.3g}",
    )
    print("\nMACs over the count by hand\n", *transposed(tiny), sep="\n")
    tied = parameters()
    print(f"\nParameters of one weight under two names ({32 * 32:,} by hand):")
    print(", ".join(f"{name} {value:,.0f}" for name, value in tied.items()))
    if options.json:
        report = {"versions": versions, "networks": large, "small": small, "tied": tied}
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
