"""Fire: 1x1 to few channels, and from there one half of the outputs by 1x1, the other by the whole kernel.

Iandola et al. 2016, SqueezeNet (arXiv:1602.07360), here without the ReLUs inside. Which outputs do with 1x1: those with
the least weight off the kernel's centre. Given that, the closest is a truncated SVD over the inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rarefy.layers.channels import Concat, Reorder
from rarefy.layers.light import Fit, Light, biased, convolution
from rarefy.numerics import low_rank


@dataclass(frozen=True)
class Fire(Light):
    """`squeeze` of the outputs' number are the channels in the middle."""

    name: ClassVar[str] = "fire"
    early: ClassVar[str] = "squeeze"

    squeeze: float = 0.25

    def why_not(self, conv: nn.Conv2d) -> str | None:
        """The 1x1 part must fall on the centre of the kernel."""
        sides = [(k - 1) * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        odd = all(k % 2 for k in conv.kernel_size)
        padding = sides if conv.padding == "same" else [2 * p for p in conv.padding if not isinstance(p, str)]
        if not odd or padding != sides:
            return "its padding is not half of its kernel, so that a 1x1 convolution beside it has another size"
        return "it has one output channel" if conv.out_channels < 2 else None

    def build(self, conv: nn.Conv2d) -> nn.Sequential:
        """`squeeze`, `expand` (`one` and `all` side by side), `reorder`."""
        o = conv.out_channels
        middle = self._middle(o, conv.in_channels)
        one = biased(convolution(conv, middle, o // 2, kernel=False), conv)
        one.stride = conv.stride
        all_ = biased(convolution(conv, middle, o - o // 2, kernel=True), conv)
        squeeze = convolution(conv, conv.in_channels, middle, kernel=False)
        reorder = Reorder(o)
        return nn.Sequential(OrderedDict(squeeze=squeeze, expand=Concat(one=one, all=all_), reorder=reorder))

    def _middle(self, outside: int, inside: int) -> int:
        return min(inside, max(1, round(self.squeeze * outside)))

    def fit(self, weight: Tensor, bias: Tensor | None) -> Fit:
        """(o, i, kh, kw): the rows of a (. x i) matrix are the centres of one half, and all positions of the other."""
        o, i, kh, kw = weight.shape
        centre = weight[:, :, kh // 2, kw // 2]
        off = weight.square().sum((1, 2, 3)) - centre.square().sum(1)
        places = off.argsort(stable=True)
        ones, others = places[: o // 2].sort().values, places[o // 2 :].sort().values
        rows = torch.cat([centre[ones], weight[others].permute(0, 2, 3, 1).reshape(-1, i)])
        left, right = low_rank.svd(rows[None], self._middle(o, i))
        one, rest = left[0, : o // 2], left[0, o // 2 :]
        closest = torch.zeros_like(weight)
        closest[ones, :, kh // 2, kw // 2] = one @ right[0]
        closest[others] = (rest @ right[0]).reshape(-1, kh, kw, i).permute(0, 3, 1, 2)
        order = torch.cat([ones, others])
        tensors = {
            "squeeze.weight": right[0, :, :, None, None],
            "expand.one.weight": one[:, :, None, None],
            "expand.all.weight": rest.reshape(len(others), kh, kw, -1).permute(0, 3, 1, 2),
            "reorder.order": order.argsort(),
        }
        if bias is not None:
            tensors |= {"expand.one.bias": bias[ones], "expand.all.bias": bias[others]}
        return Fit(tensors, closest)
