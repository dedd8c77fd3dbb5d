"""VGG-16 with BatchNorm for 32x32 images: thirteen convolutions and one Linear, 14.73 M parameters."""

from __future__ import annotations

from torch import nn

from rarefy.zoo.init import kaiming, require

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels, pool between


def vgg16_bn(classes: int = 10, channels: int = 3) -> nn.Sequential:
    """Convolutions `features.N`, then a mean over what is left of the image (one pixel of 32x32) and `fc`."""
    require("vgg16-bn", 1, classes=classes, channels=channels)
    features: list[nn.Module] = []
    inside = channels
    for stage in _STAGES:
        for outside in stage:
            convolution = nn.Conv2d(inside, outside, 3, padding=1)
            features += [convolution, nn.BatchNorm2d(outside), nn.ReLU()]
            inside = outside
        features.append(nn.MaxPool2d(2))
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*features))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(inside, classes))
    kaiming(network)
    return network
