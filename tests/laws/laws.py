"""The laws as functions of a case: each raises AssertionError where a layer breaks it."""

from __future__ import annotations

import copy

import numpy as np
import torch

import symconv as sc
from laws.cases import Case

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def assert_close(got: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """Relative to the largest value wanted, by the tolerance of the dtype."""
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}"
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    error = (got - wanted).abs().max().item() if wanted.numel() else 0.0
    assert error <= TOLERANCE[got.dtype] * scale, f"{what}: error {error:.2e} at scale {scale:.2e}"


def bias_of(case: Case, output_shape: torch.Size) -> torch.Tensor:
    """What the layer adds to W x: its answer to zero."""
    return case.layer(torch.zeros(1, *case.shape, dtype=torch.float64)).expand(output_shape)


def equals_its_matrix(case: Case) -> None:
    """Law 1: forward is the materialised matrix times x, plus a bias; the counts are W's own."""
    x = case.input()
    y = case.layer(x).detach()
    structure = case.structure()
    matrix = structure.materialize(case.layer)
    assert y.shape[1:] == structure.output_shape
    product = torch.from_numpy((matrix @ x.reshape(len(x), -1).numpy().T).T).reshape(y.shape)
    assert_close(y - bias_of(case, y.shape).detach(), product, "forward against the matrix")
    pairs = structure.weight_ids()
    distinct = np.unique(pairs.output * structure.inputs + pairs.input)
    assert structure.connections == distinct.size
    most = np.bincount(distinct // structure.inputs, minlength=1).max() if distinct.size else 0
    assert structure.fan_in == most
    assert structure.parameters == case.layer.weight.numel()
    assert structure.macs - structure.padding_macs == pairs.output.size


def is_linear(case: Case) -> None:
    """Law 2: superposition, and <A x, y> = <x, A^T y> through autograd."""
    x, z = case.input(seed=1), case.input(seed=2)
    both = case.layer(2 * x - 3 * z)
    zero = bias_of(case, both.shape)
    apart = 2 * (case.layer(x) - zero) - 3 * (case.layer(z) - zero)
    assert_close((both - zero).detach(), apart.detach(), "superposition")
    x.requires_grad_()
    y = case.layer(x)
    back = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad(y, x, back)
    left = ((y - zero) * back).sum().detach()
    assert_close(left, (x * gradient).sum().detach(), "adjoint")


def has_right_derivatives(case: Case) -> None:
    """Law 2: first and second derivatives by input and parameters, against differences."""
    x = case.input(batch=1).requires_grad_()
    names = [name for name, _ in case.layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in case.layer.parameters()]

    def forward(x, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(case.layer, parameters, x)

    assert torch.autograd.gradcheck(forward, (x, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, (x, *values), fast_mode=True)


def flattened_axis_agrees(case: Case, wide: Case, axis: int) -> None:
    """Law 7: a layer of one dimension equals the next with a singleton axis."""
    x = case.input()
    narrow = case.layer(x)
    assert_close(
        wide.layer(x.unsqueeze(axis)).squeeze(axis).detach(), narrow.detach(), "1-D in 2-D"
    )


def path_agrees_with_reference(case: Case, dtype: torch.dtype, arrange) -> None:
    """The path that users run gives what plain torch gives, forward and backward.

    `arrange` lays the input out in memory: transposed, channels last, expanded or as it is.
    """
    layer = copy.deepcopy(case.layer).to(dtype)
    x = arrange(case.input(batch=3).to(dtype)).detach().requires_grad_()
    wanted = {"reference": None, "auto": None}
    for path in wanted:
        with sc.kernels.use(path):
            y = layer(x)
            back = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
            found = torch.autograd.grad(y, (x, *layer.parameters()), back)
        wanted[path] = (y.detach(), *found)
    for i, (fast, plain) in enumerate(zip(wanted["auto"], wanted["reference"], strict=True)):
        assert_close(fast, plain, f"path against reference, result {i}")
