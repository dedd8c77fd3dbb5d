"""A real-valued shortcut around a convolution and the BatchNorm after it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy.binarizing.inputs import View
from rarefy.graph.modules import replaced
from rarefy.layers.binary_units import BinaryUnit, Copies


def shortcut(path: str, view: View) -> dict[str, Any] | None:
    """As plain data; None where the result has another shape than copies of the input, or the layer is called more
    than once."""
    layer, seen = view.modules[path], view.flow
    if not isinstance(layer, nn.Conv2d) or seen.calls[path] != 1:
        return None
    stats, stride = view.inputs[path], layer.stride[0]
    copies, rest = divmod(layer.out_channels, layer.in_channels)
    if rest or layer.stride[1] != stride or stats.result != tuple(-(-n // stride) for n in stats.image):
        return None
    (value,) = seen.outputs[path]
    alone = len(seen.uses.get(value, [])) == 1 and value not in seen.results
    norms = [p for p, m in view.modules.items() if isinstance(m, _BatchNorm) and seen.inputs.get(p) == [value]]
    return {"norm": norms[0] if alone and norms else None, "stride": stride, "copies": copies}


def with_shortcut(model: nn.Module, path: str, norm: str | None, stride: int, copies: int) -> nn.Module:
    """Put a unit where the layer is, and nothing where its BatchNorm was."""
    layer = model.get_submodule(path)
    batch = nn.Identity() if norm is None else model.get_submodule(norm)
    around = nn.Identity() if (stride, copies) == (1, 1) else Copies(stride, copies)
    if norm is not None:
        model = replaced(model, norm, nn.Identity())
    return replaced(model, path, BinaryUnit(layer, batch, around))
