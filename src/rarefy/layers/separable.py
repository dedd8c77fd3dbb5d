"""Depthwise separable: a kernel for each channel by itself, then 1x1 over all channels.

Howard et al. 2017, MobileNets (arXiv:1704.04861); the closest one by the singular vectors of each input channel's
(outputs x kernel) matrix.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rarefy.layers.light import Fit, Light, biased, convolution
from rarefy.numerics import low_rank


@dataclass(frozen=True)
class Separable(Light):
    """`multiplier` kernels for each input channel; with as many as a kernel has weights nothing is lost."""

    name: ClassVar[str] = "separable"

    multiplier: int = 1

    def why_not(self, conv: nn.Conv2d) -> str | None:
        """Any convolution can."""
        return None

    def build(self, conv: nn.Conv2d) -> nn.Sequential:
        """`depthwise`, `pointwise`."""
        middle = self.multiplier * conv.in_channels
        depthwise = convolution(conv, conv.in_channels, middle, kernel=True, groups=conv.in_channels)
        pointwise = biased(convolution(conv, middle, conv.out_channels, kernel=False), conv)
        return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))

    def fit(self, weight: Tensor, bias: Tensor | None) -> Fit:
        """(o, i, kh, kw): for each i the best matrix of rank `multiplier`."""
        o, i, kh, kw = weight.shape
        left, right = low_rank.svd(weight.reshape(o, i, kh * kw).transpose(0, 1), self.multiplier)
        tensors = {
            "depthwise.weight": right.reshape(-1, 1, kh, kw),  # (i, multiplier, kh * kw)
            "pointwise.weight": left.transpose(0, 1).reshape(o, -1, 1, 1),  # (i, o, multiplier)
        }
        if bias is not None:
            tensors["pointwise.bias"] = bias
        return Fit(tensors, (left @ right).transpose(0, 1).reshape(o, i, kh, kw))
