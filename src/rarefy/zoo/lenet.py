"""LeNet-300-100 and LeNet-5: the two networks every paper on compression begins with."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rarefy.errors import ModelError
from rarefy.zoo.init import kaiming, require


def lenet_300_100(classes: int = 10, channels: int = 1, size: int = 28) -> nn.Sequential:
    """Two hidden layers of 300 and 100; 266,610 parameters on 28x28. Flattens the image itself."""
    require("lenet-300-100", 1, classes=classes, channels=channels, size=size)
    network = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),  # (N, C, size, size) -> (N, C * size * size)
            fc1=nn.Linear(channels * size * size, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )
    kaiming(network)
    return network


def lenet5(classes: int = 10, channels: int = 1, size: int = 28, padding: int = 0) -> nn.Sequential:
    """Caffe's LeNet-5: 431,080 parameters on 28x28. As there, the one ReLU stands after `fc1`.

    `padding` is that of both convolutions; 2 keeps the sides, so that `size=8` works (8 -> 4 -> 2).
    """
    require("lenet5", 1, classes=classes, channels=channels, size=size)
    require("lenet5", 0, padding=padding)
    side = _after_conv_and_pool(_after_conv_and_pool(size, padding), padding)
    if side < 1:
        raise ModelError(
            f"lenet5: images of {size}x{size} are too small for padding {padding}: nothing is left after "
            "the second pooling; use padding=2 (any size from 4) or size of at least 16"
        )
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, 5, padding=padding),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5, padding=padding),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (N, 50, side, side) -> (N, 50 * side * side)
            fc1=nn.Linear(50 * side * side, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )
    kaiming(network)
    return network


def lenet5_digits(classes: int = 10, channels: int = 1) -> nn.Sequential:
    """LeNet-5 for the embedded 8x8 digits."""
    return lenet5(classes, channels, size=8, padding=2)


def _after_conv_and_pool(side: int, padding: int) -> int:
    return (side + 2 * padding - 4) // 2
