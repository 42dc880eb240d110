"""Well-known networks, written from their papers: what the audit is checked on.

Layers, names of stages and parameters agree with the published counts (`PARAMETERS`).
"""

import torch
import torch.nn.functional as F
from torch import nn

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "mobilenet_v2": 3_504_872,
    "vit_b_16": 86_567_656,
    "swin_t": 28_288_354,
    "convnext_t": 28_589_128,
}


# He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition (2016)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inside, width, stride, mode):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False, padding_mode=mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False, padding_mode=mode)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inside, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside, width, stride, mode):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # the stride stands on the 3x3 convolution, as torchvision has it ("V1.5")
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False, padding_mode=mode)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inside, 4 * width, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inside, outside, stride):
    if stride == 1 and inside == outside:
        return None
    conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    def __init__(self, block, depths, classes=1000, padding_mode="zeros", width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False, padding_mode=padding_mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = width
        for stage, depth in enumerate(depths):
            wide, blocks = width * 2**stage, []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(block(inside, wide, stride, padding_mode))
                inside = wide * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(**options):
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet50(**options):
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


# Simonyan, Zisserman, Very Deep Convolutional Networks (2015), configuration D


class VGG(nn.Module):
    def __init__(self, stages, classes=1000):
        super().__init__()
        layers, inside = [], 3
        for width, depth in stages:
            for _ in range(depth):
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU(inplace=True)]
                inside = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(inside * 49, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg16(**options):
    return VGG(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), **options)


# Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2 (2018)


def conv_bn(inside, outside, kernel=3, stride=1, groups=1):
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, inside, outside, stride, expand):
        super().__init__()
        hidden = inside * expand
        layers = [conv_bn(inside, hidden, 1)] if expand != 1 else []
        layers += [
            conv_bn(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        ]
        self.conv = nn.Sequential(*layers)
        self.same = stride == 1 and inside == outside

    def forward(self, x):
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(nn.Module):
    # expansion, channels, blocks, first stride
    rows = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)
    rows += (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)

    def __init__(self, classes=1000):
        super().__init__()
        layers, inside = [conv_bn(3, 32, 3, 2)], 32
        for expand, outside, blocks, stride in self.rows:
            for index in range(blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(inside, outside, step, expand))
                inside = outside
        self.features = nn.Sequential(*layers, conv_bn(inside, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(**options):
    return MobileNetV2(**options)


# Dosovitskiy et al., An Image is Worth 16x16 Words (2021)


class EncoderBlock(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    def __init__(self, size=224, patch=16, depth=12, heads=12, width=768, classes=1000):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = (size // patch) ** 2 + 1
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        blocks = [EncoderBlock(width, heads, 4 * width) for _ in range(depth)]
        self.layers = nn.Sequential(*blocks)
        self.ln = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        return self.head(self.ln(self.layers(x))[:, 0])


def vit_b_16(**options):
    return VisionTransformer(**options)


# Liu et al., Swin Transformer (2021)


class WindowAttention(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        table = torch.randn((2 * window - 1) ** 2, heads) * 0.02
        self.relative_position_bias_table = nn.Parameter(table)
        at = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("relative_position_index", apart[0] * (2 * window - 1) + apart[1])

    def forward(self, x):
        b, h, w, c = x.shape
        n = self.window
        x = F.pad(x, (0, 0, 0, -w % n, 0, -h % n))
        rows, columns = x.shape[1] // n, x.shape[2] // n
        shifts = [self.shift if cells > 1 else 0 for cells in (rows, columns)]
        x = torch.roll(x, [-s for s in shifts], (1, 2))
        x = x.view(b, rows, n, columns, n, c).transpose(2, 3).reshape(-1, n * n, c)
        q, k, v = self.qkv(x).view(len(x), n * n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        scores = scores + bias.view(n * n, n * n, -1).permute(2, 0, 1)
        if any(shifts):
            mask = self.mask(rows, columns, shifts, x)
            scores = scores.view(b, rows * columns, self.heads, n * n, n * n) + mask[:, None]
            scores = scores.flatten(0, 1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = self.proj(y).view(b, rows, columns, n, n, c).transpose(2, 3)
        y = y.reshape(b, rows * n, columns * n, c)
        return torch.roll(y, shifts, (1, 2))[:, :h, :w]

    def mask(self, rows, columns, shifts, x):
        """Minus 100 between positions that the shift brought together from opposite borders."""
        n, labels = self.window, []
        for cells, shift in zip((rows, columns), shifts, strict=True):
            at = torch.arange(cells * n, device=x.device)
            labels.append((at >= cells * n - n).int() + (at >= cells * n - shift).int())
        region = labels[0][:, None] * 3 + labels[1]
        region = region.view(rows, n, columns, n).transpose(1, 2).reshape(-1, n * n)
        return (region[:, None] != region[:, :, None]) * -100.0


class SwinBlock(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shift)
        layers = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(*layers)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class SwinTransformer(nn.Module):
    def __init__(self, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), classes=1000):
        super().__init__()
        window, layers = 7, []
        self.patch, self.norm0 = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                layers.append(PatchMerging(width))
                width *= 2
            for index in range(depth):
                layers.append(SwinBlock(width, number, window, window // 2 * (index % 2)))
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.norm0(self.patch(x).permute(0, 2, 3, 1))
        return self.head(self.norm(self.features(x)).mean((1, 2)))


def swin_t(**options):
    return SwinTransformer(**options)


# Liu et al., A ConvNet for the 2020s (2022)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, widths=(96, 192, 384, 768), depths=(3, 3, 9, 3), classes=1000):
        super().__init__()
        layers = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                inside = widths[stage - 1]
                layers += [LayerNorm2d(inside, eps=1e-6), nn.Conv2d(inside, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x):
        return self.head(self.norm(self.features(x).mean((2, 3))))


def convnext_t(**options):
    return ConvNeXt(**options)
