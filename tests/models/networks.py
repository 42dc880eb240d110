"""Small reference networks for the tests: one table, family -> builder and centred size."""

import torch
from torch import nn

import symconv as sc

models = sc.models

CLASSES = 3

# name -> (builder from group and options, a centred size by dimension)
CLASSIFIERS = {
    "resnet-18": (lambda g, **o: models.resnet(18, g, width=2, **o), {1: 64, 2: 32}),
    "resnet-50, odd": (
        lambda g, **o: models.resnet(50, g, width=2, windows="odd", stem="small", **o),
        {1: 33, 2: 17, 3: 9},
    ),
    "resnet-8": (lambda g, **o: models.resnet(8, g, width=2, zero_init=True, **o),
                 {1: 12, 2: 12, 3: 8}),
    "wide resnet": (
        lambda g, **o: models.wide_resnet(10, 2, g, width=2, dropout=0.2, **o), {1: 12, 2: 8}
    ),
    "convnext": (
        lambda g, **o: models.convnext((1, 1), g, width=2, drop_path=0.2, **o),
        {1: 24, 2: 16, 3: 8},
    ),
    "all-cnn": (lambda g, **o: models.all_cnn(g, width=4, **o), {1: 16, 2: 16, 3: 12}),
    "all-cnn, odd": (
        lambda g, **o: models.all_cnn(g, width=2, windows="odd", norm=True, **o), {1: 17, 2: 17}
    ),
}  # fmt: skip
UNETS = {
    f"unet, {up}": (lambda g, up=up, **o: models.unet(width=2, group=g, levels=2, up=up, **o),
                    {1: 12, 2: 8, 3: 4})
    for up in ("transposed", "nearest", "linear")
}  # fmt: skip
GROUPS = {1: ["mirror"], 2: ["C4", "D4"], 3: ["O", "Oh"]}


def classifier(name, group, **options):
    """A small network of a family, and a size that is centred."""
    torch.manual_seed(0)
    build, sizes = CLASSIFIERS[name]
    options = dict(match=None, classes=CLASSES, in_channels=2) | options
    network = build(group, **options)
    return network, sizes[network.kit.dimension]


def unet(name, group, out, **options):
    torch.manual_seed(0)
    build, sizes = UNETS[name]
    network = build(group, out_channels=out, **dict(match=None, in_channels=2) | options)
    return network, sizes[network.kit.dimension]


def shaken(network, seed=0):
    """The network in float64 with random parameters and statistics: none is at its start."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).double() * 0.2)
        for part in network.modules():
            if getattr(part, "running_var", None) is not None:
                part.running_var.uniform_(0.5, 2, generator=generator)
                part.running_mean.uniform_(-0.5, 0.5, generator=generator)
    return network


def still(network):
    """In training but for what draws at random."""
    for part in network.train().modules():
        if isinstance(part, (nn.Dropout, sc.nn.FieldDropout)) or hasattr(part, "p"):
            part.eval()
    return network


def parameters(network):
    return sum(p.numel() for p in network.parameters())
