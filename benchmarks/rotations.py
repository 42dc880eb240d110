"""Filters that turn by any angle: how exact, how costly, and how their rings were chosen.

    python benchmarks/rotations.py [--rounds 20] [--json rotations.json] [--choose]

Error of one C8 layer at 45 degrees for smooth, natural and random input, beside the rings of other
packages' defaults; the training step against torch's plain convolution of equal width; construction
of a ResNet; and the class scores of a network under any rotation, before and after training. One
thread; processor time, both sides in turn, after a check of the answers. `--choose` searches the
rings anew (minutes).
"""

from __future__ import annotations

import argparse
import json
import math
import warnings

import numpy as np
import torch
from group import construction
from scipy.optimize import minimize
from timing import against_plain, conditions, interleaved, medians, show
from torch import nn

import symconv as sc
from symconv.lattice import steerable
from symconv.lattice.steerable import Ring

BARS = {"step": 1.05, "construct": 40.0, "smooth 5": 0.002}
CASES = [(64, 16, 64, 3), (64, 16, 64, 5), (128, 16, 32, 3), (128, 16, 32, 5), (256, 16, 8, 5)]

#: The rings that band-limit other packages' filters by default: one a pixel, frequency at most 2.
USUAL = {
    3: (Ring(0, 0.6, 0), Ring(1, 0.6, 2)),
    5: (Ring(0, 0.6, 0), Ring(1, 0.6, 2), Ring(2, 0.4, 2)),
    7: (Ring(0, 0.6, 0), Ring(1, 0.6, 2), Ring(2, 0.6, 2), Ring(3, 0.4, 2)),
}


def blurred(x: torch.Tensor, blur: float) -> torch.Tensor:
    """Periodic Gaussian blur of standard deviation `blur` pixels."""
    rows, columns = (2 * math.pi * torch.fft.fftfreq(n, dtype=x.dtype) for n in x.shape[-2:])
    low = torch.exp(-0.5 * blur**2 * (rows[:, None] ** 2 + columns**2))
    return torch.fft.ifft2(torch.fft.fft2(x) * low).real


def inputs(size: int) -> dict[str, torch.Tensor]:
    """Pictures (1, 1, size, size) of each kind, fading out before the inscribed circle.

    What fades out can be turned by Fourier shears without error, but for its high frequencies.
    """
    from skimage import data

    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(1, 1, size, size, generator=generator, dtype=torch.float64)
    camera = torch.from_numpy(data.camera()).double()[None, None]
    camera = camera[..., 64 : 64 + 2 * size, 192 : 192 + 2 * size]
    camera = nn.functional.avg_pool2d(camera - camera.mean(), 2)
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    fade = torch.exp(-9 * (axis[:, None] ** 2 + axis**2))
    smooth = {f"blur {blur:g} px": blurred(noise, blur) for blur in (2, 1.5, 1)}
    return {name: x * fade for name, x in {**smooth, "camera": camera, "random": noise}.items()}


def turn_error(layer: nn.Module, x: torch.Tensor, degrees: int = 45) -> float:
    """||M (f(g x) - g f(x))|| / ||M g f(x)||, M the middle quarter of the map."""
    g = layer.in_field.group.elements[degrees * layer.in_field.group.order // 360]
    with torch.no_grad():
        moved = layer(sc.act(g, x, layer.in_field))
        wanted = sc.act(g, layer(x), layer.out_field)
    quarter = x.shape[-1] // 4
    inner = (..., slice(quarter, -quarter), slice(quarter, -quarter))
    return float((moved - wanted)[inner].norm() / wanted[inner].norm())


def errors(size: int = 128) -> list[dict]:
    """The error of lifting layers, ours and with the usual rings, and their capacity."""
    C8, rows = sc.groups.parse("C8"), []
    for kernel in (3, 5, 7):
        for name, rings in (("ours", steerable.rings(kernel)), ("usual", USUAL[kernel])):
            kept = dict(steerable._RINGS)
            steerable._RINGS[kernel] = rings
            steerable._norms.cache_clear()
            lattice_cache_clear()
            torch.manual_seed(0)
            layer = sc.nn.GroupConv2d(
                C8.trivial(1), C8.regular(16), kernel, bias=False, dtype=torch.float64
            )
            row = {"kernel": kernel, "rings": name, "functions": steerable.size(kernel)}
            row["of"] = kernel**2
            row |= {kind: turn_error(layer, x) for kind, x in inputs(size).items()}
            row["quarter turn"] = turn_error(layer, inputs(size)["random"], 90)
            steerable._RINGS.update(kept)
            rows.append(row)
    steerable._norms.cache_clear()
    lattice_cache_clear()
    for row in rows:
        if row["kernel"] == 5 and row["rings"] == "ours":
            row |= {"bar": BARS["smooth 5"], "met": row["blur 2 px"] <= BARS["smooth 5"]}
        else:
            row |= {"bar": "", "met": ""}
    return rows


def lattice_cache_clear() -> None:
    """Forget filters made from other rings."""
    from symconv.lattice import filters

    filters.pair_tie.cache_clear()


def constructions(rounds: int) -> list[dict]:
    """Construction of a ResNet of three stages, with one and two blocks a stage."""
    bar = BARS["construct"]
    built = [construction("C8", blocks, rounds) for blocks in (1, 2)]
    return [row | {"bar": bar, "met": max(row["first"], row["ours"]) <= bar} for row in built]


def reference_networks(rounds: int) -> list[dict]:
    """Construction of ResNets of `symconv.models`, initial weights and the match of widths too."""
    rows = []
    for depth, width in ((20, 16), (18, 64)):
        calls = {
            "ours": lambda d=depth: sc.models.resnet(d, "C8", classes=10),
            "unmatched": lambda d=depth, w=width: sc.models.resnet(
                d, "C8", classes=10, match=None, width=w // 8
            ),
            "plain": lambda d=depth: sc.models.resnet(d, classes=10),
        }
        times = medians(interleaved(calls, rounds, warm=1))
        bar = BARS["construct"]
        rows.append({"depth": depth, **times, "bar": bar, "met": times["ours"] <= bar})
    return rows


def training(channels: int, batch: int, size: int, kernel: int, rounds: int) -> dict:
    """Training step and inference of one C8 layer, as ratios to the plain convolution."""
    C8 = sc.groups.parse("C8")
    field = C8.regular(channels // 8)
    layer = sc.nn.GroupConv2d(field, field, kernel, padding=kernel // 2)
    x = torch.randn(2, channels, size, size)
    assert torch.equal(layer(x), layer.to_conv()(x)), "the plain twin gives another answer"
    row = {"channels": channels, "batch": batch, "size": size, "kernel": kernel}
    row |= against_plain(layer, batch, size, rounds)
    return row | {"bar": BARS["step"], "met": row["median ratio"] <= BARS["step"]}


def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, enlarged to 24 and on a canvas of 32, smooth; and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = sc.rescale(torch.from_numpy(digits.images).float()[:, None] / 8 - 1, 3.0)
    x = nn.functional.pad(x, (4,) * 4, value=-1) + 1
    return blurred(x.double(), 1.5).float()[:1200], torch.from_numpy(digits.target)[:1200]


def score_errors(steps: int = 300) -> list[dict]:
    """Relative change of class scores when the picture turns: a C8 network and its plain twin."""
    x, labels = pictures()
    rows = []
    for name, group in (("C8", "C8"), ("plain", None)):
        torch.manual_seed(0)
        model = sc.models.resnet(8, group, width=16, match="params", classes=10, in_channels=1)
        for when in ("before training", "after training"):
            if when == "after training":
                train(model, x[:1000], labels[:1000], steps)
            model.eval()
            with torch.no_grad():
                scores = model(x[1000:])
                row = {"network": name, "when": when}
                row["accuracy"] = float((scores.argmax(1) == labels[1000:]).float().mean())
                for degrees in (15, 30, 45, 60, 90, 180):
                    turned = model(sc.rotate(x[1000:], degrees))
                    row[f"{degrees} deg"] = float((turned - scores).norm() / scores.norm())
            rows.append(row)
    return rows


def train(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """A few steps of AdamW on random batches of 32."""
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        drawn = torch.randint(len(x), (32,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[drawn]), labels[drawn]).backward()
        optimiser.step()


def spectral_error(kernel: int, rings: tuple[Ring, ...], blur: float) -> float:
    """Error at 45 degrees, mean over random filters and Gaussian-blurred noise, from the spectra.

    A layer commutes with a turn as far as its filter's spectrum turns with the filter:
    ||f(g w) - (g f)(w)|| weighted by the input's power exp(-(blur |w|)^2).
    """
    radius, angle = np.meshgrid(
        np.linspace(0.01, min(np.pi, 4 / blur), 40),
        np.linspace(0, 2 * np.pi, 64, endpoint=False),
        indexing="ij",
    )
    power = np.exp(-((blur * radius) ** 2)) * radius
    plain, turned = functions(kernel, rings, 0.0), functions(kernel, rings, np.pi / 4)
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    wanted = spectrum(plain / norms, radius, angle - np.pi / 4)
    error = spectrum(turned / norms, radius, angle) - wanted
    return float(np.sqrt((power * abs(error) ** 2).sum() / (power * abs(wanted) ** 2).sum()))


def functions(kernel: int, rings: tuple[Ring, ...], turn: float) -> np.ndarray:
    """Ring times harmonic at every tap, turned."""
    rows, columns = np.indices((kernel, kernel)).reshape(2, -1) - (kernel - 1) / 2
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns) - turn
    found = []
    for ring in rings:
        height = np.exp(-((radius - ring.radius) ** 2) / (2 * ring.width**2))
        found.append(height)
        for m in range(1, ring.cutoff + 1):
            ring_m = np.where(radius > 0, height, 0)
            found += [ring_m * np.cos(m * angle), ring_m * np.sin(m * angle)]
    return np.stack(found)


def spectrum(taps: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The filters' Fourier transforms at polar frequencies."""
    kernel = math.isqrt(taps.shape[1])
    place = np.arange(kernel) - (kernel - 1) / 2
    rows = np.exp(-1j * (radius * np.sin(angle))[..., None] * place)
    columns = np.exp(-1j * (radius * np.cos(angle))[..., None] * place)
    return np.einsum("bij,...i,...j->b...", taps.reshape(-1, kernel, kernel), rows, columns)


def choose(kernel: int) -> dict:
    """Search radii and widths of the rings for the least error, log mean over blurs of 1 and 2."""
    start = steerable.rings(kernel)
    cutoffs = [ring.cutoff for ring in start]
    fixed = kernel % 2

    def unpack(p):
        radii = [0.0] * fixed + list(np.abs(p[: len(start) - fixed]))
        widths = np.abs(p[len(start) - fixed :]) + 0.05
        return tuple(Ring(r, w, c) for r, w, c in zip(radii, widths, cutoffs, strict=True))

    def cost(p):
        made = unpack(p)
        taps = functions(kernel, made, 0.0)
        condition = np.linalg.cond(taps / np.linalg.norm(taps, axis=1, keepdims=True))
        fit = sum(math.log(spectral_error(kernel, made, blur)) for blur in (1, 2))
        return fit + max(0.0, condition - 10)

    first = [r.radius for r in start][fixed:] + [r.width - 0.05 for r in start]
    best = minimize(cost, first, method="Nelder-Mead", options={"maxiter": 300})
    made = unpack(best.x)
    row = {"kernel": kernel, "rings": " ".join(f"{r.radius:.3f}/{r.width:.3f}" for r in made)}
    for blur in (1, 2):
        row[f"kept, blur {blur}"] = spectral_error(kernel, start, blur)
        row[f"found, blur {blur}"] = spectral_error(kernel, made, blur)
    return row


def cutoffs(kernel: int = 5) -> list[dict]:
    """What each cut-off of the outer rings costs in error and gives in functions."""
    rows = []
    for inner, outer in ((1, 2), (2, 2), (2, 3), (2, 4), (3, 3)):
        centre, ring, last = steerable.rings(kernel)
        made = (centre, ring._replace(cutoff=inner), last._replace(cutoff=outer))
        row = {"cut-offs": f"0, {inner}, {outer}", "functions": 3 + 2 * (inner + outer)}
        rows.append(row | {f"blur {b:g}": spectral_error(kernel, made, b) for b in (0.5, 1, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json")
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.choose:
        show("rings: radius / width in taps", [choose(kernel) for kernel in range(2, 8)])
        show("cut-offs of a 5 x 5 filter, angular frequencies", cutoffs())
        return
    report = conditions()
    parts = {
        "relative error of a C8 lifting layer at 45 degrees, interior": errors,
        "class scores under rotation, relative change": score_errors,
        "construction of a C8 ResNet, ms": lambda: constructions(options.rounds),
        "construction of symconv.models.resnet, ms": lambda: reference_networks(options.rounds),
        "training step of a C8 layer against plain": lambda: [
            training(*case, options.rounds) for case in CASES
        ],
    }
    for title, part in parts.items():
        report[title] = part()
        show(title, report[title])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
