"""A layer as a chain of smaller ones: the methods by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarefy.factoring.method import Curve, Geometry, Layer, Method, Ranks
from rarefy.factoring.multilinear import Cp, Tucker
from rarefy.factoring.separable import Spatial, Svd

__all__ = [
    "METHODS",
    "Cp",
    "Curve",
    "Geometry",
    "Layer",
    "Method",
    "Ranks",
    "Spatial",
    "Svd",
    "Tucker",
    "fill",
    "shaped",
    "suiting",
]

METHODS: dict[str, Method] = {method.name: method for method in (Svd(), Spatial(), Tucker(), Cp())}


def suiting(layer: Layer, name: str) -> list[Method]:
    """The methods that a setting stands for on this layer: "auto" is all whose error every rank is known for. A Linear
    and a 1x1 convolution, which are matrices, are always factored by svd."""
    names = ("svd", "spatial", "tucker") if name == "auto" else (name,)
    if isinstance(layer, nn.Linear) or max(layer.kernel_size) == 1:
        names = ("svd",)
    return [METHODS[n] for n in names if METHODS[n].why_not(layer) is None]


def shaped(layer: Layer, method: Method, ranks: Ranks) -> nn.Sequential:
    """The chain, with weights of zero and the layer's own bias."""
    with torch.device("meta"):  # no random numbers are drawn
        chain = method.build(layer, ranks)
    chain = chain.to_empty(device=layer.weight.device).requires_grad_(layer.weight.requires_grad)
    for weight in chain.parameters():
        weight.data.zero_()
    last = chain[-1]
    assert isinstance(last, (nn.Linear, nn.Conv2d))
    last.bias = layer.bias
    return chain


def fill(chain: nn.Sequential, tensors: list[Tensor]) -> None:
    """Set the weights of the chain's layers."""
    for part, tensor in zip(chain, tensors, strict=True):
        weight = part.weight
        assert isinstance(weight, nn.Parameter)
        weight.data.copy_(tensor.reshape(weight.shape))
