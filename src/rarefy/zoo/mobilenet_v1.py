"""MobileNet V1: depthwise separable convolutions, with a width multiplier.

Howard et al. 2017 (arXiv:1704.04861), table 1; its ReLU is cut off at 6, as in the authors' program and in all weights
that are published.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rarefy.zoo.init import kaiming, require, require_width
from rarefy.zoo.parts import Pooled, conv_norm, strides

_STEM = 32
_BLOCKS = (  # channels, whether it halves the image
    (64, False),
    (128, True),
    (128, False),
    (256, True),
    (256, False),
    (512, True),
    *5 * ((512, False),),
    (1024, True),
    (1024, False),
)


def separable(inside: int, outside: int, stride: int) -> nn.Sequential:
    """3x3 over each channel by itself, then 1x1 over all; BatchNorm and ReLU6 after each."""
    depthwise = conv_norm(inside, inside, 3, stride, groups=inside, activation=nn.ReLU6)
    pointwise = conv_norm(inside, outside, activation=nn.ReLU6)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def mobilenet_v1(classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0) -> Pooled:
    """4,231,976 weights at width 1; the paper's widths are 1, 0.75, 0.5 and 0.25, its sizes 224, 192, 160 and 128."""
    require("mobilenet-v1", 1, classes=classes, channels=channels, size=size)
    require_width("mobilenet-v1", width)
    first, *rest = strides(size)
    inside = _scaled(_STEM, width)
    features: list[nn.Module] = [conv_norm(channels, inside, 3, first, activation=nn.ReLU6)]
    for base, halves in _BLOCKS:
        features.append(separable(inside, _scaled(base, width), rest.pop(0) if halves else 1))
        inside = _scaled(base, width)
    network = Pooled(nn.Sequential(*features), nn.Linear(inside, classes))
    kaiming(network)
    return network


def _scaled(channels: int, width: float) -> int:
    return max(1, round(width * channels))
