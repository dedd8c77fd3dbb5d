"""What the blocks that take the place of a convolution have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fit:
    """The closest that a block comes to a convolution's weight."""

    tensors: dict[str, Tensor]  # of the block, by name
    weight: Tensor  # of the convolution that the block is then equal to


@dataclass(frozen=True)
class Light(ABC):
    """A kind of block, linear like the convolution that it replaces: (N, in, H, W) -> (N, out, H', W')."""

    name: ClassVar[str]
    early: ClassVar[str] = ""  # the part that sees the image before it is strided

    @abstractmethod
    def why_not(self, conv: nn.Conv2d) -> str | None:
        """Why `conv` cannot become such a block."""

    @abstractmethod
    def build(self, conv: nn.Conv2d) -> nn.Sequential:
        """The block with the geometry of `conv`; what its tensors hold does not count."""

    @abstractmethod
    def fit(self, weight: Tensor, bias: Tensor | None) -> Fit:
        """Tensors with which it is nearest to a convolution's, in the sum of squares over `weight`."""

    def blank(self, conv: nn.Conv2d) -> nn.Sequential:
        """The block where `conv` is, trained where it is; its tensors hold anything. Draws no random numbers."""
        with torch.device("meta"):
            block = self.build(conv)
        block = block.to_empty(device=conv.weight.device)
        for parameter in block.parameters():
            same = conv.bias if parameter.ndim == 1 and conv.bias is not None else conv.weight
            parameter.requires_grad_(same.requires_grad)
        return block

    def filled(self, conv: nn.Conv2d) -> nn.Sequential:
        """The block that is nearest to `conv`."""
        block = self.blank(conv)
        fit = self.fit(conv.weight.detach(), None if conv.bias is None else conv.bias.detach())
        own = block.state_dict()
        for name, tensor in fit.tensors.items():
            own[name].copy_(tensor)
        return block

    def cost(self, conv: nn.Conv2d) -> tuple[int, int]:
        """Weights without biases: those that meet every pixel of the input, and those that meet every one of the
        output."""
        with torch.device("meta"):
            found = {name: t.numel() for name, t in self.build(conv).named_parameters() if t.ndim == 4}
        inside = sum(n for name, n in found.items() if self.early and name.startswith(self.early))
        return inside, sum(found.values()) - inside


def convolution(like: nn.Conv2d, inside: int, outside: int, *, kernel: bool, groups: int = 1) -> nn.Conv2d:
    """Without bias: with the kernel and all geometry of `like`, or 1x1."""
    if not kernel:
        return nn.Conv2d(inside, outside, 1, groups=groups, bias=False)
    return nn.Conv2d(
        inside,
        outside,
        like.kernel_size,  # type: ignore[arg-type]
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=False,
        padding_mode=like.padding_mode,
    )


def biased(conv: nn.Conv2d, like: nn.Conv2d) -> nn.Conv2d:
    """`conv` with a bias, where `like` has one."""
    if like.bias is not None:
        conv.bias = nn.Parameter(torch.empty(conv.out_channels))
    return conv
