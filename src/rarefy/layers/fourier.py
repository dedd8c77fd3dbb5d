"""Layers whose weight is a structured matrix, multiplied by FFT without building it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.encodings.structured import Structured


class FourierLinear(nn.Linear):
    """A Linear that multiplies by FFT while its weight is stored as a structured matrix, and is a plain one else.

    Its weight, its tensors and its ONNX form are those of the Linear; only the way to the result differs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        found = _structure(self)
        if found is None:
            return super().forward(input)
        link, values = found
        y = link.product(values, input)
        return y if self.bias is None else y + self.bias


class FourierConv2d(nn.Conv2d):
    """A 1x1 convolution without padding that multiplies by FFT over the channels, as `FourierLinear` does."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in, H, W) -> (..., out, H', W')."""
        found = _structure(self)
        if found is None:
            return super().forward(input)
        link, values = found
        x = input[..., :: self.stride[0], :: self.stride[1]].movedim(-3, -1)
        y: Tensor = link.product(values, x)
        return (y if self.bias is None else y + self.bias).movedim(-1, -3)


def _structure(layer: nn.Module) -> tuple[Structured, Tensor] | None:
    """The structure that is the outermost encoding of the layer's weight, and its values."""
    if torch.compiler.is_compiling() or not parametrize.is_parametrized(layer, "weight"):
        return None
    assert isinstance(layer.parametrizations, nn.ModuleDict)
    links = layer.parametrizations["weight"]
    assert isinstance(links, parametrize.ParametrizationList)
    *inner, outer = list(links)
    if not isinstance(outer, Structured):
        return None
    values = links.original
    assert isinstance(values, Tensor)
    for link in inner:
        values = link(values)
    return outer, values
