"""The residual networks for 32x32 images: ResNet-20, -32 and -56, with shortcuts that hold no parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.zoo.init import kaiming, require


class PadShortcut(nn.Module):
    """Option A of the paper: every `stride`-th pixel, and zeros for the channels that are new.

    `before` and `after` count the zero channels on each side of the old ones.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, before + C + after, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), with 3x3 convolutions."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            new = outside - inside
            self.shortcut = PadShortcut(stride, new // 2, new - new // 2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu2(out + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """3 stages of `depth` blocks with `width`, 2 `width` and 4 `width` channels: 6 `depth` + 2 layers."""

    def __init__(self, depth: int, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = _stage(depth, width, width, stride=1)
        self.stage2 = _stage(depth, width, 2 * width, stride=2)
        self.stage3 = _stage(depth, 2 * width, 4 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        out = self.relu(self.bn(self.conv(x)))
        out = self.stage3(self.stage2(self.stage1(out)))
        result: Tensor = self.fc(self.flatten(self.pool(out)))
        return result


def resnet20(classes: int = 10, channels: int = 3, width: int = 16) -> ResNet:
    """20 layers, 269,722 parameters; 91.25 % on CIFAR-10 in the paper."""
    return _resnet(3, classes, channels, width)


def resnet32(classes: int = 10, channels: int = 3, width: int = 16) -> ResNet:
    """32 layers, 464,154 parameters; 92.49 % on CIFAR-10 in the paper."""
    return _resnet(5, classes, channels, width)


def resnet56(classes: int = 10, channels: int = 3, width: int = 16) -> ResNet:
    """56 layers, 853,018 parameters; 93.03 % on CIFAR-10 in the paper."""
    return _resnet(9, classes, channels, width)


def _resnet(depth: int, classes: int, channels: int, width: int) -> ResNet:
    require(f"resnet{6 * depth + 2}", 1, classes=classes, channels=channels, width=width)
    network = ResNet(depth, classes, channels, width)
    kaiming(network)
    return network


def _stage(depth: int, inside: int, outside: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inside, outside, stride)
    return nn.Sequential(first, *(BasicBlock(outside, outside, stride=1) for _ in range(depth - 1)))
