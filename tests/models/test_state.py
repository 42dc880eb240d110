"""Compiled, exported, saved, copied, written out in plain torch layers, trained."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import symconv as sc
from models.networks import CLASSIFIERS, UNETS, classifier, shaken, still, unet

NAMES = [*CLASSIFIERS, "unet, transposed", "unet, linear"]


def network_and_input(name, group="C4", dtype=torch.float64, batch=2):
    if name in UNETS:
        group = sc.groups.parse(group) if group else None
        network, size = unet(name, group, group.vector(1) if group else 2)
    else:
        network, size = classifier(name, group)
    dimension = network.kit.dimension
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, *(size,) * dimension, generator=generator, dtype=torch.float64)
    return shaken(network).to(dtype), x.to(dtype)


@pytest.mark.parametrize("group", ["C4", None])
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("resnet-18", "resnet-50, odd")]
)
def test_compiled_and_exported(name, group):
    torch.compiler.reset()
    network, x = network_and_input(name, group)
    with torch.no_grad():
        expected = network(x)
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x), expected, rtol=1e-10, atol=1e-10)
        dynamic = {0: torch.export.Dim("batch", min=2)}
        program = torch.export.export(
            network, (torch.cat([x, x]),), dynamic_shapes=({**dynamic},)
        ).module()
        assert torch.allclose(program(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet-8", "convnext", "unet, transposed"])
def test_compiled_in_training(name):
    network, x = network_and_input(name)
    torch.compiler.reset()
    network, twin = still(network), still(copy.deepcopy(network))
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    network(x).square().sum().backward()
    compiled(x).square().sum().backward()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_copied(name):
    network, x = network_and_input(name)
    expected = network(x)
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    copies = [
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(saved, weights_only=False),
    ]
    fresh = network.recipe(network.kit).double()
    assert not torch.equal(fresh.eval()(x), expected)
    fresh.train().load_state_dict(network.state_dict())
    for other in (*copies, fresh.eval()):
        assert torch.equal(other(x), expected)
    assert sc.models.twin(copies[1]).kit.group is None


@pytest.mark.parametrize("name", NAMES)
def test_plain_torch_layers(name, tmp_path):
    network, x = network_and_input(name)
    expected = network(x)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plain = sc.export.plain(network)
    assert torch.allclose(plain(x), expected, rtol=1e-10, atol=1e-10)
    assert not [m for m in plain.modules() if type(m).__module__.startswith("symconv")]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    exported = torch.export.export(plain, (x,)).module()
    assert torch.allclose(exported(x), expected, rtol=1e-10, atol=1e-10)


def test_a_plain_network_loads_without_this_package(tmp_path):
    network, x = network_and_input("resnet-8")
    torch.save((sc.export.plain(network), x, network(x).detach()), tmp_path / "plain.pt")
    program = f"""
import sys
sys.modules["symconv"] = None
import torch
net, x, expected = torch.load({str(tmp_path / "plain.pt")!r}, weights_only=False)
assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("group", ["C4", None])
@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_batch(name, group):
    network, x = network_and_input(name, group)
    step, n = network.stride, network.kit.dimension
    for more in (0, step, 3 * step):
        size = (*x.shape[2:-1], x.shape[-1] + more)
        y = network(torch.randn(1, 2, *size, dtype=x.dtype))
        assert y.shape == ((1, 3) if name in CLASSIFIERS else (1, 2, *size))
        assert network(torch.zeros(0, 2, *size, dtype=x.dtype)).shape == (0, *y.shape[1:])
    assert n == 2


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    network, x = network_and_input(name, dtype=torch.float32)
    with torch.no_grad():
        for _ in range(30):  # norms that know their input: without, 50 layers multiply its scale
            network.train()(x)
        expected = network.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
    assert torch.isfinite(y).all()
    assert (y - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("group", ["C4", None])
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "resnet-50, odd"])
def test_it_learns(name, group):
    """Two classes that differ by their texture, from the initial weights of each family."""
    torch.manual_seed(0)
    options = {"match": None} if group is None else {"match": "params"}
    network = WIDER[name](group, classes=2, in_channels=1, **options)
    size = CLASSIFIERS[name][1][2]
    x = torch.randn(32, 1, size, size)
    labels = torch.arange(32) % 2
    smooth = nn.functional.avg_pool2d(x, 3, 1, 1) * 3
    x = torch.where(labels.view(-1, 1, 1, 1) > 0, x, smooth)
    # without norms large steps kill a whole layer
    step = torch.optim.AdamW(network.parameters(), 5e-4 if name == "all-cnn" else 3e-3)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), labels)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[0] < 3
    assert sum(losses[-5:]) / 5 < 0.35


WIDER = {
    "resnet-18": lambda g, **o: sc.models.resnet(18, g, width=8, **o),
    "resnet-8": lambda g, **o: sc.models.resnet(8, g, width=8, zero_init=True, **o),
    "wide resnet": lambda g, **o: sc.models.wide_resnet(10, 2, g, width=8, **o),
    "convnext": lambda g, **o: sc.models.convnext((1, 1), g, width=16, layer_scale=0.1, **o),
    "all-cnn": lambda g, **o: sc.models.all_cnn(g, width=16, dropout=(0.0, 0.0), **o),
    "all-cnn, odd": lambda g, **o: sc.models.all_cnn(g, width=16, windows="odd", norm=True,
                                                     dropout=(0.0, 0.0), **o),
}  # fmt: skip


def test_initial_maps_have_the_scale_of_the_plain_network():
    """The same variance of every entry of a filter, whatever the group."""
    for group in ("C4", "D4"):
        torch.manual_seed(0)
        pair = [sc.models.resnet(20, g, width=16, classes=4) for g in (None, group)]
        for a, b in zip(*(sc.models.kit.convolutions(net) for net in pair), strict=True):
            if b.weight.numel() > 500:
                ratio = float(b.filter().detach().std() / a.weight.detach().std())
                assert abs(ratio - 1) < 0.1


def test_stochastic_depth_drops_whole_branches():
    torch.manual_seed(0)
    branch = sc.models.convnexts.DropBranch(0.25)
    y = branch(torch.ones(4000, 2, 3))
    assert set(y.flatten(1).unique(dim=1).flatten().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    assert abs(float(y.mean()) - 1) < 0.05
    assert torch.equal(branch.eval()(y), y)


def test_blocks_begin_as_the_identity_on_request():
    for group in ("C4", None):
        network = sc.models.resnet(8, group, width=8, zero_init=True, classes=3)
        block = network.stages[0][0]
        x = torch.rand(2, block.body[0].in_channels, 8, 8)
        assert torch.equal(block(x), x)
