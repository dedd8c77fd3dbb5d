"""Grouped with a shuffle: a kernel within each group of channels, a channel shuffle, 1x1 within each group.

Zhang, Zhou, Lin, Sun 2018, ShuffleNet (arXiv:1707.01083). From each group of inputs to each group of outputs lead as
many channels, so the part of the weight between the two is a matrix of that rank, and the closest its truncated SVD.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rarefy.layers.channels import ChannelShuffle
from rarefy.layers.light import Fit, Light, biased, convolution
from rarefy.numerics import low_rank


@dataclass(frozen=True)
class Grouped(Light):
    """About as many channels in the middle as it gives."""

    name: ClassVar[str] = "shuffle"

    groups: int = 4

    def why_not(self, conv: nn.Conv2d) -> str | None:
        """The channels must divide into the groups."""
        if conv.in_channels % self.groups or conv.out_channels % self.groups:
            return f"{conv.in_channels} -> {conv.out_channels} channels do not divide into {self.groups} groups"
        return None

    def build(self, conv: nn.Conv2d) -> nn.Sequential:
        """`spatial`, `shuffle`, `pointwise`."""
        middle = self._rank(conv.out_channels) * self.groups**2
        spatial = convolution(conv, conv.in_channels, middle, kernel=True, groups=self.groups)
        pointwise = convolution(conv, middle, conv.out_channels, kernel=False, groups=self.groups)
        shuffle = ChannelShuffle(self.groups)
        return nn.Sequential(OrderedDict(spatial=spatial, shuffle=shuffle, pointwise=biased(pointwise, conv)))

    def _rank(self, outside: int) -> int:
        return max(1, round(outside / self.groups**2))

    def fit(self, weight: Tensor, bias: Tensor | None) -> Fit:
        """(o, i, kh, kw), as blocks (group in, group out, o / groups, i / groups * kh * kw)."""
        o, i, kh, kw = weight.shape
        g, rank = self.groups, self._rank(o)
        blocks = weight.reshape(g, o // g, g, -1).permute(2, 0, 1, 3)
        left, right = low_rank.svd(blocks.flatten(0, 1), rank)
        closest = (left @ right).reshape(blocks.shape).permute(1, 2, 0, 3).reshape(o, i, kh, kw)
        tensors = {
            "spatial.weight": right.reshape(g * g * rank, i // g, kh, kw),
            # (group in, group out, o / g, rank): the shuffle has put the groups in next to each other
            "pointwise.weight": left.reshape(g, g, o // g, rank).permute(1, 2, 3, 0).reshape(o, rank * g, 1, 1),
        }
        if bias is not None:
            tensors["pointwise.bias"] = bias
        return Fit(tensors, closest)
