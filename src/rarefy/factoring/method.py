"""What it takes to factor a layer: the protocol of the methods, and the layers that they build with.

`o`, `i`: channels out and in, `g`: groups, `r`: rank. All but the last layer of a chain have no bias, so that zero
padding stays zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d
Ranks = tuple[int, ...]


class Geometry(NamedTuple):
    """How many positions of one example a layer is applied to: pixels of the input, of the output, and between (output
    rows, input columns); tokens for a Linear."""

    inside: float
    between: float
    outside: float


@dataclass(frozen=True)
class Curve:
    """The squared error of the layer at each choice of ranks."""

    ranks: Tensor  # (n, ranks of the method), int64
    error: Tensor  # (n,), float64
    total: float  # the squared norm: the error of rank 0


class Method(ABC):
    """One way to factor a layer. `moment`: the second moment of the layer's unfolded input, or None."""

    name: ClassVar[str]

    @abstractmethod
    def why_not(self, layer: Layer) -> str | None:
        """Why it does not apply to `layer`; None where it does."""

    @abstractmethod
    def full(self, layer: Layer) -> Ranks:
        """The ranks at which nothing is lost, which are the highest."""

    @abstractmethod
    def curve(self, layer: Layer, moment: Tensor | None) -> Curve:
        """What each rank loses."""

    @abstractmethod
    def cost(self, layer: Layer, ranks: Tensor, at: Geometry) -> tuple[Tensor, Tensor]:
        """Parameters and multiply-accumulates, biases left out, at each of `ranks` (n, ranks of the method)."""

    @abstractmethod
    def build(self, layer: Layer, ranks: Ranks) -> nn.Sequential:
        """The chain, its weights not yet set."""

    @abstractmethod
    def weights(self, layer: Layer, ranks: Ranks, moment: Tensor | None) -> list[Tensor]:
        """The weight of each layer of the chain, in any shape of the right size."""


def kernel_of(layer: Layer) -> nn.Conv2d:
    """The layer, which must be a convolution."""
    assert isinstance(layer, nn.Conv2d)
    return layer


def size_of(layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width of the kernel."""
    return layer.kernel_size[0], layer.kernel_size[1]


def pointwise(into: int, out: int, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(into, out, 1, bias=bias, groups=groups)


def convolution(
    like: nn.Conv2d, into: int, out: int, *, groups: int = 1, keep: int | None = None, bias: bool = False
) -> nn.Conv2d:
    """A convolution that moves as `like` does; with `keep` along one dimension only (0: rows, 1: columns)."""

    def of(sizes: Any, other: int) -> tuple[int, int]:
        height, width = sizes
        return (other if keep == 1 else height, other if keep == 0 else width)

    padding = like.padding if isinstance(like.padding, str) else of(like.padding, 0)
    return nn.Conv2d(
        into,
        out,
        of(like.kernel_size, 1),
        stride=of(like.stride, 1),
        padding=padding,
        dilation=of(like.dilation, 1),
        groups=groups,
        bias=bias,
        padding_mode=like.padding_mode,
    )
