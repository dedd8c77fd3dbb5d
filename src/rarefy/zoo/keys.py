"""Weights that other libraries publish, under the names that the zoo's networks have.

torchvision's names are the zoo's own (SqueezeNet, MobileNet V2 and V3, ShuffleNet V2, ResNet, VGG, AlexNet), and so are
timm's of ResNet. timm's of MobileNet V1 and V2 are translated here. (Its MobileNet V3 is another network: the BatchNorm
has another epsilon.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)")
_SEPARABLE = {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "pointwise.0", "bn2": "pointwise.1"}
_FIRST = {"conv_dw": "conv.0.0", "bn1": "conv.0.1", "conv_pw": "conv.1", "bn2": "conv.2"}
_INVERTED = {
    "conv_pw": "conv.0.0",
    "bn1": "conv.0.1",
    "conv_dw": "conv.1.0",
    "bn2": "conv.1.1",
    "conv_pwl": "conv.2",
    "bn3": "conv.3",
}
_STEM = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
_AROUND = {
    "mobilenet-v1": {**_STEM, "classifier": "classifier"},
    "mobilenet-v2": {**_STEM, "conv_head": "features.18.0", "bn2": "features.18.1", "classifier": "classifier.1"},
}


def renamed(network: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """`tensors` under the names of the zoo's `network` where they have timm's; what is not known keeps its name."""
    network = network.partition(",")[0].lower().replace("_", "-")
    if network not in _AROUND or "conv_stem.weight" not in tensors:
        return dict(tensors)
    blocks = sorted({_place(key) for key in tensors if _BLOCK.fullmatch(key)})
    return {_own(network, key, blocks): tensor for key, tensor in tensors.items()}


def _place(key: str) -> tuple[int, int]:
    _, stage, block, *_ = key.split(".")
    return int(stage), int(block)


def _own(network: str, key: str, blocks: list[tuple[int, int]]) -> str:
    if found := _BLOCK.fullmatch(key):
        index, layer, tensor = blocks.index(_place(key)), found[3], found[4]
        inside = _SEPARABLE if network == "mobilenet-v1" else _FIRST if index == 0 else _INVERTED
        return f"features.{index + 1}.{inside[layer]}.{tensor}" if layer in inside else key
    layer, _, tensor = key.rpartition(".")
    return f"{_AROUND[network][layer]}.{tensor}" if layer in _AROUND[network] else key
