"""AlexNet, in the version for one device: five convolutions and three large fully connected layers.

Krizhevsky, Sutskever, Hinton 2012; Krizhevsky 2014 (arXiv:1404.5997); keys as in torchvision.
"""

from __future__ import annotations

from torch import nn

from rarefy.zoo.init import kaiming, require
from rarefy.zoo.parts import Pooled, pool, strides

_CONVOLUTIONS = ((192, 5), (384, 3), (256, 3), (256, 3))  # channels, kernel; after the first
_SIDE = 6  # pixels that the fully connected layers see, at most


def alexnet(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """61,100,840 weights, 714 M multiply-accumulates; `hidden` is the width of the first two fully connected layers."""
    require("alexnet", 1, classes=classes, channels=channels, size=size, hidden=hidden)
    first, second, *pools = strides(size)
    stem = nn.Conv2d(channels, 64, 11, 4, 2) if first == 2 else nn.Conv2d(channels, 64, 3, second, 1)
    features: list[nn.Module] = [stem, nn.ReLU(), pool(pools[0])]
    inside = 64
    for index, (outside, kernel) in enumerate(_CONVOLUTIONS):
        features += [nn.Conv2d(inside, outside, kernel, padding=kernel // 2), nn.ReLU()]
        if index == 0:
            features.append(pool(pools[1]))
        inside = outside
    features.append(pool(pools[2]))
    side = _remaining(size, stem, pools)
    network = Pooled(nn.Sequential(*features), _classifier(side * side * inside, hidden, classes))
    network.avgpool = nn.AdaptiveAvgPool2d(side)
    kaiming(network)
    return network


def _classifier(inside: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(inside, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def _remaining(size: int, stem: nn.Conv2d, pools: list[int]) -> int:
    """Pixels on a side after `features`."""
    side = (size + 2 * int(stem.padding[0]) - stem.kernel_size[0]) // stem.stride[0] + 1
    for stride in pools:
        side = (side - 3) // 2 + 1 if stride == 2 else side
    return min(side, _SIDE)
