"""Three and four layers for a convolution, from decompositions of its kernel as a tensor."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rarefy.factoring.method import (
    Curve,
    Geometry,
    Layer,
    Method,
    Ranks,
    convolution,
    kernel_of,
    pointwise,
    size_of,
)
from rarefy.numerics import cp as cp_numerics
from rarefy.numerics import low_rank


class Tucker(Method):
    """1x1, the kernel between fewer channels, 1x1 (Kim et al. 2016). Ranks: channels out and in of the core."""

    name = "tucker"

    def why_not(self, layer: Layer) -> str | None:
        """Needs a kernel and one group."""
        return _one_group(layer)

    def full(self, layer: Layer) -> Ranks:
        """The channels."""
        o, i, kh, kw = layer.weight.shape
        return min(o, i * kh * kw), min(i, o * kh * kw)

    def curve(self, layer: Layer, moment: Tensor | None) -> Curve:
        """The error of the truncated HOSVD at every pair of ranks."""
        errors = low_rank.tucker_errors(layer.weight.detach(), _channels(kernel_of(layer), moment))
        high, wide = self.full(layer)
        ranks = torch.cartesian_prod(torch.arange(1, high + 1), torch.arange(1, wide + 1)).view(-1, 2)
        return Curve(ranks, errors[1 : high + 1, 1 : wide + 1].reshape(-1).cpu(), float(errors[0, 0]))

    def cost(self, layer: Layer, ranks: Tensor, at: Geometry) -> tuple[Tensor, Tensor]:
        """i r_i + r_i r_o kh kw + r_o o."""
        o, i, kh, kw = layer.weight.shape
        out, into = ranks.unbind(1)
        first, core, last = into * i, out * into * (kh * kw), out * o
        return first + core + last, first * at.inside + (core + last) * at.outside

    def build(self, layer: Layer, ranks: Ranks) -> nn.Sequential:
        """Stride, padding and dilation are the core's."""
        kernel, (out, into) = kernel_of(layer), ranks
        return nn.Sequential(
            pointwise(kernel.in_channels, into),
            convolution(kernel, into, out),
            pointwise(out, kernel.out_channels, layer.bias is not None),
        )

    def weights(self, layer: Layer, ranks: Ranks, moment: Tensor | None) -> list[Tensor]:
        """With a moment, the last convolution is then fitted to the data exactly."""
        weight, (out, into) = layer.weight.detach(), ranks
        last, core, first = low_rank.tucker(weight, (out, into), _channels(kernel_of(layer), moment))
        if moment is not None:
            front = torch.einsum("rshw,si->rihw", core, first).flatten(1)[None]
            last = low_rank.refit(weight.flatten(1)[None], front, moment)
        return [first, core, last]


class Cp(Method):
    """1x1, depthwise kh x 1, depthwise 1 x kw, 1x1 (Lebedev et al. 2015)."""

    name = "cp"
    points: ClassVar[int] = 6  # ranks that are decomposed for a curve; between them it is interpolated

    def why_not(self, layer: Layer) -> str | None:
        """Needs a kernel and one group."""
        return _one_group(layer)

    def full(self, layer: Layer) -> Ranks:
        """The product of the three smallest sides bounds the rank of any kernel."""
        sides = sorted(layer.weight.shape)
        return (sides[0] * sides[1] * sides[2],)

    def curve(self, layer: Layer, moment: Tensor | None) -> Curve:
        """No spectrum says it: some ranks are decomposed, up to where it no longer saves, the others interpolated."""
        kernel = self._whitened(layer, moment)[0]
        most = min(self.full(layer)[0], max(layer.weight.shape), layer.weight.numel() // sum(layer.weight.shape))
        some = sorted({max(1, round(most ** (p / (self.points - 1)))) for p in range(self.points)})
        errors = cp_numerics.cp_errors(kernel, some)
        ranks = torch.arange(1, max(1, most) + 1)
        known = torch.tensor(some, dtype=torch.float64)
        place = torch.searchsorted(known, ranks.double()).clamp(1, max(1, len(some) - 1))
        low, high = (place - 1).clamp(max=len(some) - 1), place.clamp(max=len(some) - 1)
        share = ((ranks - known[low]) / (known[high] - known[low]).clamp(min=1)).clamp(0, 1)
        error = errors.cpu()[low] * (1 - share) + errors.cpu()[high] * share
        return Curve(ranks[:, None], error, float(kernel.double().square().sum()))

    def cost(self, layer: Layer, ranks: Tensor, at: Geometry) -> tuple[Tensor, Tensor]:
        """r (i + kh + kw + o)."""
        o, i, kh, kw = layer.weight.shape
        rank = ranks[:, 0]
        return rank * (o + i + kh + kw), rank * (i * at.inside + kh * at.between + (kw + o) * at.outside)

    def build(self, layer: Layer, ranks: Ranks) -> nn.Sequential:
        """Rows before columns."""
        kernel, rank = kernel_of(layer), ranks[0]
        return nn.Sequential(
            pointwise(kernel.in_channels, rank),
            convolution(kernel, rank, rank, groups=rank, keep=0),
            convolution(kernel, rank, rank, groups=rank, keep=1),
            pointwise(rank, kernel.out_channels, layer.bias is not None),
        )

    def weights(self, layer: Layer, ranks: Ranks, moment: Tensor | None) -> list[Tensor]:
        """With a moment, the last convolution is then fitted to the data exactly."""
        kernel, root = self._whitened(layer, moment)
        out, into, rows, columns = cp_numerics.cp(kernel, ranks[0])
        if moment is not None and root is not None:
            into = torch.linalg.solve(root, into)
            front = torch.einsum("ir,yr,xr->riyx", into, rows, columns).flatten(1)[None]
            out = low_rank.refit(layer.weight.detach().flatten(1)[None].to(front.dtype), front, moment)[0]
        return [into.mT, rows.mT, columns.mT, out]

    def _whitened(self, layer: Layer, moment: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight, channels = layer.weight.detach(), _channels(kernel_of(layer), moment)
        if channels is None:
            return weight, None
        return low_rank.whitened(weight, channels)


def _one_group(layer: Layer) -> str | None:
    if isinstance(layer, nn.Linear) or max(layer.kernel_size) == 1:
        return "it has no kernel"
    return f"it has {layer.groups} groups" if layer.groups > 1 else None


def _channels(layer: nn.Conv2d, moment: Tensor | None) -> Tensor | None:
    return None if moment is None else low_rank.channel_moment(moment, layer.in_channels, size_of(layer))
