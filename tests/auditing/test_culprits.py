"""Layers that are called several times: each call is judged by itself."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symconv as sc


def _circular(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 8, 3, padding=1, padding_mode="circular")


class Pooled(nn.Module):
    """Two convolutions, and one max pool that halves after both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _circular(3), _circular(8)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.second(self.pool(F.relu(self.first(x))))))


class Called(Pooled):
    """The same with functions."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.first(x)), 2)
        return F.max_pool2d(F.relu(self.second(y)), 2)


class Sound(Pooled):
    """The same without a stride."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))


def _named(model: nn.Module) -> list[str]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    found = sc.audit(model.double(), x, counts=False, sizes=False).culprits
    return [sentence.split(": error")[0] for sentence in found]


@pytest.mark.parametrize(("model", "label"), [(Pooled, "pool"), (Called, ":max_pool2d")])
def test_a_layer_called_twice_is_named_for_the_call_that_breaks(model, label):
    """The second calls, of ReLU too, get half a position: that is the first pool's doing."""
    assert _named(model()) == [f"{label}, stride 2"]


def test_exported_programs_name_what_modules_do():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    program = torch.export.export(Pooled().eval(), (x,))
    (found,) = sc.audit(program, x, counts=False, sizes=False).culprits
    assert found.startswith(":max_pool2d, stride 2: error")
    assert found.endswith("exact for multiples of 4")


def test_a_layer_called_twice_that_breaks_nothing_is_not_named():
    assert _named(Sound()) == []
