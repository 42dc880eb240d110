"""Layers whose structure you choose: drop-in modules beside torch's own."""

from symconv.nn.attention_pool import AttentionPool1d, AttentionPool2d, AttentionPool3d
from symconv.nn.bias_map import BiasMap
from symconv.nn.blur_pool import BlurPool1d, BlurPool2d, BlurPool3d
from symconv.nn.centring import OffCentreWarning
from symconv.nn.field_activation import FieldGated, FieldNormReLU
from symconv.nn.field_dropout import FieldDropout
from symconv.nn.field_norm import FieldBatchNorm, FieldLayerNorm
from symconv.nn.field_pool import (
    FieldAvgPool1d,
    FieldAvgPool2d,
    FieldAvgPool3d,
    FieldMaxPool1d,
    FieldMaxPool2d,
    FieldMaxPool3d,
)
from symconv.nn.field_upsample import FieldUpsample
from symconv.nn.group_conv import GroupConv1d, GroupConv2d, GroupConv3d
from symconv.nn.group_conv_transpose import (
    GroupConvTranspose1d,
    GroupConvTranspose2d,
    GroupConvTranspose3d,
)
from symconv.nn.group_pool import GroupPool
from symconv.nn.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from symconv.nn.local_transpose import (
    LocallyConnectedTranspose1d,
    LocallyConnectedTranspose2d,
    LocallyConnectedTranspose3d,
)
from symconv.nn.pointwise import check_pointwise
from symconv.nn.pointwise_chain import PointwiseChain
from symconv.nn.polyphase_conv import PolyphaseConv1d, PolyphaseConv2d, PolyphaseConv3d
from symconv.nn.polyphase_pool import PolyphasePool1d, PolyphasePool2d, PolyphasePool3d
from symconv.nn.polyphase_upsample import (
    PolyphaseUpsample1d,
    PolyphaseUpsample2d,
    PolyphaseUpsample3d,
)
from symconv.nn.pyramid_pool import (
    SpatialPyramidPool1d,
    SpatialPyramidPool2d,
    SpatialPyramidPool3d,
)
from symconv.nn.region import RegionConv1d, RegionConv2d, RegionConv3d
from symconv.nn.scale_conv import ScaleConv1d, ScaleConv2d
from symconv.nn.scale_pool import ScalePool
from symconv.nn.sparse import SparseLinear
from symconv.nn.tiled import TiledConv1d, TiledConv2d, TiledConv3d

__all__ = [
    "AttentionPool1d",
    "AttentionPool2d",
    "AttentionPool3d",
    "BiasMap",
    "BlurPool1d",
    "BlurPool2d",
    "BlurPool3d",
    "FieldAvgPool1d",
    "FieldAvgPool2d",
    "FieldAvgPool3d",
    "FieldBatchNorm",
    "FieldDropout",
    "FieldGated",
    "FieldLayerNorm",
    "FieldMaxPool1d",
    "FieldMaxPool2d",
    "FieldMaxPool3d",
    "FieldNormReLU",
    "FieldUpsample",
    "GroupConv1d",
    "GroupConv2d",
    "GroupConv3d",
    "GroupConvTranspose1d",
    "GroupConvTranspose2d",
    "GroupConvTranspose3d",
    "GroupPool",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
    "LocallyConnectedTranspose1d",
    "LocallyConnectedTranspose2d",
    "LocallyConnectedTranspose3d",
    "OffCentreWarning",
    "PointwiseChain",
    "PolyphaseConv1d",
    "PolyphaseConv2d",
    "PolyphaseConv3d",
    "PolyphasePool1d",
    "PolyphasePool2d",
    "PolyphasePool3d",
    "PolyphaseUpsample1d",
    "PolyphaseUpsample2d",
    "PolyphaseUpsample3d",
    "RegionConv1d",
    "RegionConv2d",
    "RegionConv3d",
    "ScaleConv1d",
    "ScaleConv2d",
    "ScalePool",
    "SparseLinear",
    "SpatialPyramidPool1d",
    "SpatialPyramidPool2d",
    "SpatialPyramidPool3d",
    "TiledConv1d",
    "TiledConv2d",
    "TiledConv3d",
    "check_pointwise",
]
