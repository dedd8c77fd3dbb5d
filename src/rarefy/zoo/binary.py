"""Networks of binary layers: ResNet-20 and -18 of residual binary units, and a small VGG.

The first and the last layer, and the 1x1 convolutions of shortcuts, are float32. `widen` multiplies the channels of
what is binary: cheap, and the surest way to accuracy (Wide Reduced-Precision Networks, Mishra et al. 2018,
arXiv:1709.01134). `weights=float` has binary activations only, for the first of two stages: train, then
`Binarize: {activations: null}`, then train again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from rarefy.layers.binary import Activation, BinaryConv2d, binarize, one_bit
from rarefy.layers.binary_units import BinaryUnit, Copies, ShiftedPReLU
from rarefy.zoo.init import kaiming, require, require_one_of
from rarefy.zoo.parts import pool, stem, strides

Network = TypeVar("Network", bound=nn.Module)
Shortcut = Callable[[int, int, int], nn.Module]  # inside, outside, stride


class BinaryResNet(nn.Module):
    """A float stem, stages of `BinaryUnit`s, the mean over the pixels, a float Linear."""

    def __init__(self, first: nn.Module, stages: list[nn.Sequential], outside: int, classes: int) -> None:
        super().__init__()
        self.stem, self.stages = first, nn.Sequential(*stages)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        result: Tensor = self.fc(self.flatten(self.pool(self.stages(self.stem(x)))))
        return result


def resnet20_binary(
    classes: int = 10, channels: int = 3, width: int = 16, widen: int = 1, weights: str = "sign"
) -> BinaryResNet:
    """ResNet-20 with a shortcut around each of its 18 binary convolutions; none of them has parameters."""
    require("resnet20-binary", 1, classes=classes, channels=channels, width=width, widen=widen)
    first = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
    widths = [width, *(factor * width * widen for factor in (1, 2, 4))]
    stages = [_stage(6, widths[i], widths[i + 1], (1, 2, 2)[i], _copied) for i in range(3)]
    return _finished("resnet20-binary", BinaryResNet(first, stages, widths[-1], classes), weights)


def resnet18_binary(
    classes: int = 1000, channels: int = 3, size: int = 224, width: int = 64, widen: int = 1, weights: str = "sign"
) -> BinaryResNet:
    """ResNet-18 with a shortcut around each of its 16 binary convolutions; where the shape changes, it is the mean over
    the stride and a float 1x1 convolution."""
    require("resnet18-binary", 1, classes=classes, channels=channels, size=size, width=width, widen=widen)
    begin, halved, *rest = strides(size)
    first = nn.Sequential(
        stem(channels, width, 7, begin, 3, bias=False), nn.BatchNorm2d(width), pool(halved, padding=1)
    )
    widths = [width, *(factor * width * widen for factor in (1, 2, 4, 8))]
    stages = [_stage(4, widths[i], widths[i + 1], (1, *rest)[i], _projected) for i in range(4)]
    return _finished("resnet18-binary", BinaryResNet(first, stages, widths[-1], classes), weights)


def vgg_small_binary(
    classes: int = 10, channels: int = 3, size: int = 32, width: int = 128, widen: int = 1, weights: str = "sign"
) -> nn.Sequential:
    """Six 3x3 convolutions, the first in float, and a Linear, in XNOR-Net's order: BatchNorm, sign, layer, pool."""
    require("vgg-small-binary", 1, classes=classes, channels=channels, width=width, widen=widen)
    require("vgg-small-binary", 8, size=size)
    network = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width))
    inside = width
    for place, factor in enumerate((1, 2, 2, 4, 4)):
        outside = factor * width * widen
        network.append(_layer(inside, outside, 1, shifted=False))
        if place % 2 == 0:
            network.append(nn.MaxPool2d(2))
        network.append(nn.BatchNorm2d(outside))
        inside = outside
    network.extend([nn.Flatten(), nn.Linear((size // 8) ** 2 * inside, classes)])
    return _finished("vgg-small-binary", network, weights)


def _layer(inside: int, outside: int, stride: int, *, shifted: bool) -> nn.Conv2d:
    layer = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
    binarize(layer, Activation(), torch.zeros(inside) if shifted else None)
    return layer


def _stage(units: int, inside: int, outside: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    shapes = [(inside, stride), *[(outside, 1)] * (units - 1)]
    return nn.Sequential(*(_unit(channels, outside, step, shortcut) for channels, step in shapes))


def _unit(inside: int, outside: int, stride: int, shortcut: Shortcut) -> BinaryUnit:
    around = nn.Identity() if (inside, stride) == (outside, 1) else shortcut(inside, outside, stride)
    layer = _layer(inside, outside, stride, shifted=True)
    return BinaryUnit(layer, nn.BatchNorm2d(outside), around, ShiftedPReLU(outside))


def _copied(inside: int, outside: int, stride: int) -> nn.Module:
    return Copies(stride, outside // inside)


def _projected(inside: int, outside: int, stride: int) -> nn.Module:
    return nn.Sequential(Copies(stride, 1), nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))


def _finished(name: str, network: Network, weights: str) -> Network:
    """Initial weights, and one bit for those of binary layers."""
    require_one_of(name, ("sign", "float"), weights=weights)
    kaiming(network)
    for module in list(network.modules()):
        if isinstance(module, BinaryConv2d) and weights == "sign":
            one_bit(module)
    return network
