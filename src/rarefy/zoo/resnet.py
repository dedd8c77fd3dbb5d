"""ResNet-18, -34 and -50: the residual networks for photographs.

He, Zhang, Ren, Sun 2016 (arXiv:1512.03385), table 1, the stride of a bottleneck in its 3x3; keys as in torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

from rarefy.zoo.init import kaiming, require
from rarefy.zoo.parts import pool, stem, strides


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the input (projected where the shapes differ) added before the last ReLU."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inside, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, width, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        result: Tensor = self.relu2(self.bn2(self.conv2(out)) + self.downsample(x))
        return result


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3, 1x1 to four times as many, and the input as in `BasicBlock`."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(inside, 4 * width, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, 4 width, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        result: Tensor = self.relu3(self.bn3(self.conv3(out)) + self.downsample(x))
        return result


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Four stages of blocks with `width`, 2, 4 and 8 `width` channels."""

    def __init__(
        self, block: Block, depths: tuple[int, ...], classes: int, channels: int, size: int, width: int
    ) -> None:
        super().__init__()
        first, second, *rest = strides(size)
        self.conv1 = stem(channels, width, 7, first, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = pool(second, padding=1)
        inside, grown = width, block.expansion
        self.layer1 = _stage(block, depths[0], inside, width, 1)
        self.layer2 = _stage(block, depths[1], grown * width, 2 * width, rest[0])
        self.layer3 = _stage(block, depths[2], 2 * grown * width, 4 * width, rest[1])
        self.layer4 = _stage(block, depths[3], 4 * grown * width, 8 * width, rest[2])
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(8 * grown * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        result: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return result


def resnet18(classes: int = 1000, channels: int = 3, size: int = 224, width: int = 64) -> ResNet:
    """11,689,512 weights, 1.81 G multiply-accumulates; `width` is the channels of the first stage."""
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), classes, channels, size, width)


def resnet34(classes: int = 1000, channels: int = 3, size: int = 224, width: int = 64) -> ResNet:
    """21,797,672 weights, 3.66 G multiply-accumulates."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), classes, channels, size, width)


def resnet50(classes: int = 1000, channels: int = 3, size: int = 224, width: int = 64) -> ResNet:
    """25,557,032 weights, 4.09 G multiply-accumulates."""
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), classes, channels, size, width)


def _resnet(
    name: str, block: Block, depths: tuple[int, ...], classes: int, channels: int, size: int, width: int
) -> ResNet:
    require(name, 1, classes=classes, channels=channels, size=size, width=width)
    network = ResNet(block, depths, classes, channels, size, width)
    kaiming(network)
    return network


def _stage(block: Block, depth: int, inside: int, width: int, stride: int) -> nn.Sequential:
    rest = (block(block.expansion * width, width, 1) for _ in range(depth - 1))
    return nn.Sequential(block(inside, width, stride), *rest)


def _projection(inside: int, outside: int, stride: int) -> nn.Module:
    if stride == 1 and inside == outside:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
