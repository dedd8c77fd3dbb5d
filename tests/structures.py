"""Networks of 16 to 64 channels in every shape that other people's have, for steps that change the structure.

ZOO: small forms of the well-known architectures. NASTY: what makes tracing and cutting go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CLASSES, Case


def image() -> Tensor:
    """Noise, and a colour of its own for each example, which pooling does not even out."""
    return torch.randn(4, 3, 16, 16) + torch.randn(4, 3, 1, 1)


class Conv(nn.Sequential):
    """Convolution without bias, BatchNorm, perhaps an activation."""

    def __init__(
        self, into: int, out: int, size: int = 3, act: Callable[[], nn.Module] | None = nn.ReLU, **more: Any
    ) -> None:
        layers = [nn.Conv2d(into, out, size, padding=size // 2, bias=False, **more), nn.BatchNorm2d(out)]
        super().__init__(*layers, *([act()] if act else []))


class Head(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class BasicBlock(nn.Module):
    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if into == out else Conv(into, out, 1, None, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return F.relu(y)


def residual() -> nn.Module:
    stages = [BasicBlock(16, 16), BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 32), BasicBlock(32, 64, 2)]
    return nn.Sequential(Conv(3, 16), *stages, Head(64))


class Bottleneck(nn.Module):
    """With groups, it is ResNeXt's."""

    def __init__(self, into: int, width: int, out: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(into, width, 1), Conv(width, width, stride=stride, groups=groups), Conv(width, out, 1, None)
        )
        self.shortcut = None if into == out and stride == 1 else Conv(into, out, 1, None, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def bottlenecks(groups: int) -> nn.Module:
    blocks = [(16, 16, 64), (64, 16, 64), (64, 32, 64)]
    return nn.Sequential(Conv(3, 16), *(Bottleneck(*b, groups=groups) for b in blocks), Head(64))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, convolution; twice."""

    def __init__(self, into: int, growth: int = 16) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(into), nn.Conv2d(into, 32, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(32), nn.Conv2d(32, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, into: int, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(into + 16 * i) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def dense() -> nn.Module:
    transition = [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 1, bias=False), nn.AvgPool2d(2)]
    last = [nn.BatchNorm2d(80), nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), DenseBlock(16), *transition, DenseBlock(32), *last, Head(80))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int, gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), gate()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(self.pool(x)))))


class Inverted(nn.Module):
    """Expand, depthwise, perhaps squeeze-excite, project: MobileNet V2 and V3, EfficientNet."""

    def __init__(
        self,
        into: int,
        wide: int,
        out: int,
        stride: int = 1,
        act: Callable[[], nn.Module] = nn.ReLU6,
        gate: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(into, wide, 1, act), Conv(wide, wide, 3, act, stride=stride, groups=wide)]
        layers += [SqueezeExcite(wide, 8, gate)] if gate else []
        self.conv, self.added = nn.Sequential(*layers, Conv(wide, out, 1, None)), into == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


def inverted(act: Callable[[], nn.Module], gate: Callable[[], nn.Module] | None) -> nn.Module:
    shapes = [(16, 64, 24, 2), (24, 64, 24, 1), (24, 64, 32, 1), (32, 64, 32, 1)]
    last = nn.Sequential(nn.Linear(64, 48), act(), nn.Dropout(0.2), nn.Linear(48, CLASSES))
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), last]
    blocks = [Inverted(*shape, act=act, gate=gate) for shape in shapes]
    return nn.Sequential(Conv(3, 16, act=act, stride=2), *blocks, Conv(32, 64, 1, act), *pooled)


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit1(nn.Module):
    """ShuffleNet V1: grouped 1x1, shuffle, depthwise, grouped 1x1; a strided one is joined with the pooled input."""

    def __init__(self, into: int, out: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        wide, self.groups, self.stride = 16, groups, stride
        self.expand = Conv(into, wide, 1, groups=groups)
        self.depthwise = Conv(wide, wide, 3, None, stride=stride, groups=wide)
        self.project = Conv(wide, out - into if stride > 1 else out, 1, None, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(shuffled(self.expand(x), self.groups)))
        if self.stride > 1:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, self.stride, 1), y], 1))
        return F.relu(x + y)


def shuffle1(groups: int = 4) -> nn.Module:
    units = [ShuffleUnit1(16, 48, groups, 2), ShuffleUnit1(48, 48, groups), ShuffleUnit1(48, 64, groups, 2)]
    return nn.Sequential(Conv(3, 16), *units, ShuffleUnit1(64, 64, groups), Head(64))


class ShuffleUnit2(nn.Module):
    """ShuffleNet V2: half of the channels pass, or, strided, two branches; concatenated and shuffled."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        half, start = out // 2, into if stride > 1 else into // 2
        self.stride = stride
        self.left = nn.Sequential(Conv(into, into, 3, None, stride=stride, groups=into), Conv(into, half, 1))
        self.left = self.left if stride > 1 else nn.Sequential()
        depthwise = Conv(half, half, 3, None, stride=stride, groups=half)
        self.right = nn.Sequential(Conv(start, half, 1), depthwise, Conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.stride > 1 else x.chunk(2, dim=1)
        return shuffled(torch.cat((self.left(left), self.right(right)), dim=1), 2)


def shuffle2() -> nn.Module:
    units = [ShuffleUnit2(16, 32, 2), ShuffleUnit2(32, 32), ShuffleUnit2(32, 64, 2), ShuffleUnit2(64, 64)]
    return nn.Sequential(Conv(3, 16), *units, Conv(64, 64, 1), Head(64))


class Fire(nn.Module):
    def __init__(self, into: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze, self.expand1x1 = nn.Conv2d(into, squeezed, 1), nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3, self.relu = nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


class Squeeze(nn.Module):
    """SqueezeNet with a bypass; its classifier is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fire2, self.fire3 = nn.Conv2d(3, 32, 3, stride=2), Fire(32, 16, 32), Fire(64, 16, 32)
        self.fire4, self.classifier = Fire(64, 16, 24), nn.Conv2d(48, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fire2(F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True))
        x = self.fire4(x + self.fire3(x))
        return F.relu(self.classifier(x)).mean((2, 3))


def plain() -> nn.Module:
    """VGG with BatchNorm: flatten -> Linear over several positions of each channel."""
    features = [Conv(3, 16), nn.MaxPool2d(2), Conv(16, 32), nn.MaxPool2d(2), Conv(32, 64), Conv(64, 64)]
    more = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 4, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*features, *more)


class Patches(nn.Module):
    """Patches, a class token, positions; then `body`, and a head that sees the token."""

    def __init__(self, body: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.patches, self.body = nn.Conv2d(3, width, 4, stride=4), body
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.body(x))[:, 0])


class TorchBlock(nn.Module):
    """nn.MultiheadAttention, called by hand."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.ln1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        x = x + y
        return x + self.mlp(self.ln2(x))


class HandAttention(nn.Module):
    """One Linear for query, key and value, as most image libraries write it."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # (n, heads, t, c / heads)
        return self.proj(x.transpose(1, 2).reshape(n, t, c))


class HandBlock(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), HandAttention(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


class SelfConcat(nn.Module):
    """cat([x, x]): one channel is two of the next layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Conv(3, 16), Conv(32, 32), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.head(self.two(torch.cat([x, x], 1)))


class ChunkSplit(nn.Module):
    """Unequal parts by split, equal ones by chunk; one of them is never used, one is a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = Conv(3, 48), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(24, 32, 1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        a, b, _unused = self.stem(x).split([16, 24, 8], dim=1)
        value, gate = (self.a(a) + self.b(b)).chunk(2, 1)
        return self.head(value * torch.sigmoid(gate))


class OneChannel(nn.Module):
    """A convolution with one output channel, as a map that all channels are multiplied by, without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mask = Conv(3, 32), nn.Conv2d(32, 1, 1, bias=False)
        self.last, self.head = nn.Conv2d(32, 24, 3, bias=False), Head(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.last(x * torch.sigmoid(self.mask(x))))


class OddGroups(nn.Module):
    """Groups of several channels in and others out; a depthwise convolution with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.multiplied = Conv(3, 32), Conv(32, 48, groups=4), Conv(48, 96, groups=48)
        self.mix, self.head = nn.Conv2d(96, 32, 1), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mix(self.multiplied(self.grouped(self.stem(x))))))


class Upsampled(nn.Module):
    """ConvTranspose2d with groups and without, a skip connection; the output is an image of scores."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = Conv(3, 16), Conv(16, 32, stride=2)
        self.up, self.norm = nn.ConvTranspose2d(32, 16, 2, 2, groups=4), nn.BatchNorm2d(16)
        self.up2, self.last = nn.ConvTranspose2d(32, 24, 3, 1, 1, bias=False), nn.Conv2d(24, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        x = F.relu(self.norm(self.up(self.down2(skip))))
        return self.last(F.leaky_relu(self.up2(torch.cat([x, skip], 1)), 0.1))


class Flattened(nn.Module):
    """Flatten -> Linear in four ways of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = Conv(3, 16, stride=2), nn.MaxPool2d(2)
        self.fcs = nn.ModuleList(nn.Linear(16 * 16, 32) for _ in range(4))
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv(x))
        flat = [x.flatten(1), torch.flatten(x, 1), x.view(x.size(0), -1), x.reshape(-1, 16 * 4 * 4)]
        return self.head(self.norm(sum(fc(f) for fc, f in zip(self.fcs, flat, strict=True))))


class CalledTwice(nn.Module):
    """One ReLU everywhere, one convolution twice, one block at two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.relu = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True)
        self.wide, self.block, self.head = nn.Conv2d(32, 64, 1), BasicBlock(64, 64), Head(64)
        self.again = self.block

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(self.relu(self.conv(self.relu(self.stem(x))))))
        return self.head(self.again(self.block(self.relu(self.wide(x)))))


class TwoInputs(nn.Module):
    """Image and vector; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Sequential(Conv(3, 32), Conv(32, 32)), nn.Linear(6, 32)
        self.left, self.right = nn.Linear(64, CLASSES), nn.Linear(32, 2)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.image(image).mean((2, 3)), F.relu(self.vector(vector))
        return self.left(torch.cat([a, b], -1)), self.right(a * b)


class Named(nn.Module):
    """A dict in and a dict out, `if x.shape[1] != 3`, a flag that chooses a branch."""

    def __init__(self, deep: bool = True) -> None:
        super().__init__()
        self.deep, self.image, self.more = deep, Conv(3, 24), BasicBlock(24, 24)
        self.unused, self.text = nn.Conv2d(24, 24, 3), nn.Linear(6, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        if image.shape[1] != 3:
            raise ValueError("expected three channels")
        x = self.image(image)
        x = self.more(x) if self.deep else self.unused(x)
        features = x.mean((2, 3)) + self.text(text)
        return {"scores": self.head(F.relu(features)), "features": features}


class Loop(nn.Module):
    """A loop whose length depends on the data; what is before and after it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.turn, self.after, self.head = Conv(3, 32), Conv(32, 32), Conv(32, 64), Head(64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for _ in range(int(x[0].abs().sum().item()) % 3 + 1):
            x = self.turn(x)
        return self.head(self.after(x))


class FrozenNorm(nn.Module):
    """Statistics and shifts as constants of a module that is no BatchNorm (as detectors have it), and a BatchNorm
    that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.body, self.head = nn.Conv2d(3, 32, 3, bias=False), Conv(32, 32), Head(32)
        self.register_buffer("scale", torch.rand(1, 32, 1, 1) + 0.5)
        self.register_buffer("shift", torch.randn(1, 32, 1, 1))
        self.body.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(F.relu(self.conv(x) * self.scale + self.shift)))


def small() -> nn.Module:
    """About 90 KB."""
    return nn.Sequential(Conv(3, 16), Conv(16, 32, stride=2), Conv(32, 32), BasicBlock(32, 16), Head(16))


class Made:
    """Builds a network whose weights keep the size of what passes, with normalisation that looks trained; `Case` does
    the rest."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make

    def __call__(self) -> nn.Module:
        model = self.make()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.3)
            if isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        return model


def case(make: Callable[[], nn.Module], inputs: Callable[[], Any] = image) -> Case:
    return Case(Made(make), inputs)


ZOO: dict[str, Case] = {
    "resnet": case(residual),
    "bottleneck": case(lambda: bottlenecks(1)),
    "resnext": case(lambda: bottlenecks(4)),
    "densenet": case(dense),
    "mobilenet-v2": case(lambda: inverted(nn.ReLU6, None)),
    "mobilenet-v3": case(lambda: inverted(nn.Hardswish, nn.Hardsigmoid)),
    "efficientnet": case(lambda: inverted(nn.SiLU, nn.Sigmoid)),
    "shufflenet-v1": case(shuffle1),
    "shufflenet-v2": case(shuffle2),
    "squeezenet": case(Squeeze),
    "vgg": case(plain),
    "vit-torch": case(lambda: Patches(nn.Sequential(TorchBlock(), TorchBlock()))),
    "vit-encoder": case(lambda: Patches(encoder())),
    "vit-hand": case(lambda: Patches(nn.Sequential(HandBlock(), HandBlock()))),
}

NASTY: dict[str, Case] = {
    "self-concat": case(SelfConcat),
    "chunk-split": case(ChunkSplit),
    "one-channel": case(OneChannel),
    "odd-groups": case(OddGroups),
    "upsampled": case(Upsampled),
    "flattened": case(Flattened),
    "called-twice": case(CalledTwice),
    "two-inputs": case(TwoInputs, lambda: (image(), torch.randn(4, 6))),
    "named": case(Named, lambda: {"text": torch.randn(4, 6), "image": image()}),
    "loop": case(Loop),
    "frozen-norm": case(FrozenNorm),
    "small": case(small),
}

STRUCTURES: dict[str, Case] = {**ZOO, **NASTY}
