"""Layers whose inputs are signs or few-bit integers: Conv2d and Linear with one more thing done to what they are given.

Where the weights are one bit too (`rarefy.encodings.Signs`), the ONNX file has one operator for the layer, by xor and
popcount; while they are anything else, the same in standard operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from rarefy.encodings import Signs
from rarefy.errors import InputError
from rarefy.numerics.binary import Gradient, levels, signs

MOST_BITS = 4
SYMBOL = "rarefy::Layer"  # what a layer is in the traced graph, until the file is written


@dataclass(frozen=True)
class Activation:
    """What becomes of a layer's input.

    bits: 0 for sign(x - threshold); 1 to 4 for round(clip(x steps, 0, 2^bits - 1)) / steps. gradient: what the sign is
    trained with. map: the result is multiplied by XNOR-Net's K, the mean magnitude of the input under the filter.
    """

    bits: int = 0
    gradient: Gradient = "hardtanh"
    map: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= MOST_BITS:
            raise InputError(f"activations have 1 to {MOST_BITS} bits, or 0 for signs, not {self.bits}")
        if self.bits and self.map:
            raise InputError("the input's scale belongs to signs, not to activations of several bits")

    def __str__(self) -> str:
        return f"{self.bits}-bit inputs" if self.bits else "signs of its input" + ", with their scale" * self.map


class BinaryConv2d(nn.Conv2d):
    """A Conv2d on signs or few-bit integers of its input: made of a Conv2d by `binarize`."""

    activation: Activation
    threshold: nn.Parameter | None  # (in_channels,)
    steps: Tensor | None  # (), levels for each unit of the input

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        if torch.onnx.is_in_onnx_export() and input.ndim == 4 and why_no_kernel(self) is None:
            left, right, top, bottom = self._reversed_padding_repeated_twice
            size = [
                (n + a + b - d * (k - 1) - 1) // s + 1
                for n, a, b, d, k, s in zip(
                    input.shape[2:], (top, left), (bottom, right), self.dilation, self.kernel_size, self.stride,
                    strict=True,
                )
            ]  # fmt: skip
            geometry = {"strides": self.stride, "dilations": self.dilation, "padding": (top, left, bottom, right)}
            return _symbol(self, input, (input.shape[0], self.out_channels, *size), geometry)
        x, counted = _shifted(self, input), _counted(self)
        if not counted and not self.activation.map:
            y: Tensor = self._conv_forward(_activated(self, x), self.weight, self.bias)
            return y
        weight, scale = _parted(self) if counted else (self.weight, None)
        y = self._conv_forward(_activated(self, x, whole=counted), weight, None)
        y = y if scale is None else y * scale.view(-1, 1, 1)
        y = y * self._scale_of(x) if self.activation.map else y
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _scale_of(self, x: Tensor) -> Tensor:
        """K: mean magnitude of the channels, averaged under the filter; zeros outside count. A constant to training."""
        mean = F.pad(x.detach().abs().mean(1, keepdim=True), self._reversed_padding_repeated_twice)
        ones = mean.new_ones(1, 1, *self.kernel_size)
        return F.conv2d(mean, ones, stride=self.stride, dilation=self.dilation) / ones.numel()

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"{nn.Conv2d.extra_repr(self)}, {self.activation}"  # type: ignore[no-untyped-call]


class BinaryLinear(nn.Linear):
    """A Linear on signs or few-bit integers of its input: made of a Linear by `binarize`."""

    activation: Activation
    threshold: nn.Parameter | None  # (in_features,)
    steps: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if torch.onnx.is_in_onnx_export():
            rows = input if input.ndim == 2 else input.reshape(-1, self.in_features)
            y = _symbol(self, rows, (rows.shape[0], self.out_features), {})
            return y if input.ndim == 2 else y.reshape(*input.shape[:-1], self.out_features)
        if not _counted(self):
            return F.linear(_activated(self, _shifted(self, input)), self.weight, self.bias)
        weight, scale = _parted(self)
        y = F.linear(_activated(self, _shifted(self, input), whole=True), weight) * scale
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"{nn.Linear.extra_repr(self)}, {self.activation}"


BinaryLayer = BinaryConv2d | BinaryLinear


def binarize(
    layer: nn.Conv2d | nn.Linear, activation: Activation, threshold: Tensor | None = None, steps: Tensor | None = None
) -> None:
    """Make `layer` (in place, so wherever it is used) one on signs or few-bit integers. Its weight stays what it is.

    threshold: where each channel's sign changes, learnt from then on (RSign); None for 0. steps: for integers.
    """
    if activation.map and not isinstance(layer, nn.Conv2d):
        raise InputError("the input's scale belongs to convolutions, not to Linear")
    _change_class(layer, BinaryConv2d if isinstance(layer, nn.Conv2d) else BinaryLinear)
    assert isinstance(layer, BinaryLayer)
    layer.activation = activation
    layer.register_parameter("threshold", None if threshold is None else nn.Parameter(threshold.float()))
    layer.register_buffer("steps", None if steps is None else steps.float())


def keep_called(model: nn.Module) -> None:
    """Have torch's encoder layers call the binary ones inside: their fast path would only multiply by the weights."""
    for module in model.modules():
        binary = any(isinstance(child, BinaryLayer) for child in module.children())
        if binary and isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # what it does for any other activation


def one_bit(layer: nn.Conv2d | nn.Linear) -> None:
    """Store the weight of `layer` (in place) as signs with a scale per filter; its values become the latent weights."""
    link = Signs(tuple(layer.weight.shape)).fit(layer.weight.detach())
    parametrize.register_parametrization(layer, "weight", link, unsafe=True)


def _change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Parametrized modules have a class of their own, whose base is the one that counts."""
    if parametrize.is_parametrized(module):
        shared = type(module)
        members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, (kind,), members)
    else:
        module.__class__ = kind


def why_no_kernel(layer: nn.Module) -> str | None:
    """Why there is no binary kernel for a layer, which then runs as standard operators."""
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return f"there are kernels for Conv2d and Linear, not for {type(layer).__name__}"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"the kernels have no groups, and it has {layer.groups}"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"the kernels pad with zeros, and it pads by {layer.padding_mode!r}"
    return None


def _shifted(layer: BinaryLayer, x: Tensor) -> Tensor:
    if layer.threshold is None:
        return x
    return x - (layer.threshold.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else layer.threshold)


def _activated(layer: BinaryLayer, x: Tensor, *, whole: bool = False) -> Tensor:
    """whole: integers, not divided by the steps."""
    if layer.steps is None:
        return signs(x, layer.activation.gradient)
    found = levels(x.float(), layer.activation.bits, layer.steps)
    return (found if whole else found / layer.steps).to(x.dtype)


def _counted(layer: BinaryLayer) -> bool:
    """Whether sums are integers, as in the kernels: one of as many weights of each sign is 0, not almost."""
    if layer.training or not parametrize.is_parametrized(layer, "weight") or why_no_kernel(layer):
        return False
    links: Any = layer.parametrizations
    return len(links.weight) == 1 and isinstance(links.weight[0], Signs)


def _parted(layer: BinaryLayer) -> tuple[Tensor, Tensor]:
    """The weight as -1 and +1, and what each filter's sums are multiplied by."""
    weight = layer.weight
    size = weight.detach().abs().flatten(1).amax(1)
    size = torch.where(size > 0, size, 1.0)
    scale = size if layer.steps is None else (size.double() / layer.steps.double()).to(size.dtype)
    return weight / size.view(-1, *[1] * (weight.ndim - 1)), scale


def _symbol(layer: BinaryLayer, x: Tensor, shape: tuple[Any, ...], geometry: dict[str, Any]) -> Tensor:
    """One node with all that the layer has; `rarefy.export.binary_layers` writes what it becomes."""
    symbol: Any = torch.onnx.ops.symbolic
    attributes = {"map": int(layer.activation.map), "bits": layer.activation.bits, "shape": tuple(layer.weight.shape)}
    given = {"weight": layer.weight, "bias": layer.bias, "threshold": layer.threshold, "steps": layer.steps}
    have = {name: tensor for name, tensor in given.items() if tensor is not None}
    attributes |= {"have": tuple(have), **geometry}
    y: Tensor = symbol(SYMBOL, (x, *have.values()), attributes, dtype=torch.float32, shape=shape, version=1)
    return y
