"""ShuffleNet V2: half of the channels pass by, and are shuffled with the other half.

Ma, Zhang, Zheng, Sun 2018 (arXiv:1807.11164), table 5; keys as in torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarefy.layers import ChannelShuffle
from rarefy.zoo.init import kaiming, require, require_one_of
from rarefy.zoo.parts import conv_norm, pool, strides

_STEM, _UNITS = 24, (4, 8, 4)
_CHANNELS = {  # of the stages and of the last convolution, by width
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class Unit(nn.Module):
    """One half of the channels unchanged, the other through 1x1, depthwise 3x3, 1x1; then shuffled.

    The first unit of a stage takes all channels through both branches, which doubles them.
    """

    def __init__(self, inside: int, outside: int, stride: int, first: bool) -> None:
        super().__init__()
        half = outside // 2
        self.first = first
        self.branch1: nn.Module = nn.Identity()
        if first:
            self.branch1 = nn.Sequential(
                *conv_norm(inside, inside, 3, stride, groups=inside, activation=None), *conv_norm(inside, half)
            )
        self.branch2 = nn.Sequential(
            *conv_norm(inside if first else half, half),
            *conv_norm(half, half, 3, stride, groups=half, activation=None),
            *conv_norm(half, half),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H / stride, W / stride)."""
        one, two = (x, x) if self.first else x.chunk(2, 1)
        result: Tensor = self.shuffle(torch.cat([self.branch1(one), self.branch2(two)], 1))
        return result


class ShuffleNetV2(nn.Module):
    """Three stages of units between two convolutions."""

    def __init__(self, width: float, classes: int, channels: int, size: int) -> None:
        super().__init__()
        first, second, *rest = strides(size)
        two, three, four, last = _CHANNELS[width]
        self.conv1 = conv_norm(channels, _STEM, 3, first)
        self.maxpool = pool(second, padding=1)
        self.stage2 = _stage(_STEM, two, _UNITS[0], rest[0])
        self.stage3 = _stage(two, three, _UNITS[1], rest[1])
        self.stage4 = _stage(three, four, _UNITS[2], rest[2])
        self.conv5 = conv_norm(four, last)
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        result: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return result


def shufflenet_v2(classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0) -> ShuffleNetV2:
    """2,278,604 weights, 146 M multiply-accumulates at width 1; `width` is 0.5, 1, 1.5 or 2."""
    require("shufflenet-v2", 1, classes=classes, channels=channels, size=size)
    require_one_of("shufflenet-v2", tuple(_CHANNELS), width=width)
    network = ShuffleNetV2(width, classes, channels, size)
    kaiming(network)
    return network


def _stage(inside: int, outside: int, units: int, stride: int) -> nn.Sequential:
    rest = (Unit(outside, outside, 1, first=False) for _ in range(units - 1))
    return nn.Sequential(Unit(inside, outside, stride, first=True), *rest)
