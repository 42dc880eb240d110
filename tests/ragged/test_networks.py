"""Networks as people write them run unchanged on mixed sizes; each item gets what it gets alone.

Definitions in torchvision's style always; torchvision's and timm's own where they are installed.
"""

import copy
import importlib

import pytest
import torch
from torch import nn

import symconv as sc
from ragged.networks import CLASSIFIERS, MAPS, prepared

SIZES = (32, 48), (64, 40), (36, 36), (64, 64), (32, 32)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def pictures(sizes=SIZES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator, dtype=dtype) for size in sizes]


def parts(y):
    """The results item by item, whether they still have space or not."""
    return list(y.unbind()) if isinstance(y, sc.Ragged) else list(y)


def error(found, wanted):
    """Largest relative error over the items, each in the maximum norm."""
    pairs = list(zip(found, wanted, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs)


def alone(model, items):
    """What each item gets by itself."""
    return [model(item[None])[0] for item in items]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [*CLASSIFIERS, *MAPS])
def test_each_item_gets_what_it_gets_alone(name, dtype):
    model, items = prepared((CLASSIFIERS | MAPS)[name], dtype), pictures(dtype=dtype)
    with torch.no_grad():
        y = model(sc.Ragged(items))
        assert isinstance(y, sc.Ragged) == (name in MAPS)
        assert error(parts(y), alone(model, items)) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *MAPS])
def test_gradients_are_the_sums_of_those_alone(name):
    model, items = prepared((CLASSIFIERS | MAPS)[name]), pictures()
    leaves = [*model.parameters(), *[item.requires_grad_() for item in items]]

    def gradients(outputs):
        return torch.autograd.grad(sum(y.square().mean() for y in outputs), leaves)

    found = gradients(parts(model(sc.Ragged(items))))
    assert error(found, gradients(alone(model, items))) < 1e-10


@pytest.mark.parametrize("name", [*CLASSIFIERS, *MAPS])
def test_training_on_equal_sizes_is_training_on_a_tensor(name):
    """Batch norm too: its statistics, and the running ones that it leaves."""
    model = prepared((CLASSIFIERS | MAPS)[name]).train()
    other, items = copy.deepcopy(model), pictures([(32, 40)] * 3)
    steps = []
    for network, x in ((model, sc.Ragged(items)), (other, torch.stack(items))):
        torch.manual_seed(1)  # for dropout
        outputs = parts(network(x))
        sum(y.square().mean() for y in outputs).backward()
        grads = [p.grad for p in network.parameters()]
        kept = [b.double() for b in network.buffers()]
        steps.append((outputs, grads, kept))
    dropped = any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    for found, wanted in zip(*steps, strict=True):
        if wanted and not dropped:
            assert largest(found, wanted) < 1e-10


def largest(found, wanted):
    """Largest error over all values, relative to the largest value."""
    top = max(float(b.detach().abs().max()) for b in wanted)
    return (
        max(float((a - b).detach().abs().max()) for a, b in zip(found, wanted, strict=True)) / top
    )


@pytest.mark.parametrize("name", [*CLASSIFIERS, *MAPS])
def test_training_does_not_depend_on_the_canvases(name):
    """However items share canvases, batch norm sees the same cells."""
    model = prepared((CLASSIFIERS | MAPS)[name]).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    steps = []
    for step in (1, 16, 64):
        network = copy.deepcopy(model)
        outputs = parts(network(sc.Ragged(pictures(), multiple_of=step)))
        sum(y.square().mean() for y in outputs).backward()
        grads = [p.grad for p in network.parameters()]
        steps.append((outputs, grads, [b.double() for b in network.buffers()]))
    for other in steps[1:]:
        for found, wanted in zip(other, steps[0], strict=True):
            assert not wanted or largest(found, wanted) < 1e-10


def test_stochastic_depth_drops_whole_items():
    """Noise of shape (batch, 1, 1, 1), as torchvision draws it."""
    model = prepared(lambda: CLASSIFIERS["convnext"](p=0.5)).train()
    items = pictures()
    torch.manual_seed(3)
    first = model(sc.Ragged(items))
    torch.manual_seed(3)
    again = model(sc.Ragged(items, multiple_of=64))
    torch.manual_seed(4)
    other = model(sc.Ragged(items))
    assert error(first, again) < 1e-12
    assert error(first, other) > 1e-3


def test_naive_padding_would_be_seen():
    """The negative control: the same networks on one canvas of zeros."""
    items = pictures()
    canvas = torch.zeros(len(items), 3, 64, 64, dtype=torch.float64)
    for place, item in zip(canvas, items, strict=True):
        place[:, : item.shape[1], : item.shape[2]] = item
    for build in CLASSIFIERS.values():
        model = prepared(build)
        with torch.no_grad():
            assert error(list(model(canvas)), alone(model, items)) > 1e-3


def test_an_own_network_takes_mixed_sizes():
    """Group convolutions, field norms and pools of this library among them."""
    for model in (
        sc.models.resnet(8, "C4", width=8, classes=5, match=None),
        sc.models.resnet(8, width=8, classes=5),
    ):
        items = pictures()
        model = prepared(lambda model=model: model)
        with torch.no_grad():
            assert error(list(model(sc.Ragged(items))), alone(model, items)) < 1e-12


# The libraries' own

TORCHVISION = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg11_bn",
    "vgg11",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "densenet121",
    "convnext_tiny",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "regnet_x_400mf",
    "squeezenet1_1",
    "googlenet",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "alexnet",
]
TIMM = [
    "resnet18",
    "resnet50d",
    "seresnet50",
    "resnetv2_50",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "densenet121",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "regnety_002",
    "vgg11_bn",
    "repvgg_a0",
    "ghostnet_100",
    "dla34",
    "xception41",
    "mixnet_s",
    "lcnet_050",
    "tinynet_e",
    "fbnetc_100",
    "nfnet_l0",
]
LARGER = (96, 130), (160, 112), (128, 128)
HALVING = (96, 128), (160, 96), (128, 128)  # where a network alone takes multiples of 32 only


def library(name):
    """The library, or skip where it cannot be used (torchvision beside another torch, say)."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as reason:
        pytest.skip(f"{name}: {reason}")


def agrees(build, sizes=LARGER):
    """In double precision; and in single, up to what rounding does to the network alone."""
    model, items = prepared(build, torch.float32), pictures(sizes, torch.float32)
    exact, doubles = copy.deepcopy(model).double(), [item.double() for item in items]
    with torch.no_grad():
        truth, single = alone(exact, doubles), alone(model, items)
        assert error(list(exact(sc.Ragged(doubles))), truth) < 1e-12
        rounding = error(single, truth)
        assert error(list(model(sc.Ragged(items))), single) < max(1e-5, rounding)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_own(name):
    models = library("torchvision.models")
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    agrees(lambda: models.get_model(name, weights=None, **options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMM)
def test_timms_own(name):
    timm = library("timm")
    agrees(lambda: timm.create_model(name), HALVING if name == "dla34" else LARGER)
