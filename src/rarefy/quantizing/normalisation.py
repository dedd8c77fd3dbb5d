"""BatchNorm as part of the layer before it: exact, once its statistics stand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy import encodings
from rarefy.graph.flow import Flow
from rarefy.graph.modules import replaced
from rarefy.graph.weights import Weight, weights
from rarefy.layers.rounding import hand_over

LEAST = 2.0**-16  # of the largest scale: biases are integers of 32 bits at the same scales
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def foldable(model: nn.Module, seen: Flow) -> dict[str, str]:
    """BatchNorm -> the layer that can take it in: what one gives goes to the other, and nowhere else, once."""
    modules = dict(model.named_modules())
    owners = {id(m): (len(w.owners), w) for w in weights(model) for m, name in w.owners if name == "weight"}
    found = {}
    for path, norm in modules.items():
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or seen.calls[path] != 1 or not path:
            continue
        value = seen.inputs.get(path, [(0, 0)])[0]
        alone = len(seen.uses.get(value, [])) == 1 and value not in seen.results
        for giver in seen.givers.get(value, []) if alone and not _hooked(norm) else []:
            layer = modules[giver]
            if isinstance(layer, LAYERS) and seen.calls[giver] == 1 and id(layer) in owners and not _hooked(layer):
                count, weight = owners[id(layer)]
                plain = all(isinstance(link, encodings.Mask) for link in encodings.chain(weight))
                if count == 1 and plain and _single(layer, seen.sizes[value]):
                    found[path] = giver
    return found


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _single(layer: nn.Module, ndim: int) -> bool:
    """Float32, with a bias of its own, and its channels in dimension 1 of what it gives."""
    bias, weight = layer._parameters.get("bias"), layer.weight
    plain = bias is not None or layer.bias is None
    return plain and weight.dtype == torch.float32 and (ndim == 2 or not isinstance(layer, nn.Linear))


def factor(norm: nn.Module) -> Tensor:
    """What a BatchNorm with standing statistics multiplies each channel by, in float64."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_var is not None
    scale = 1 / (norm.running_var.double() + norm.eps).sqrt()
    return scale if norm.weight is None else scale * norm.weight.detach().double()


def folded(model: nn.Module, norm: str, layer: str) -> nn.Module:
    """Multiply the layer's weight by the BatchNorm's scale, add its shift, and leave an Identity in its place.

    W' = W gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta, computed in float64.
    """
    batch, target = model.get_submodule(norm), model.get_submodule(layer)
    assert isinstance(batch, _BatchNorm)
    assert batch.running_mean is not None
    scale = factor(batch)
    shift = -batch.running_mean.double() * scale
    shift = shift if batch.bias is None else shift + batch.bias.detach().double()
    weight = Weight(f"{layer}.weight", ((target, "weight"),))
    tensor = weight.values.detach().double()
    scaled = tensor * scale.view(-1, *[1] * (tensor.ndim - 1))
    free = weight.values.requires_grad
    encodings.encode(weight, encodings.chain(weight), scaled)
    bias = target.bias
    if isinstance(bias, Tensor):
        shift = shift + bias.detach().double() * scale
    target.bias = nn.Parameter(shift.float(), requires_grad=free)
    return replaced(model, norm, nn.Identity())


def absorbed(model: nn.Module, norm: str, layer: str) -> nn.Module:
    """Fold a BatchNorm into a layer whose weight is stored as integers with a scale for each channel: none of them
    changes. What was rounded after the BatchNorm is rounded after the layer."""
    batch, target = model.get_submodule(norm), model.get_submodule(layer)
    link = encodings.find(Weight(f"{layer}.weight", ((target, "weight"),)), encodings.Affine)
    assert isinstance(link, encodings.Affine)
    scale = link.scale.double() * factor(batch).abs()
    link.scale.copy_(scale.clamp(min=max(float(scale.max()) * LEAST, torch.finfo(torch.float32).tiny)))
    model = folded(model, norm, layer)
    hand_over(batch, target)
    return model
