"""What the tests of counting share: small modules and inputs."""

import torch
from torch import nn

from symconv.auditing.call import Call
from symconv.auditing.counts import count

BATCH, TOKENS, WIDTH = 2, 5, 8


class Of(nn.Module):
    """A forward given as a function, with parameters by name."""

    def __init__(self, forward, **parameters):
        super().__init__()
        self.function = forward
        for name, value in parameters.items():
            tensor = isinstance(value, torch.Tensor)
            setattr(self, name, nn.Parameter(value) if tensor else value)

    def forward(self, *args):
        return self.function(self, *args)


def counts(model, x):
    return count(Call.of(model, x))


def rows(model, x):
    return {row.name: row for row in counts(model, x).layers}


def tokens(length=TOKENS):
    return torch.randn(BATCH, length, WIDTH)


def weight(*shape):
    return torch.randn(*shape)
