"""Networks with one planted fault each, whose layer is known, and sound ones that have none.

A fault is (network, input, group, transform, layer): the audit must find the network broken
under the transform and name the layer. A sound network is (network, input, group, transforms): it
commutes with them, so no layer may be accused of breaking them.
"""

import torch
import torch.nn.functional as F
from torch import nn

import symconv as sc
from auditing.networks import resnet18

C4, D4, CUBE = (sc.groups.parse(name) for name in ("C4", "D4", "O"))


def conv(inside, outside, kernel=3, n=2, **options):
    """A circular convolution that keeps the size."""
    options = {"padding": kernel // 2, "padding_mode": "circular"} | options
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1](inside, outside, kernel, **options)


def picture(*shape):
    return torch.randn(shape, dtype=torch.float64)


class Between(nn.Module):
    """Two circular convolutions with a function of one's own between them."""

    def __init__(self, function, channels=6):
        super().__init__()
        self.first, self.last, self.function = conv(3, 6), conv(channels, 4), function

    def forward(self, x):
        return self.last(self.function(F.gelu(self.first(x))))


class Positions(nn.Module):
    """Learned positions are added to a map."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(1, 6, 16, 16))

    def forward(self, x):
        return x + self.embedding


class Coordinates(nn.Module):
    """Coordinates of the pixels as two more channels."""

    def forward(self, x):
        rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype).view(1, 1, -1, 1)
        columns = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype).view(1, 1, 1, -1)
        grid = [g.expand(len(x), 1, *x.shape[2:]) for g in (rows, columns)]
        return torch.cat([x, *grid], 1)


class Tokens(nn.Module):
    """Patches, attention, back to a map; with or without learned positions."""

    def __init__(self, positions, token=False):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.positions = nn.Parameter(torch.randn(1, 16, 8)) if positions else None
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if token else None

    def forward(self, x):
        x = self.patches(x)
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.positions is not None:
            x = x + self.positions
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        if self.token is not None:
            return x[:, 0]
        return x.transpose(1, 2).unflatten(2, size)


class Causal(nn.Module):
    """Padded on the left alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)

    def forward(self, x):
        return self.conv(F.pad(x, (2, 0), mode="circular"))


class Heads(nn.Module):
    """A dictionary of maps and a vector."""

    def __init__(self, **options):
        super().__init__()
        self.body = nn.Sequential(conv(3, 6), nn.ReLU())
        self.heads = nn.ModuleDict({"edges": conv(6, 2), "mask": conv(6, 1, **options)})

    def forward(self, x):
        x = self.body(x)
        return {"all": [head(x) for head in self.heads.values()], "mean": x.mean((2, 3))}


class UNet(nn.Module):
    """Down twice, up twice, with what was there before beside it."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = conv(3, 4), conv(4, 6), conv(6, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.four, self.five = conv(12, 4), conv(8, 2)

    def forward(self, x):
        a = F.relu(self.one(x))
        b = F.relu(self.two(F.max_pool2d(a, 2)))
        c = F.relu(self.three(F.max_pool2d(b, 2)))
        b = F.relu(self.four(torch.cat([self.up(c), b], 1)))
        return self.five(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1))


class Modern(nn.Module):
    """A ConvNeXt block: depthwise, then channels last."""

    def __init__(self):
        super().__init__()
        self.depthwise = conv(6, 6, 7, groups=6)
        self.norm = nn.LayerNorm(6)
        self.wide, self.narrow = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.inner, self.outer = nn.Linear(channels, 3), nn.Linear(3, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.outer(F.relu(self.inner(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class NonLocal(nn.Module):
    """Attention between all positions, written by hand."""

    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Conv2d(6, 18, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        q, k, v = self.project(x).flatten(2).chunk(3, 1)
        scores = (q.transpose(1, 2) @ k).softmax(-1)
        return self.out((v @ scores.transpose(1, 2)).view_as(x))


class Fourier(nn.Module):
    """A convolution over the whole torus, in the Fourier domain."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 16, 16, dtype=torch.float64))

    def forward(self, x):
        spectrum = torch.fft.rfft2(x) * torch.fft.rfft2(self.weight)
        return torch.fft.irfft2(spectrum, s=x.shape[-2:])


def group_net(group, n=2, stride=1, between=(), out=None, head=True):
    """Lifting, one more layer, and a projection to plain channels."""
    layer = getattr(sc.nn, f"GroupConv{n}d")
    hidden = group.regular(2)
    net = [layer(group.trivial(1), hidden, 3, padding=1), nn.ReLU()]
    net += list(between)
    net += [layer(hidden, out or hidden, 3, stride, 1)]
    return nn.Sequential(*net, *([nn.ReLU(), sc.nn.GroupPool(hidden)] if head else []))


def weighted(module):
    """The module with random weights in place of ones."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def shuffled(function):
    return nn.Sequential(conv(3, 6), function, nn.GELU(), conv(6, 4))


def _broken_by_shifts():
    """Name -> a network that a shift by one pixel shows to be broken, and the layer at fault."""
    yield "zero padding", shuffled(conv(6, 6, padding_mode="zeros")), "1"
    yield "reflection", shuffled(conv(6, 6, padding_mode="reflect")), "1"
    yield "max pool", shuffled(nn.MaxPool2d(2)), "1"
    yield "stride", shuffled(conv(6, 6, stride=2)), "1"
    yield "stride in one axis", shuffled(conv(6, 6, stride=(2, 1))), "1"
    yield "pool in forward", Between(lambda y: F.max_pool2d(y, 2)), ":max_pool2d"
    yield "subsampling", Between(lambda y: y[:, :, ::2, ::2]), ":getitem"
    yield "flip", Between(lambda y: y.flip(-1)), ":flip"
    yield "positions", shuffled(Positions()), "1:add"
    yield "coordinates", Between(Coordinates(), 8), "function:cat"
    yield "unshared", shuffled(sc.nn.LocallyConnected2d(6, 6, 1, (16, 16))), "1"
    yield "bias map", shuffled(weighted(sc.nn.BiasMap(6, (16, 16)))), "1"
    yield "norm with a map", shuffled(weighted(nn.LayerNorm((6, 16, 16)))), "1"
    yield "flattened", nn.Sequential(conv(3, 6), nn.Flatten(), nn.Linear(1536, 5)), "2"
    yield "upsampling", shuffled(nn.Upsample(scale_factor=2.0, mode="bilinear")), "1"
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(6, 6, 3))
    yield "padded apart", shuffled(padded), "1.1"
    yield "one head", Heads(padding_mode="zeros"), "heads.mask"


def _faults():
    for name, net, layer in _broken_by_shifts():
        yield name, net, picture(2, 3, 16, 16), None, "shift 1", layer
    yield "token positions", Tokens(True), picture(2, 3, 16, 16), None, "shift 4", ":add"
    volume = nn.Sequential(conv(1, 2, n=3), nn.AvgPool3d(2), nn.ReLU())
    yield "volume", volume, picture(1, 1, 6, 8, 8), None, "shift 1", "1"
    small = picture(2, 1, 9, 9)
    plain = group_net(C4, between=[conv(8, 8, padding_mode="zeros")])
    yield "plain layer", plain, small, "C4", "turn 90", "2"
    layers = [m for m in group_net(C4) if not isinstance(m, nn.ReLU)]
    slopes = nn.Sequential(layers[0], nn.Tanh(), weighted(nn.PReLU(8)), *layers[1:])
    yield "slopes", slopes, small, "C4", "turn 90", "2"
    norm = weighted(nn.GroupNorm(2, 8))
    yield "norm of channels", group_net(C4, between=[norm]), small, "C4", "turn 90", "2"
    off = group_net(C4, between=[nn.MaxPool2d(3, 2, 1)])
    yield "off-centre", off, picture(2, 1, 8, 8), "C4", "turn 90", "2"
    signed = group_net(D4, out=D4.vector(2), head=False).append(nn.ReLU())
    yield "signs", signed, small, "D4", "mirror", "3"
    yield "causal", Causal(), picture(1, 1, 12), "mirror", "mirror", "conv"


def _sound_under_shifts():
    """Name -> a network and the shift under which it is exact."""
    yield "circular", shuffled(nn.ReLU()), 1
    yield "written in place", shuffled(nn.ReLU(inplace=True)), 1
    yield "depthwise", shuffled(conv(6, 6, 5, groups=6)), 1
    yield "dilated", shuffled(conv(6, 6, dilation=2, padding=2)), 1
    yield "norms", shuffled(nn.Sequential(nn.BatchNorm2d(6), nn.GroupNorm(2, 6))), 1
    padded = Between(lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1), mode="circular"), 3, 1))
    yield "padded in forward", padded, 1
    yield "pooled", shuffled(nn.MaxPool2d(2)), 2
    yield "strided", shuffled(conv(6, 6, 6, stride=4, padding=1)), 4
    yield "skips", UNet(), 4
    yield "modern", shuffled(Modern()), 1
    yield "gate", shuffled(Gate(6)), 1
    yield "attention", Tokens(False), 4
    yield "class token", Tokens(False, True), 4
    yield "attention by hand", shuffled(NonLocal()), 1
    yield "Fourier", shuffled(Fourier()), 1
    fewer = nn.Sequential(nn.PixelUnshuffle(2), conv(24, 24), nn.PixelShuffle(2))
    yield "pixel shuffle", shuffled(fewer), 2
    yield "heads", Heads(), 1


def _sound():
    for name, net, step in _sound_under_shifts():
        yield name, net, picture(2, 3, 16, 16), None, [f"shift {step}"]
    yield "oblong", shuffled(nn.ReLU()), picture(1, 3, 9, 14), None, ["shift 1"]
    resnet = resnet18(classes=5, padding_mode="circular", width=4)
    resnet.maxpool = nn.Sequential(nn.CircularPad2d(1), nn.MaxPool2d(3, 2))
    yield "residual", resnet, picture(1, 3, 64, 64), None, ["shift 32"]
    line = nn.Sequential(conv(2, 4, n=1), nn.GELU(), nn.MaxPool1d(3))
    yield "line", line, picture(1, 2, 12), None, ["shift 3"]
    volume = nn.Sequential(conv(1, 2, n=3), nn.ReLU())
    yield "volume", volume, picture(1, 1, 4, 5, 6), None, ["shift 1"]
    odd = picture(2, 1, 9, 9)
    yield "C4", group_net(C4), odd, "C4", ["turn 90", "turn 180", "turn 270"]
    yield "C4, strided", group_net(C4, stride=2), odd, "C4", ["turn 90"]
    plain = nn.Sequential(nn.Flatten(1), nn.Linear(2, 3))
    classes = nn.Sequential(*group_net(C4), nn.AdaptiveAvgPool2d(1), *plain)
    yield "C4, classes", classes, odd, "C4", ["turn 90"]
    norm = group_net(D4, between=[sc.nn.FieldBatchNorm(D4.regular(2)), nn.AvgPool2d(3, 1, 1)])
    yield "D4", norm, odd, "D4", ["turn 90", "mirror", "mirror 90"]
    field = group_net(D4, out=D4.vector(2), head=False).append(nn.Tanh())
    yield "D4, vectors", field, odd, "D4", ["turn 90", "mirror", "mirror 270"]
    turns = ["turn 90 of axes +0 -2 +1", "turn 90 of axes -1 +0 +2"]
    yield "O", group_net(CUBE, n=3), picture(1, 1, 3, 3, 3), "O", turns
    mirror = sc.groups.parse("mirror")
    yield "mirror", group_net(mirror, n=1), picture(1, 1, 9), "mirror", ["mirror"]


def twin():
    """A network of C4 written as plain convolutions, which declare no fields."""
    return nn.Sequential(*(m.to_conv() if hasattr(m, "to_conv") else m for m in group_net(C4)))


def faults():
    """Name -> (network, input, group, transform, layer)."""
    torch.manual_seed(0)
    return {name: (net.double(), *rest) for name, net, *rest in _faults()}


def sound():
    """Name -> (network, input, group, transforms)."""
    torch.manual_seed(0)
    return {name: (net.double(), *rest) for name, net, *rest in _sound()}
