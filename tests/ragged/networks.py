"""More networks in torchvision's style, small: with what those of the audit's tests lack.

Concatenation (DenseNet, U-Net, Inception), gates (squeeze and excitation), shuffled channels,
stochastic depth, channels-last norms by functional calls, transposed convolutions.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from auditing import networks as written


def prepared(build, dtype=torch.float64, seed=0):
    """The network in eval mode, its batch norms as after some training: no identity."""
    torch.manual_seed(seed)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.to(dtype).eval()


# Ronneberger, Fischer, Brox, U-Net (2015)


def double(inside, outside):
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, width=8, levels=2, classes=2, bilinear=False):
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.first = double(3, width)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(double(a, b) for a, b in pairwise(widths))
        self.lift, self.up = nn.ModuleList(), nn.ModuleList()
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            if bilinear:
                grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
                self.lift.append(nn.Sequential(grow, nn.Conv2d(a, b, 1)))
            else:
                self.lift.append(nn.ConvTranspose2d(a, b, 2, stride=2))
            self.up.append(double(2 * b, b))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        kept = [self.first(x)]
        for layer in self.down:
            kept.append(layer(self.pool(kept[-1])))
        x = kept.pop()
        for lift, layer in zip(self.lift, self.up, strict=True):
            x = layer(torch.cat([kept.pop(), lift(x)], dim=1))
        return self.last(x)


# Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks (2017)


class DenseLayer(nn.Module):
    def __init__(self, inside, growth):
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inside), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inside, 4 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return F.dropout(self.conv2(self.relu2(self.norm2(x))), p=0.0, training=self.training)


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers, inside, growth):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(inside + i * growth, growth))

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self, growth=4, blocks=(2, 3), start=8, classes=5):
        super().__init__()
        layers = [
            nn.Conv2d(3, start, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(start),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        width = start
        for i, count in enumerate(blocks):
            layers.append(DenseBlock(count, width, growth))
            width += count * growth
            if i < len(blocks) - 1:
                layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, stride=2)]
                width //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        out = F.relu(self.features(x), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


# Howard et al., Searching for MobileNetV3 (2019); Hu, Shen, Sun, Squeeze-and-Excitation (2018)


class SqueezeExcitation(nn.Module):
    def __init__(self, width, squeezed):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x):
        scale = F.hardsigmoid(self.fc2(F.relu(self.fc1(self.avgpool(x)))))
        return scale * x


class MobileNetV3(nn.Module):
    def __init__(self, width=16, classes=5):
        super().__init__()
        act = nn.Hardswish

        def block(inside, hidden, outside, stride):
            return nn.Sequential(
                nn.Conv2d(inside, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden, eps=0.001, momentum=0.01),
                act(inplace=True),
                nn.Conv2d(hidden, hidden, 5, stride, 2, groups=hidden, bias=False),
                nn.BatchNorm2d(hidden, eps=0.001, momentum=0.01),
                SqueezeExcitation(hidden, 4),
                act(inplace=True),
                nn.Conv2d(hidden, outside, 1, bias=False),
                nn.BatchNorm2d(outside, eps=0.001, momentum=0.01),
            )

        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), act(inplace=True)
        )
        self.blocks = nn.ModuleList([block(width, 2 * width, width, s) for s in (1, 1)])
        self.down = block(width, 3 * width, 2 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(2 * width, 32), act(inplace=True), nn.Dropout(p=0.0), nn.Linear(32, classes)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            y += x
            x = y
        return self.classifier(torch.flatten(self.avgpool(self.down(x)), 1))


# Ma, Zhang, Zheng, Sun, ShuffleNet V2 (2018)


def channel_shuffle(x, groups):
    batchsize, num_channels, height, width = x.size()
    x = x.view(batchsize, groups, num_channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.stride, half = stride, outside // 2

        def branch(width, first):
            layers = []
            if first:
                layers += [nn.Conv2d(width, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()]
                width = half
            layers += [
                nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
                nn.BatchNorm2d(width),
                nn.Conv2d(width, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            ]
            return nn.Sequential(*layers)

        self.branch1 = branch(inside, False) if stride > 1 else nn.Sequential()
        self.branch2 = branch(inside if stride > 1 else half, True)

    def forward(self, x):
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, width=8, classes=5):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage2 = nn.Sequential(
            ShuffleUnit(width, 2 * width, 2), ShuffleUnit(2 * width, 2 * width, 1)
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.stage2(self.maxpool(self.conv1(x)))
        return self.fc(x.mean([2, 3]))


# Liu et al., A ConvNet for the 2020s (2022), as torchvision has it


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return torch.permute(x, self.dims)


def stochastic_depth(x, p, training):
    """Whole items dropped: what torchvision calls mode "row"."""
    if not training or p == 0.0:
        return x
    noise = torch.empty([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return x * noise.bernoulli_(1 - p).div_(1 - p)


class CNBlock(nn.Module):
    def __init__(self, width, p):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width, bias=True),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale, self.p = nn.Parameter(torch.ones(width, 1, 1) * 0.5), p

    def forward(self, x):
        result = self.layer_scale * self.block(x)
        result = stochastic_depth(result, self.p, self.training)
        result += x
        return result


class ConvNeXt(nn.Module):
    def __init__(self, widths=(8, 16), depth=2, classes=5, p=0.0):
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))]
        for i, width in enumerate(widths):
            if i:
                inside = widths[i - 1]
                down = LayerNorm2d(inside, eps=1e-6), nn.Conv2d(inside, width, 2, 2)
                layers.append(nn.Sequential(*down))
            layers.append(nn.Sequential(*[CNBlock(width, p) for _ in range(depth)]))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(widths[-1], eps=1e-6), nn.Flatten(1), nn.Linear(widths[-1], classes)
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)))


# Szegedy et al., Going Deeper with Convolutions (2015), and the pools that SqueezeNet rounds up


class Inception(nn.Module):
    def __init__(self, inside, width):
        super().__init__()
        self.branch1 = nn.Conv2d(inside, width, 1)
        self.branch2 = nn.Sequential(
            nn.Conv2d(inside, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            nn.Conv2d(inside, width, 1),
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self, width=4, classes=5):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm = nn.GroupNorm(2, 3 * width)
        self.inception1, self.inception2 = Inception(width, width), Inception(3 * width, width)
        self.meanpool = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.final = nn.Conv2d(3 * width, classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x):
        # torchvision's way to match other weights' colours
        x = torch.cat([torch.unsqueeze(x[:, i], 1) * (0.4 + 0.1 * i) for i in range(3)], 1)
        x = self.maxpool(F.relu(self.conv(x)))
        x = self.meanpool(F.silu(self.norm(self.inception1(x))))
        x = self.avgpool(F.relu(self.final(self.inception2(x))))
        return torch.flatten(x, 1)


def vgg_bn(width=4, classes=5):
    """VGG with batch norm and a small head on 2 x 2 bins."""
    layers, inside = [], 3
    for outside in (width, 2 * width):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)]
        inside = outside
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * inside, classes)
    return nn.Sequential(*layers, *head)


# name -> how to build it: those of the audit's tests, narrower, and those above
CLASSIFIERS = {
    "resnet18": lambda: written.resnet18(width=8, classes=5),
    "resnet50": lambda: written.resnet50(width=4, classes=5),
    "vgg": lambda: written.VGG(((4, 1), (8, 1), (8, 2)), classes=5),
    "vgg_bn": vgg_bn,
    "mobilenet_v2": lambda: written.mobilenet_v2(classes=5),
    "mobilenet_v3": MobileNetV3,
    "densenet": DenseNet,
    "shufflenet_v2": ShuffleNetV2,
    "convnext": ConvNeXt,
    "convnext_linear": lambda: written.ConvNeXt((8, 16), (1, 2), classes=5),
    "googlenet": GoogLeNet,
}
MAPS = {"unet": UNet, "unet_bilinear": lambda: UNet(bilinear=True)}
