"""Reference networks: each plain or equivariant from the same code, and twins to compare."""

from symconv.models.all_cnns import AllCNN, all_cnn
from symconv.models.convnexts import ConvNeXt, convnext
from symconv.models.matching import twin
from symconv.models.network import Network
from symconv.models.resnets import ResNet, WideResNet, resnet, wide_resnet
from symconv.models.small import (
    Place,
    SmallNetwork,
    max_pool,
    no_pool,
    parameters,
    plain_norm,
    widest,
)
from symconv.models.unets import UNet, unet

__all__ = [
    "AllCNN",
    "ConvNeXt",
    "Network",
    "Place",
    "ResNet",
    "SmallNetwork",
    "UNet",
    "WideResNet",
    "all_cnn",
    "convnext",
    "max_pool",
    "no_pool",
    "parameters",
    "plain_norm",
    "resnet",
    "twin",
    "unet",
    "wide_resnet",
    "widest",
]
