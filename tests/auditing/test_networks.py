"""The networks that the audit is checked on have the published number of parameters."""

import pytest
import torch

from auditing import networks


@pytest.mark.parametrize("name", networks.PARAMETERS)
def test_published_parameters(name):
    with torch.device("meta"):
        network = getattr(networks, name)()
    assert sum(p.numel() for p in network.parameters()) == networks.PARAMETERS[name]
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
