"""A network whose weights are rounded together at one rate after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Mask
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight
from rarefy.quantizing.calibration import mean_error
from rarefy.quantizing.decision import TRANSPOSED
from rarefy.quantizing.grids import Rounding, entropy
from rarefy.quantizing.normalisation import LAYERS

LINEAR = (*LAYERS, *TRANSPOSED)


class Trial:
    """model: with plain weights and masks. means: the mean input of each layer, by path."""

    def __init__(self, model: nn.Module, found: list[Weight], roundings: Mapping[str, Rounding]) -> None:
        self.model, self.found, self.roundings = model, found, roundings
        self.masks = {w.path: masks(w) for w in found}
        self.plain = {w.path: w.tensor.detach().clone() for w in found}
        self.means: dict[str, Tensor] = {}
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.layers = encodings.decoded(twin(model))  # as they were
        self.biases = {id(w.owners[0][0]): w for w in found if w.tensor.ndim == 1 and w.owners[0][1] == "bias"}

    def correctable(self) -> Iterator[str]:
        """The layers whose biases can take over what their outputs lose."""
        for weight in self.found:
            for module, name in weight.owners:
                if name == "weight" and id(module) in self.biases and isinstance(module, LINEAR):
                    yield self.paths[id(module)]

    def start(self, bits: float) -> float:
        """The logarithm of the shared step at which normally distributed weights have about this entropy."""
        used = [r for r in self.roundings.values() if r.rows is not None]
        if not used:
            return 0.0
        spread = torch.cat([_octaves(r) for r in used])
        return float(spread.mean()) + math.log2(math.sqrt(2 * math.pi * math.e)) - bits

    def set(self, logarithm: float) -> None:
        """Round every weight for the shared step 2^logarithm, matrices first: what they change on average goes to
        the biases."""
        corrections: dict[int, Tensor] = {}
        for weight in sorted(self.found, key=lambda w: w.tensor.ndim == 1):
            rounding, plain = self.roundings[weight.path], self.plain[weight.path]
            if plain.ndim == 1:
                shift = corrections.get(id(weight.owners[0][0])) if weight.owners[0][1] == "bias" else None
                rounding.weight = plain if shift is None else plain + shift
            grid, values = rounding.at(logarithm)
            encodings.encode(weight, [*self.masks[weight.path], grid], values)
            if plain.ndim > 1:
                corrections |= self._corrections(weight, plain - values)

    def _corrections(self, weight: Weight, lost: Tensor) -> dict[int, Tensor]:
        """By the layer, of those with a bias: what its outputs lose on average."""
        found = {}
        for module, name in weight.owners:
            mean = self.means.get(self.paths[id(module)])
            if name == "weight" and mean is not None and id(module) in self.biases:
                layer = self.layers.get_submodule(self.paths[id(module)])
                found[id(module)] = mean_error(layer, lost, mean)
        return found

    def bits(self) -> float:
        """The mean entropy of a weight."""
        total = sum(entropy(encodings.stored(w)) for w in self.found)
        return total / sum(w.tensor.numel() for w in self.found)


def masks(weight: Weight) -> list[encodings.Encoding]:
    """The masks in a weight's chain."""
    return [link for link in encodings.chain(weight) if isinstance(link, Mask)]


def _octaves(rounding: Rounding) -> Tensor:
    """The logarithm of the size of each row's weights, in units of its relative step."""
    assert rounding.rows is not None
    dims = [d for d, size in enumerate(rounding.layout.row_shape) if size == 1]
    even = rounding.weight.double() / (1 if rounding.columns is None else rounding.columns.exp2())
    size = even.square().mean(dims, keepdim=True).sqrt().clamp(min=1e-30)
    return (size.log2() - rounding.rows).expand(rounding.weight.shape).flatten()
