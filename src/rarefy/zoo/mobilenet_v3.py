"""MobileNet V3, large and small: inverted residuals with squeeze-and-excitation and hard swish, found by search.

Howard et al. 2019 (arXiv:1905.02244), tables 1 and 2; keys as in torchvision. At other widths than 1 as in the authors'
program: a block's middle keeps its ratio to the block's input, and the last layer does not become narrower.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from rarefy.zoo.init import kaiming, require, require_width
from rarefy.zoo.parts import Pooled, conv_norm, rounded, strides


class Row(NamedTuple):
    """A block as the paper's tables give it."""

    kernel: int
    middle: int
    outside: int
    excite: bool
    activation: type[nn.Module]
    halves: bool = False


_RE, _HS = nn.ReLU, nn.Hardswish
_STEM = 16
_LARGE = (
    Row(3, 16, 16, False, _RE),
    Row(3, 64, 24, False, _RE, halves=True),
    Row(3, 72, 24, False, _RE),
    Row(5, 72, 40, True, _RE, halves=True),
    Row(5, 120, 40, True, _RE),
    Row(5, 120, 40, True, _RE),
    Row(3, 240, 80, False, _HS, halves=True),
    Row(3, 200, 80, False, _HS),
    Row(3, 184, 80, False, _HS),
    Row(3, 184, 80, False, _HS),
    Row(3, 480, 112, True, _HS),
    Row(3, 672, 112, True, _HS),
    Row(5, 672, 160, True, _HS, halves=True),
    Row(5, 960, 160, True, _HS),
    Row(5, 960, 160, True, _HS),
)
_SMALL = (
    Row(3, 16, 16, True, _RE, halves=True),
    Row(3, 72, 24, False, _RE, halves=True),
    Row(3, 88, 24, False, _RE),
    Row(5, 96, 40, True, _HS, halves=True),
    Row(5, 240, 40, True, _HS),
    Row(5, 240, 40, True, _HS),
    Row(5, 120, 48, True, _HS),
    Row(5, 144, 48, True, _HS),
    Row(5, 288, 96, True, _HS, halves=True),
    Row(5, 576, 96, True, _HS),
    Row(5, 576, 96, True, _HS),
)


class SqueezeExcite(nn.Module):
    """Every channel is scaled by a number from 0 to 1 that depends on the means of all channels.

    Hu, Shen, Sun 2018, Squeeze-and-excitation networks; with a hard sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded(channels // 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        result: Tensor = x * self.scale(self.fc2(self.relu(self.fc1(self.avgpool(x)))))
        return result


class InvertedResidual(nn.Module):
    """1x1 to the middle channels (where they are more), depthwise, excitation, 1x1 without activation; the input is
    added where the shapes agree."""

    def __init__(self, inside: int, middle: int, outside: int, row: Row, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inside == outside
        self.block = nn.Sequential()
        if middle != inside:
            self.block.append(conv_norm(inside, middle, activation=row.activation))
        self.block.append(conv_norm(middle, middle, row.kernel, stride, middle, row.activation))
        if row.excite:
            self.block.append(SqueezeExcite(middle))
        self.block.append(conv_norm(middle, outside, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H / stride, W / stride)."""
        out: Tensor = self.block(x)
        return x + out if self.residual else out


def mobilenet_v3_large(classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0) -> Pooled:
    """5,483,032 weights, 217 M multiply-accumulates at width 1."""
    return _mobilenet_v3("large", _LARGE, 1280, classes, channels, size, width)


def mobilenet_v3_small(classes: int = 1000, channels: int = 3, size: int = 224, width: float = 1.0) -> Pooled:
    """2,542,856 weights, 57 M multiply-accumulates at width 1."""
    return _mobilenet_v3("small", _SMALL, 1024, classes, channels, size, width)


def _mobilenet_v3(
    kind: str, rows: tuple[Row, ...], head: int, classes: int, channels: int, size: int, width: float
) -> Pooled:
    require(f"mobilenet-v3-{kind}", 1, classes=classes, channels=channels, size=size)
    require_width(f"mobilenet-v3-{kind}", width)
    first, *rest = strides(size)
    inside, base, head = rounded(width * _STEM), _STEM, rounded(max(1.0, width) * head)
    features: list[nn.Module] = [conv_norm(channels, inside, 3, first, activation=_HS)]
    for row in rows:
        middle, outside = rounded(inside * row.middle / base), rounded(width * row.outside)
        features.append(InvertedResidual(inside, middle, outside, row, rest.pop(0) if row.halves else 1))
        inside, base = outside, row.outside
    features.append(conv_norm(inside, 6 * inside, activation=_HS))
    classifier = nn.Sequential(nn.Linear(6 * inside, head), _HS(), nn.Dropout(0.2), nn.Linear(head, classes))
    network = Pooled(nn.Sequential(*features), classifier)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 1e-2  # as the authors trained it
    kaiming(network)
    return network
