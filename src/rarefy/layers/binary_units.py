"""What binary layers are built into: residual units with a real-valued shortcut around each convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShiftedPReLU(nn.Module):
    """RPReLU: prelu(x - before) + after, with slope and shifts for each channel (ReActNet, Liu et al. 2020,
    arXiv:2003.03488)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, ...) -> the same."""
        column = (-1, *[1] * (x.ndim - 2))
        return F.prelu(x - self.before.view(column), self.slope) + self.after.view(column)


class Copies(nn.Module):
    """A shortcut without parameters: means over `stride` x `stride` pixels, and every channel `copies` times."""

    def __init__(self, stride: int, copies: int) -> None:
        super().__init__()
        self.stride, self.copies = stride, copies

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, copies C, ceil(H / stride), ceil(W / stride))."""
        if self.stride > 1:
            odd = any(size % self.stride for size in x.shape[-2:])  # engines are slower where windows are cut
            x = F.avg_pool2d(x, self.stride, ceil_mode=odd)
        return torch.cat([x] * self.copies, 1) if self.copies > 1 else x

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"stride={self.stride}, copies={self.copies}"


class BinaryUnit(nn.Module):
    """act(norm(layer(x)) + shortcut(x)): what a binary layer loses, its shortcut carries on (Bi-Real Net, Liu et al.
    2018, arXiv:1808.00278). The shortcut is never binary."""

    def __init__(self, layer: nn.Module, norm: nn.Module, shortcut: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm, self.shortcut = layer, norm, shortcut
        self.act = nn.Identity() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        result: Tensor = self.act(self.norm(self.layer(x)) + self.shortcut(x))
        return result
