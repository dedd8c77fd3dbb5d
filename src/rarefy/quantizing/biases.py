"""Biases of layers that run on integers: engines add them as 32-bit integers, of the scale of input x weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.graph.weights import Weight
from rarefy.quantizing.decision import INTEGER_LAYERS


def store(model: nn.Module, path: str, blank: bool) -> None:
    """Store the bias of the layer at `path` as such integers, which a layer wants whose output stays float32."""
    module = model.get_submodule(path)
    weight = Weight(f"{path}.bias", ((module, "bias"),))
    scale = _grid(module)
    assert scale is not None
    scale = torch.ones(weight.tensor.shape) if blank else scale.expand(len(weight.tensor))
    encodings.encode(weight, [Affine(scale, torch.zeros(scale.shape), 32, 0)], module.bias)  # type: ignore[arg-type]


def snap(model: nn.Module) -> None:
    """Put biases that are stored as floats (in place) on the grid of these integers, so that sums are the same."""
    for module in model.modules():
        bias, scale = module._parameters.get("bias"), _grid(module)
        if bias is not None and scale is not None:
            bias.data.copy_((bias.data.double() / scale.double()).round() * scale.double())


def summed(weight: Weight) -> bool:
    """Whether a parameter is such a bias."""
    return any(name == "bias" and _grid(module) is not None for module, name in weight.owners)


def _grid(module: nn.Module) -> Tensor | None:
    """The scale of a layer's sums of products; None where it does not run on integers."""
    given = module._buffers.get("input_scale")
    if given is None or not isinstance(module, INTEGER_LAYERS):
        return None
    link = encodings.find(Weight("weight", ((module, "weight"),)), Affine)
    if not isinstance(link, Affine) or link.group or link.axis not in (0, None):
        return None
    return link.scale * given.to(link.scale.device)
