"""ShuffleNet V1: grouped 1x1 convolutions, with the channels shuffled between the groups.

Zhang, Zhou, Lin, Sun 2018 (arXiv:1707.01083), table 1.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from rarefy.layers import ChannelShuffle
from rarefy.zoo.init import kaiming, require, require_one_of, require_width
from rarefy.zoo.parts import Pooled, conv_norm, pool, strides

_STEM = 24
_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # of stage 2, by groups; each stage after it has twice as many
_UNITS = (4, 8, 4)


class Unit(nn.Module):
    """Grouped 1x1 to a quarter, shuffle, 3x3 over each channel, grouped 1x1; the input is added, or, where the image is
    halved or the channels grow, laid beside it."""

    def __init__(self, inside: int, outside: int, groups: int, stride: int, first: bool) -> None:
        super().__init__()
        middle = outside // 4
        grows = inside != outside
        self.branch = nn.Sequential(
            OrderedDict(
                reduce=conv_norm(inside, middle, groups=1 if first else groups),
                shuffle=ChannelShuffle(groups),
                depthwise=conv_norm(middle, middle, 3, stride, groups=middle, activation=None),
                expand=conv_norm(middle, outside - inside if grows else outside, groups=groups, activation=None),
            )
        )
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else nn.Identity()
        self.grows = grows
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H / stride, W / stride)."""
        kept, out = self.shortcut(x), self.branch(x)
        result: Tensor = self.relu(torch.cat([kept, out], 1) if self.grows else kept + out)
        return result


def shufflenet_v1(
    classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0, groups: int = 3
) -> Pooled:
    """About 140 M multiply-accumulates at width 1 whatever the groups (1, 2, 3, 4 or 8).

    `width` scales the channels; they are rounded so that every convolution divides into the groups.
    """
    require("shufflenet-v1", 1, classes=classes, channels=channels, size=size)
    require_width("shufflenet-v1", width)
    require_one_of("shufflenet-v1", tuple(_CHANNELS), groups=groups)
    first, second, *rest = strides(size)
    inside, outside = _nearest(width * _STEM, groups), _nearest(width * _CHANNELS[groups], 4 * groups)
    features: list[nn.Module] = [conv_norm(channels, inside, 3, first), pool(second, padding=1)]
    for units, stride in zip(_UNITS, rest, strict=True):
        for index in range(units):
            features.append(Unit(inside, outside, groups, stride if index == 0 else 1, first=len(features) == 2))
            inside = outside
        outside *= 2
    network = Pooled(nn.Sequential(*features), nn.Linear(inside, classes))
    kaiming(network)
    return network


def _nearest(channels: float, divisor: int) -> int:
    return divisor * max(1, int(channels / divisor + 0.5))
