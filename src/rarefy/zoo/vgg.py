"""VGG-11, -13, -16 and -19, with and without BatchNorm.

Simonyan, Zisserman 2015 (arXiv:1409.1556), table 1, columns A, B, D, E; keys as in torchvision. For images under 64
pixels in the form that CIFAR-10 is measured with: all five poolings, and one Linear on the mean of what is left.
"""

from __future__ import annotations

from torch import nn

from rarefy.zoo.init import kaiming, require
from rarefy.zoo.parts import Pooled

_STAGES = (64, 128, 256, 512, 512)  # channels; a pooling after each
_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_SIDE = 7  # pixels that the fully connected layers see, at most
_SMALL = 64  # pixels; below, one Linear is all


def vgg11(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """132,863,336 weights; `hidden` is the width of the first two fully connected layers."""
    return _vgg("vgg11", 11, False, classes, channels, size, hidden)


def vgg13(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """133,047,848 weights."""
    return _vgg("vgg13", 13, False, classes, channels, size, hidden)


def vgg16(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """138,357,544 weights."""
    return _vgg("vgg16", 16, False, classes, channels, size, hidden)


def vgg19(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """143,667,240 weights."""
    return _vgg("vgg19", 19, False, classes, channels, size, hidden)


def vgg11_bn(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """132,868,840 weights."""
    return _vgg("vgg11-bn", 11, True, classes, channels, size, hidden)


def vgg13_bn(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """133,053,736 weights."""
    return _vgg("vgg13-bn", 13, True, classes, channels, size, hidden)


def vgg16_bn(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """138,365,992 weights; 14,728,266 for 10 classes of 32x32 images."""
    return _vgg("vgg16-bn", 16, True, classes, channels, size, hidden)


def vgg19_bn(classes: int = 1000, channels: int = 3, size: int = 224, hidden: int = 4096) -> Pooled:
    """143,678,248 weights."""
    return _vgg("vgg19-bn", 19, True, classes, channels, size, hidden)


def _vgg(name: str, depth: int, norm: bool, classes: int, channels: int, size: int, hidden: int) -> Pooled:
    require(name, 1, classes=classes, channels=channels, size=size, hidden=hidden)
    small = size < _SMALL
    features = nn.Sequential()
    inside = channels
    for outside, convolutions in zip(_STAGES, _DEPTHS[depth], strict=True):
        for _ in range(convolutions):
            features.append(nn.Conv2d(inside, outside, 3, padding=1))
            if norm:
                features.append(nn.BatchNorm2d(outside))
            features.append(nn.ReLU())
            inside = outside
        features.append(nn.MaxPool2d(2, ceil_mode=small))  # the same for sizes that halve evenly
    side = 1 if small else min(_SIDE, size // 32)
    layers = [nn.Linear(inside, classes)] if small else _connected(side * side * inside, hidden, classes)
    network = Pooled(features, nn.Sequential(*layers))
    network.avgpool = nn.AdaptiveAvgPool2d(side)
    kaiming(network)
    return network


def _connected(inside: int, hidden: int, classes: int) -> list[nn.Module]:
    return [
        nn.Linear(inside, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, classes),
    ]
