"""SqueezeNet: Fire modules, AlexNet's accuracy with a fiftieth of its weights.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer 2016 (arXiv:1602.07360); keys as in torchvision.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rarefy.zoo.init import kaiming, require, require_one_of
from rarefy.zoo.parts import pool, stem, strides

Bypass = Literal["none", "simple", "complex"]

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))  # squeeze, each expand
_STEMS = {"1.0": (96, 7, 0), "1.1": (64, 3, 0)}  # channels, kernel, padding
_POOLS = {"1.0": (3, 7), "1.1": (2, 4)}  # the Fire modules, counted from 0, before which the image is pooled


class Fire(nn.Module):
    """1x1 convolutions to few channels, then 1x1 and 3x3 side by side, all with a ReLU; `bypass` around it is added."""

    def __init__(self, inside: int, squeeze: int, expand: int, bypass: Bypass = "none") -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()
        self.bypass: nn.Module | None = None
        if bypass != "none" and inside == 2 * expand:
            self.bypass = nn.Identity()
        elif bypass == "complex":
            self.bypass = nn.Conv2d(inside, 2 * expand, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, 2 expand, H, W)."""
        squeezed = self.relu(self.squeeze(x))
        out = torch.cat([self.relu(self.expand1x1(squeezed)), self.relu(self.expand3x3(squeezed))], 1)
        return out if self.bypass is None else out + self.bypass(x)


class SqueezeNet(nn.Module):
    """Eight Fire modules between two convolutions; the last one gives the classes, and their mean is the score."""

    def __init__(self, version: str, classes: int, channels: int, size: int, bypass: Bypass) -> None:
        super().__init__()
        outside, kernel, padding = _STEMS[version]
        first, *rest = strides(size, halvings=4)
        features = [stem(channels, outside, kernel, first, padding), nn.ReLU(), pool(rest[0], ceil_mode=True)]
        for index, (squeeze, expand) in enumerate(_FIRES):
            if index in _POOLS[version]:
                features.append(pool(rest[1 + _POOLS[version].index(index)], ceil_mode=True))
            features.append(Fire(outside, squeeze, expand, bypass))
            outside = 2 * expand
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(outside, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        result: Tensor = self.flatten(self.classifier(self.features(x)))
        return result


def squeezenet1_0(classes: int = 1000, channels: int = 3, size: int = 224, bypass: Bypass = "none") -> SqueezeNet:
    """1,248,424 weights. `bypass`: "simple" adds a module's input where the channels agree, "complex" by a 1x1
    convolution where they do not."""
    return _squeezenet("1.0", classes, channels, size, bypass)


def squeezenet1_1(classes: int = 1000, channels: int = 3, size: int = 224, bypass: Bypass = "none") -> SqueezeNet:
    """1,235,496 weights and 2.4 times fewer multiply-accumulates than 1.0: a smaller stem, earlier pooling."""
    return _squeezenet("1.1", classes, channels, size, bypass)


def _squeezenet(version: str, classes: int, channels: int, size: int, bypass: Bypass) -> SqueezeNet:
    require(f"squeezenet-{version}", 1, classes=classes, channels=channels, size=size)
    require_one_of(f"squeezenet-{version}", ("none", "simple", "complex"), bypass=bypass)
    network = SqueezeNet(version, classes, channels, size, bypass)
    kaiming(network)
    return network
