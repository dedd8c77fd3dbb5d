"""Integers whose steps are few bits themselves."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer
from rarefy.numerics.straight_through import rounded

PER_OCTAVE = 4
BASE = 2 ** (1 / PER_OCTAVE)


class Grid(Encoding):
    """`weight = q * 2^(rows / 4) * 2^(columns / 4)`: integers, with a step for each row and column.

    values: a float weight, trained straight through the rounding. rows, columns: integers of shapes that broadcast to
    the weight's, so that steps are a quarter of an octave apart and cost few bits each; without columns, each row has
    one step. q has 8 bits, or 16; what the pack spends on it is its entropy. Smaller on disk; the weight is computed
    once when the network is loaded.
    """

    rounds: ClassVar[bool] = True
    cuttable: ClassVar[bool] = True

    rows: Tensor  # int16
    columns: Tensor | None  # int16

    def __init__(self, rows: Tensor, bits: int = 8, columns: Tensor | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("rows", rows.to(torch.int16))
        self.register_buffer("columns", None if columns is None else columns.to(torch.int16))

    @classmethod
    def of(cls, weight: Tensor, bits: int = 8, outputs: int = 0) -> Self:
        """The finest grid on which no integer is too large, with a step for each position of the dimension `outputs`;
        of a vector, one for all."""
        dims = [d for d in range(weight.ndim) if d != outputs or weight.ndim == 1]
        return cls(exponents(weight.detach().abs().amax(dims, keepdim=True) / cls.most(bits), up=True), bits)

    @staticmethod
    def most(bits: int) -> int:
        """The largest integer."""
        return (1 << bits - 1) - 1

    def steps(self) -> Tensor:
        """Their float32 values, in a shape that broadcasts to the weight's."""
        rows = powers(self.rows)
        return rows if self.columns is None else rows * powers(self.columns)

    def forward(self, values: Tensor) -> Tensor:
        """Round, with a straight-through gradient."""
        steps, most = self.steps(), self.most(self.bits)
        return rounded(values, steps, torch.zeros_like(steps), (-most, most), 1)

    def store(self, values: Tensor) -> Tensor:
        """The integers."""
        q = (values / self.steps()).round().clamp(-self.most(self.bits), self.most(self.bits))
        return q.to(torch.int8 if self.bits == 8 else torch.int16)

    def write(self, stored: str, writer: Writer) -> str:
        """`Cast(q) * (Pow(2^(1/4), Cast(rows)) * Pow(2^(1/4), Cast(columns)))`."""
        base = writer.tensor("base", torch.tensor(BASE))
        steps = writer.node("Pow", base, writer.node("Cast", writer.tensor("rows", self.rows), to="float32"))
        if self.columns is not None:
            across = writer.node("Cast", writer.tensor("columns", self.columns), to="float32")
            steps = writer.node("Mul", steps, writer.node("Pow", base, across))
        return writer.node("Mul", writer.node("Cast", stored, to="float32"), steps)

    def describe(self) -> str:
        """Bits, and what has a step of its own."""
        across = "" if self.columns is None else " and column"
        return f"{self.bits}-bit integers, " + (f"a step per row{across}" if self.rows.numel() > 1 else "one step")

    def tensors(self) -> list[tuple[int, int]]:
        """The exponents, and the base."""
        across = [] if self.columns is None else [(self.columns.numel(), 16)]
        return [(self.rows.numel(), 16), *across, (1, 32)]

    def cut(self, dim: int, positions: Tensor) -> Grid:
        """The steps of what is left."""
        rows, columns = (
            steps.index_select(dim, positions) if steps is not None and steps.shape[dim] > 1 else steps
            for steps in (self.rows, self.columns)
        )
        assert rows is not None
        return Grid(rows, self.bits, columns)


def powers(exponents: Tensor) -> Tensor:
    """2^(exponents / 4), in float32."""
    return torch.pow(torch.tensor(BASE, device=exponents.device), exponents.float())


def exponents(steps: Tensor, up: bool = False) -> Tensor:
    """The nearest powers of 2^(1/4), or with `up` the next, as integers; a step of 0 is as small as one can be."""
    logarithms = PER_OCTAVE * steps.clamp(torch.finfo(torch.float32).tiny, 2.0**126).log2()
    return (logarithms.ceil() if up else logarithms.round()).to(torch.int16)
