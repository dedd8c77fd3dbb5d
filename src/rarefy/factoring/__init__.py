"""A layer as a chain of smaller ones: the methods by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.calibration import Spread
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


def shaped(layer: Layer, method: Method, ranks: Ranks, bias: bool = False) -> nn.Sequential:
    """The chain, with weights of zero and the layer's own bias. bias: a new one, of the same values or zeros."""
    with torch.device("meta"):  # no random numbers are drawn
        chain = method.build(layer, ranks)
    chain = chain.to_empty(device=layer.weight.device).requires_grad_(layer.weight.requires_grad)
    for weight in chain.parameters():
        weight.data.zero_()
    last = chain[-1]
    assert isinstance(last, (nn.Linear, nn.Conv2d))
    last.bias = layer.bias
    if bias:  # it will change, and other layers may share the old one
        old = layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach().clone()
        free = layer.weight if layer.bias is None else layer.bias
        last.bias = nn.Parameter(old, free.requires_grad)
    return chain


def fill(chain: nn.Sequential, layer: Layer, method: Method, ranks: Ranks, seen: Spread | None) -> None:
    """Set the weights of the chain's layers. seen: of the layer's input; its bias then takes the mean error."""
    tensors = method.weights(layer, ranks, None if seen is None else seen.covariance)
    for part, tensor in zip(chain, tensors, strict=True):
        weight = part.weight
        assert isinstance(weight, nn.Parameter)
        weight.data.copy_(tensor.reshape(weight.shape))
    if seen is not None:
        _restore_mean(chain, layer, seen.mean)


@torch.no_grad()
def _restore_mean(chain: nn.Sequential, layer: Layer, mean: Tensor) -> None:
    """Add to the chain's bias what its weights lose of the mean output: at one position, so that neither stride nor
    padding matters."""
    bias = chain[-1].bias
    assert isinstance(bias, nn.Parameter)
    found = mean.reshape(1, layer.in_channels, *layer.kernel_size) if isinstance(layer, nn.Conv2d) else mean
    wanted = _product(layer, found)
    for part in chain:
        found = _product(part, found)
    bias.add_((wanted - found).flatten())


def _product(part: nn.Module, x: Tensor) -> Tensor:
    weight = part.weight
    assert isinstance(weight, Tensor)
    return F.conv2d(x, weight, groups=part.groups) if isinstance(part, nn.Conv2d) else F.linear(x, weight)
