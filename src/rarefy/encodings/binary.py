"""One or two bits for a weight, and a scale for each filter."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer
from rarefy.numerics import binary


class FewLevels(Encoding):
    """`weight = scale * level(values)`, trained straight through: d level / d values = 1 for |values| <= bound, else 0.

    values: the latent weights, float32, which training adds small changes up in; they stay in [-bound, bound]
    (`settle`, after every step of the optimizer), and no file that is shipped has them. scale: one for each filter
    (dimension 0), the mean magnitude of its latent weights, followed in training as BatchNorm follows its statistics;
    without one the levels are the weight. bound infinite: no limit.
    """

    rounds: ClassVar[bool] = True

    scale: Tensor  # (filters,); empty where there is none
    bound: Tensor  # ()

    def __init__(self, shape: tuple[int, ...], scaled: bool = True, bound: float = torch.inf) -> None:
        super().__init__()
        self.shape, self.scaled = tuple(shape), scaled
        self.register_buffer("scale", torch.ones(shape[0] if scaled else 0))
        self.register_buffer("bound", torch.tensor(float(bound)))

    def fit(self, weight: Tensor, clip: float | None = 1.0) -> Self:
        """Take bound and scale of `weight`, which become the latent weights; gives itself.

        clip: the bound in units of sqrt(3) times the root mean square, which is the bound of evenly spread numbers of
        that size; None for no limit.
        """
        self.to(weight.device)
        if clip is not None:
            size = weight.detach().double().square().mean().sqrt()
            self.bound.copy_(torch.where(size > 0, clip * 3**0.5 * size, 1.0))
        self.follow(weight.detach())
        return self

    @abstractmethod
    def level(self, values: Tensor) -> Tensor:
        """-1, +1 and perhaps 0 for each value, without gradient; what a training step sees may be drawn at random."""

    @abstractmethod
    def scale_of(self, values: Tensor) -> Tensor:
        """The scales of these latent weights, (filters, 1, ...)."""

    def forward(self, values: Tensor) -> Tensor:
        """Decode, with a straight-through gradient; in training the scale follows the values."""
        inside = (values.detach().abs() <= self.bound).to(values.dtype)
        level = binary.straight(values, self.level(values.detach()), inside)
        if not self.scaled:
            return level
        if not self.training:
            return level * self.scale.view(-1, *[1] * (values.ndim - 1))
        self.follow(values.detach())
        return level * self.scale_of(values)

    @torch.no_grad()
    def follow(self, values: Tensor) -> None:
        """Take the scales of these latent weights."""
        if self.scaled:
            self.scale.copy_(self.scale_of(values).flatten())

    def settle(self, values: Tensor) -> None:
        """Keep the latent weights within the bound."""
        values.clamp_(-self.bound, self.bound)
        self.follow(values)

    def tensors(self) -> list[tuple[int, int]]:
        """The scales."""
        return [(self.scale.numel(), 32)] if self.scaled else []

    def _words(self) -> str:
        return ", a scale per filter" if self.scaled else ""


class Signs(FewLevels):
    """`weight = scale * sign(values)`: one bit for each weight (BinaryConnect; with scales, binary-weight networks).

    stochastic: while training, +1 with the probability (values / bound + 1) / 2. balanced: signs are those of the
    values less their filter's mean, so that half of a filter is positive (IR-Net, Qin et al. 2020, arXiv:1909.10788).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        scaled: bool = True,
        bound: float = torch.inf,
        stochastic: bool = False,
        balanced: bool = False,
    ) -> None:
        super().__init__(shape, scaled, bound)
        self.drawn, self.balanced = stochastic, balanced

    def _centred(self, values: Tensor) -> Tensor:
        return values - binary.filter_means(values) if self.balanced else values

    def level(self, values: Tensor) -> Tensor:
        """Signs, or a draw."""
        centred = self._centred(values)
        if self.drawn and self.training:
            return binary.sign(centred / self.bound + 1 - 2 * torch.rand_like(values))
        return binary.sign(centred)

    def scale_of(self, values: Tensor) -> Tensor:
        """Mean magnitudes: with signs the least squared error (Rastegari et al. 2016, arXiv:1603.05279, eq. 6)."""
        return binary.filter_means(self._centred(values).abs())

    def store(self, values: Tensor) -> Tensor:
        """uint8 (filters, ceil(size / 8)), low bit first, 1 for +1."""
        return binary.pack(self._centred(values.float()) >= 0)

    def write(self, stored: str, writer: Writer) -> str:
        """The bits apart, as +1 and -1, in the weight's shape, times the scales: made once, when the file is loaded."""

        def numbers(*values: int) -> str:
            return writer.node("Constant", value_ints=list(values))

        powers = writer.node("Cast", numbers(*(1 << i for i in range(8))), to="uint8")
        masked = writer.node("BitwiseAnd", writer.node("Unsqueeze", stored, numbers(2)), powers)
        one, minus_one = (writer.node("Constant", value_float=value) for value in (1.0, -1.0))
        level = writer.node("Where", writer.node("Cast", masked, to="bool"), one, minus_one)
        flat = writer.node("Reshape", level, numbers(0, -1))
        size = torch.Size(self.shape[1:]).numel()
        if size % 8:
            flat = writer.node("Slice", flat, numbers(0), numbers(size), numbers(1))
        result = writer.node("Reshape", flat, numbers(*self.shape)) if len(self.shape) > 2 else flat
        if not self.scaled:
            return result
        column = writer.node("Reshape", writer.tensor("scale", self.scale), numbers(-1, *[1] * (len(self.shape) - 1)))
        return writer.node("Mul", result, column)

    def describe(self) -> str:
        """Bits and scales."""
        return "1 bit" + self._words()


class Ternary(FewLevels):
    """`weight = scale * (-1, 0 or +1)`, zero below 0.7 times the filter's mean magnitude (ternary weight networks, Li,
    Zhang, Liu 2016). A 4-bit integer in the ONNX file, its entropy, at most 1.6 bits, in the pack."""

    def level(self, values: Tensor) -> Tensor:
        """-1, 0, +1."""
        return binary.ternary(values)

    def scale_of(self, values: Tensor) -> Tensor:
        """Mean magnitudes of the weights that are not zero."""
        alive = self.level(values.detach()).abs()
        return binary.filter_means(values.abs() * alive) / binary.filter_means(alive).clamp_min(1 / values.numel())

    @property
    def narrow(self) -> str:
        """4-bit integers."""
        return "int4"

    def store(self, values: Tensor) -> Tensor:
        """-1, 0, +1 as integers."""
        return self.level(values.float()).to(torch.int8)

    def write(self, stored: str, writer: Writer) -> str:
        """`DequantizeLinear`."""
        if not self.scaled:
            return writer.node("DequantizeLinear", stored, writer.node("Constant", value_float=1.0))
        return writer.node("DequantizeLinear", stored, writer.tensor("scale", self.scale), axis=0)

    def describe(self) -> str:
        """Levels and scales."""
        return "ternary" + self._words()
