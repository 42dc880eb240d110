"""Layers behave as torch's own: state, copies, compilation, export, types and layouts."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import symconv as sc

from .layers import LAYERS, every_layer


def saved(layer: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@every_layer
def test_copies_and_state(layer):
    module, x = layer.pair()
    expected = module(x)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), saved(module)):
        assert torch.equal(copied(x), expected)
    assert module.train().state_dict().keys() == module.eval().state_dict().keys()
    torch.manual_seed(1)
    other = layer.make()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), expected)
    # a layer that has no memory yet takes its values, connections and regions from the state
    empty = layer.make(device="meta")
    assert empty(x.to("meta")).shape == expected.shape
    empty.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(empty(x), expected)


@every_layer
def test_repr_gives_the_layer_back(layer):
    module, x = layer.pair()
    again = eval(repr(module), vars(sc.nn) | {"torch": torch})
    assert repr(again) == repr(module)
    fixed = {k: v.shape for k, v in module.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == fixed
    assert again(x).shape == module(x).shape


def test_new_regions_from_a_state():
    old, new = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 1, 0])
    layers = [sc.nn.RegionConv1d(1, 1, 3, regions, padding=1) for regions in (old, new)]
    layers[0].load_state_dict(layers[1].state_dict())
    x = torch.randn(1, 1, 4)
    assert torch.equal(layers[0](x), layers[1](x))


def test_large_regions_are_summed_up():
    layer = sc.nn.RegionConv1d(1, 1, 3, torch.arange(100) // 50)
    assert repr(layer) == ("RegionConv1d(1, 1, kernel_size=(3,), regions=<2 regions over (100,)>)")


@every_layer
def test_compiles_whole_with_its_gradients(layer):
    module, x = layer.pair()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for run in (module, compiled):
        module.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in module.parameters())])
    for eager, whole in zip(*results, strict=True):
        torch.testing.assert_close(whole, eager)


# Several seconds each, and nothing in their graphs that the others lack.
SLOW_TO_CONVERT = {"local-1d-reflect", "local-3d", "tiled-2d", "bias-map"}


def dynamic(layer_name: str, rank: int) -> dict:
    sizes = {i: torch.export.Dim.DYNAMIC for i in range(2, rank) if "tiled" in layer_name}
    return {0: torch.export.Dim("batch"), **sizes}


def other_input(name: str, x: torch.Tensor) -> torch.Tensor:
    """Another batch, and where filters do not know the size another size."""
    more = 3 if "tiled" in name else 0
    return torch.randn(5, x.shape[1], *(size + more for size in x.shape[2:]))


@pytest.mark.parametrize("name", LAYERS)
def test_exports_with_dynamic_batch(name):
    module, x = LAYERS[name].pair()
    program = torch.export.export(module, (x,), dynamic_shapes=(dynamic(name, x.ndim),))
    assert "symconv" not in str(program.graph)  # runs where this package is not
    other = other_input(name, x)
    torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in SLOW_TO_CONVERT])
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_equals_eager(name, tmp_path):
    module, x = LAYERS[name].pair()
    shapes = (dynamic(name, x.ndim),)
    program = torch.onnx.export(module.eval(), (x,), dynamo=True, dynamic_shapes=shapes)
    assert program is not None
    program.save(str(tmp_path / "layer.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"))
    other = other_input(name, x)
    (y,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    np.testing.assert_allclose(y, module(other).detach().numpy(), rtol=1e-4, atol=1e-5)


@every_layer
def test_half_precision(layer):
    module, x = layer.pair()
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert y.dtype == (x.dtype if isinstance(module, sc.nn.BiasMap) else torch.bfloat16)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in module.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # double precision stays
        assert module.double()(x.double()).dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        y = module.to(dtype)(x.to(dtype))
        y.sum().backward()
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@every_layer
def test_empty_batch(layer):
    module, x = layer.pair()
    empty = x[:0].clone().requires_grad_()
    y = module(empty)
    y.sum().backward()
    assert y.shape == (0, *module(x).shape[1:])
    assert empty.grad is not None
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


@every_layer
def test_any_memory_layout(layer):
    module, x = layer.pair()
    expected = module(x)
    layouts = [x.repeat_interleave(2, 0)[::2], x.movedim(-1, 0).contiguous().movedim(0, -1)]
    if x.ndim == 4:
        layouts.append(x.to(memory_format=torch.channels_last))
    for same in layouts:
        torch.testing.assert_close(module(same), expected)


@every_layer
def test_no_batch_at_all(layer):
    module, x = layer.pair()
    torch.testing.assert_close(module(x[0]), module(x)[0])


def test_trains_in_a_sequence():
    torch.manual_seed(0)
    net = nn.Sequential(
        sc.nn.LocallyConnected2d(1, 4, 3, 8, padding=1),
        nn.ReLU(),
        sc.nn.TiledConv2d(4, 4, 3, 2, padding=1),
        sc.nn.BiasMap(4, (8, 8)),
        nn.ReLU(),
        nn.Flatten(),
        sc.nn.SparseLinear(256, 2, 32),
    )
    x = torch.randn(64, 1, 8, 8)
    target = (x.mean((1, 2, 3)) > 0).long()
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.01), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
