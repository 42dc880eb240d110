"""No pass holds more than the stated workspace beside its operands."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import symconv as sc
from symconv.kernels import workspace
from symconv.kernels.plain import local, sparse
from symconv.kernels.workspace import output_size


class Largest(TorchDispatchMode):
    """Keeps the size in bytes of the largest tensor that operators make beside some operands."""

    def __init__(self, operands):
        super().__init__()
        self.bytes, self.operands = 0, {t.untyped_storage().data_ptr() for t in operands}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.layout == torch.strided:
            storage = out.untyped_storage()
            if storage.data_ptr() not in self.operands:
                self.bytes = max(self.bytes, storage.nbytes())
        return out


def largest(operator, *args) -> int:
    """The plain kernel's own code under the spy: an operator is opaque from outside."""
    with Largest(a for a in args if isinstance(a, torch.Tensor)) as seen, torch.no_grad():
        operator(*args)
    return seen.bytes


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("labelled", [False, True])
def test_local_kernel(groups, labelled, monkeypatch):
    monkeypatch.setattr(workspace, "BYTES", 1 << 16)
    size, kernel, none = (40, 40), (7, 7), (0, 0, 0, 0)
    options = (1, 1), none, (1, 1), groups
    out = output_size(size, kernel, *options[:3])
    positions = math.prod(out)
    x, y = torch.randn(2, 4, *size), torch.randn(2, 2, *out)
    labels = torch.arange(positions) % 5 if labelled else None
    weight = torch.randn(5 if labelled else positions, *kernel, 4 // groups, 2)
    sizes = {
        name: t.untyped_storage().nbytes() for name, t in zip("xyw", (x, y, weight), strict=True)
    }
    bound = max(workspace.BYTES, sizes["x"], sizes["y"])  # operands in another layout
    assert 10 * bound < 2 * positions * 49 * 4 * 4  # the unfolded input
    assert 0 < largest(local.forward, x, weight, None, labels, *options) <= bound
    assert 0 < largest(local.adjoint, y, weight, labels, size, *options) <= bound
    bound = max(bound, sizes["w"])  # the gradient itself
    assert 0 < largest(local.weight_gradient, x, y, labels, weight.shape, *options) <= bound


def test_sparse_kernel():
    layer = sc.nn.SparseLinear(500, 400, 50)
    x, y = torch.randn(64, 500), torch.randn(64, 400)
    weight, connections = layer.weight.detach(), layer.connections
    bound = max(t.untyped_storage().nbytes() for t in (x, y, weight, connections))
    assert bound < min(64 * 400 * 50 * 4, 500 * 400 * 4)  # no gather, no dense matrix
    assert largest(sparse.forward, x, weight, connections) <= bound
    assert largest(sparse.adjoint, y, weight, connections, 500) <= bound
    assert largest(sparse.weight_gradient, x, y, connections) <= bound
