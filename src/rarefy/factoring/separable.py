"""Two layers for one, from the spectrum of one matrix."""

from __future__ import annotations

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
from rarefy.numerics import low_rank


class Svd(Method):
    """A Linear as two; a convolution as one with `r` outputs for each group and a 1x1 one (Zhang et al. 2015)."""

    name = "svd"

    def why_not(self, layer: Layer) -> str | None:
        """Applies to all."""
        return None

    def full(self, layer: Layer) -> Ranks:
        """The smaller side of a group's matrix."""
        return (min(self._matrix(layer).shape[1:]),)

    def curve(self, layer: Layer, moment: Tensor | None) -> Curve:
        """Tails of the spectrum."""
        return _of_errors(low_rank.svd_errors(self._matrix(layer), moment))

    def cost(self, layer: Layer, ranks: Tensor, at: Geometry) -> tuple[Tensor, Tensor]:
        """r (i k + o) for each group."""
        groups, out, into = self._matrix(layer).shape
        parameters = ranks[:, 0] * (groups * (out + into))
        return parameters, parameters * at.outside

    def build(self, layer: Layer, ranks: Ranks) -> nn.Sequential:
        """Same kernel first, then 1x1."""
        if isinstance(layer, nn.Linear):
            bias = layer.bias is not None
            narrow = nn.Linear(layer.in_features, ranks[0], bias=False)
            return nn.Sequential(narrow, nn.Linear(ranks[0], layer.out_features, bias=bias))
        inner = layer.groups * ranks[0]
        first = convolution(layer, layer.in_channels, inner, groups=layer.groups)
        return nn.Sequential(first, pointwise(inner, layer.out_channels, layer.bias is not None, layer.groups))

    def weights(self, layer: Layer, ranks: Ranks, moment: Tensor | None) -> list[Tensor]:
        """Reduced-rank regression where there is a moment."""
        left, right = low_rank.svd(self._matrix(layer), ranks[0], moment)
        return [right, left]

    def _matrix(self, layer: Layer) -> Tensor:
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        weight = layer.weight.detach()
        return weight.reshape(groups, weight.shape[0] // groups, -1)


class Spatial(Method):
    """A kh x kw convolution as kh x 1 and 1 x kw (Jaderberg, Vedaldi, Zisserman 2014), group by group."""

    name = "spatial"

    def why_not(self, layer: Layer) -> str | None:
        """Needs a kernel of two dimensions."""
        if isinstance(layer, nn.Linear) or min(layer.kernel_size) == 1:
            return "it has no kernel to separate"
        return None

    def full(self, layer: Layer) -> Ranks:
        """The smaller side of a group's matrix."""
        return (min(self._matrix(layer).shape[1:]),)

    def curve(self, layer: Layer, moment: Tensor | None) -> Curve:
        """Tails of the spectrum; a moment counts with its mean over the kernel's columns."""
        return _of_errors(low_rank.svd_errors(self._matrix(layer), self._rows(layer, moment)))

    def cost(self, layer: Layer, ranks: Tensor, at: Geometry) -> tuple[Tensor, Tensor]:
        """r (i kh + o kw)."""
        kernel = kernel_of(layer)
        first = ranks[:, 0] * (kernel.in_channels * kernel.kernel_size[0])
        second = ranks[:, 0] * (kernel.out_channels * kernel.kernel_size[1])
        return first + second, first * at.between + second * at.outside

    def build(self, layer: Layer, ranks: Ranks) -> nn.Sequential:
        """Rows first."""
        kernel, inner = kernel_of(layer), kernel_of(layer).groups * ranks[0]
        return nn.Sequential(
            convolution(kernel, kernel.in_channels, inner, groups=kernel.groups, keep=0),
            convolution(kernel, inner, kernel.out_channels, groups=kernel.groups, keep=1, bias=layer.bias is not None),
        )

    def weights(self, layer: Layer, ranks: Ranks, moment: Tensor | None) -> list[Tensor]:
        """With a moment, the second convolution is then fitted to the data exactly."""
        kernel = kernel_of(layer)
        g, (kh, kw), out = kernel.groups, kernel.kernel_size, kernel.out_channels // kernel.groups
        left, right = low_rank.svd(self._matrix(layer), ranks[0], self._rows(layer, moment))
        first = right.reshape(g, ranks[0], -1, kh)
        second = left.reshape(g, out, kw, ranks[0]).transpose(2, 3)  # (g, o, r, kw)
        if moment is not None:
            eye = torch.eye(kw, dtype=first.dtype, device=first.device)
            front = torch.einsum("grih,wv->grwihv", first, eye).flatten(3).flatten(1, 2)  # (g, r kw, i kh kw)
            second = low_rank.refit(kernel.weight.detach().reshape(g, out, -1), front, moment)
        return [first, second]

    def _matrix(self, layer: Layer) -> Tensor:
        return low_rank.spatial_matrix(layer.weight.detach(), kernel_of(layer).groups)

    def _rows(self, layer: Layer, moment: Tensor | None) -> Tensor | None:
        kernel = kernel_of(layer)
        channels = kernel.in_channels // kernel.groups
        return None if moment is None else low_rank.spatial_moment(moment, channels, size_of(kernel))


def _of_errors(errors: Tensor) -> Curve:
    return Curve(torch.arange(1, len(errors))[:, None], errors[1:].cpu(), float(errors[0]))
