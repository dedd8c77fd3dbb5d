"""Modules that only move channels: shuffle, reorder, side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Channel `g * n + i` of `groups` groups of n goes to `i * groups + g`, so that a grouped convolution that follows
    sees channels of every group.

    Zhang, Zhou, Lin, Sun 2018, ShuffleNet (section 3.1).
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, other order of channels."""
        n, channels, height, width = x.shape
        x = x.reshape(n, self.groups, channels // self.groups, height, width)
        return x.transpose(1, 2).reshape(n, channels, height, width)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"groups={self.groups}"


class Reorder(nn.Module):
    """Channel `order[i]` of the input is channel i of the output."""

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, other order of channels."""
        return x.index_select(1, self.order)


class Concat(nn.ModuleDict):
    """Each branch sees the input; what they give lies side by side in the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, sum of the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.values()], 1)
