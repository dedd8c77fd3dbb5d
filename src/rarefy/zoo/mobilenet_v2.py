"""MobileNet V2: inverted residuals with linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov, Chen 2018 (arXiv:1801.04381), table 2; keys as in torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

from rarefy.zoo.init import kaiming, require, require_width
from rarefy.zoo.parts import Pooled, conv_norm, rounded, strides

_STEM, _HEAD = 32, 1280
_STAGES = (  # expansion, channels, blocks, whether the first halves the image
    (1, 16, 1, False),
    (6, 24, 2, True),
    (6, 32, 3, True),
    (6, 64, 4, True),
    (6, 96, 3, False),
    (6, 160, 3, True),
    (6, 320, 1, False),
)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 over each, 1x1 back without activation; the input is added where the
    shapes agree."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * inside
        self.residual = stride == 1 and inside == outside
        self.conv = nn.Sequential(
            *([conv_norm(inside, middle, activation=nn.ReLU6)] if expansion > 1 else []),
            conv_norm(middle, middle, 3, stride, groups=middle, activation=nn.ReLU6),
            nn.Conv2d(middle, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def mobilenet_v2(classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0) -> Pooled:
    """3,504,872 weights, 300 M multiply-accumulates at width 1. The last convolution does not become narrower than at
    width 1."""
    require("mobilenet-v2", 1, classes=classes, channels=channels, size=size)
    require_width("mobilenet-v2", width)
    first, *rest = strides(size)
    inside, head = rounded(width * _STEM), rounded(max(1.0, width) * _HEAD)
    features: list[nn.Module] = [conv_norm(channels, inside, 3, first, activation=nn.ReLU6)]
    for expansion, base, blocks, halves in _STAGES:
        for index in range(blocks):
            stride = rest.pop(0) if halves and index == 0 else 1
            features.append(InvertedResidual(inside, rounded(width * base), expansion, stride))
            inside = rounded(width * base)
    features.append(conv_norm(inside, head, activation=nn.ReLU6))
    network = Pooled(nn.Sequential(*features), nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes)))
    kaiming(network)
    return network
