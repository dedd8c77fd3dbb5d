"""The kernels as PyTorch operators that torch.export and torch.compile accept; importing this registers them.

`torch.ops.rarefy.binary_conv2d` and `torch.ops.rarefy.binary_linear`: forward only, on the CPU, one thread.
"""

# ruff: noqa: ARG001  the fake operators have the signatures of the true ones

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from rarefy.errors import InputError
from rarefy.kernels.convolution import Convolution
from rarefy.kernels.filters import Filters
from rarefy.kernels.library import features

_torch: Any = torch  # these functions of it have no types
LIBRARY = _torch.library.Library("rarefy", "FRAGMENT")
LIBRARY.define(
    "binary_conv2d(Tensor x, Tensor weight, Tensor scale, Tensor bias, int[] shape, int[2] stride=[1, 1], "
    "int[4] padding=[0, 0, 0, 0], int[2] dilation=[1, 1], int pad_value=0, int bits=0, float steps=1.0, "
    "bool map=False) -> Tensor"
)
LIBRARY.define(
    "binary_linear(Tensor x, Tensor weight, Tensor scale, Tensor bias, int[] shape, int bits=0, "
    "float steps=1.0) -> Tensor"
)
# laid out once for each weight; made anew when the tensor was written to or another version is asked for
_made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    shape: list[int],
    stride: list[int] | None = None,
    padding: list[int] | None = None,
    dilation: list[int] | None = None,
    pad_value: int = 0,
    bits: int = 0,
    steps: float = 1.0,
    map: bool = False,
) -> Tensor:
    """`Filters.conv2d` on tensors: x float32 (N, C, H, W), weight the uint8 bits of filters of `shape`."""
    how = _how(stride, padding, dilation, pad_value, bits, steps, map)
    filters = _filters(weight, shape)
    return torch.from_numpy(filters.conv2d(_array(x), _array(scale), _array(bias), how))


def binary_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, shape: list[int], bits: int = 0, steps: float = 1.0
) -> Tensor:
    """`Filters.linear` on tensors: x float32 (N, features) -> (N, filters)."""
    filters = _filters(weight, shape)
    return torch.from_numpy(filters.linear(_array(x), _array(scale), _array(bias), bits=bits, steps=steps))


def _how(
    stride: list[int] | None,
    padding: list[int] | None,
    dilation: list[int] | None,
    pad_value: int,
    bits: int,
    steps: float,
    map: bool,
) -> Convolution:
    if padding is not None and len(padding) != 4:
        raise InputError(f"padding must be [top, left, bottom, right], not {list(padding)}")
    (sh, sw), (dh, dw) = stride or (1, 1), dilation or (1, 1)
    top, left, bottom, right = padding or (0, 0, 0, 0)
    return Convolution((sh, sw), (top, left, bottom, right), (dh, dw), pad_value, bits, steps, map)


def _fake_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    shape: list[int],
    stride: list[int] | None = None,
    padding: list[int] | None = None,
    dilation: list[int] | None = None,
    pad_value: int = 0,
    bits: int = 0,
    steps: float = 1.0,
    map: bool = False,
) -> Tensor:
    _torch._check(x.ndim == 4 and x.shape[1] == shape[1], lambda: f"x must be [batch, {shape[1]}, height, width]")
    how = _how(stride, padding, dilation, pad_value, bits, steps, map)
    return x.new_empty(x.shape[0], shape[0], *how.output(x.shape[2], x.shape[3], (shape[2], shape[3])))


def _fake_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, shape: list[int], bits: int = 0, steps: float = 1.0
) -> Tensor:
    _torch._check(x.ndim == 2 and x.shape[1] == shape[1], lambda: f"x must be [batch, {shape[1]}]")
    return x.new_empty(x.shape[0], shape[0])


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if tensor.dtype != torch.float32:
        raise InputError(f"the binary operators take float32 tensors, not {tensor.dtype}")
    return tensor.detach().numpy()


def _filters(weight: Tensor, shape: list[int]) -> Filters:
    if weight.is_inference():  # it does not say when it is written to
        return Filters(weight.numpy(), tuple(shape))
    key = (weight._version, tuple(shape), features().version)
    if weight not in _made or _made[weight][0] != key:
        _made[weight] = (key, Filters(weight.detach().numpy(), tuple(shape)))
    made: Filters = _made[weight][1]
    return made


LIBRARY.impl("binary_conv2d", binary_conv2d, "CPU")
LIBRARY.impl("binary_linear", binary_linear, "CPU")
torch.library.register_fake("rarefy::binary_conv2d", _fake_conv2d, lib=LIBRARY)
torch.library.register_fake("rarefy::binary_linear", _fake_linear, lib=LIBRARY)
