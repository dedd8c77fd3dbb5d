"""Zeros that stay zero."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer


class Mask(Encoding):
    """`weight = values * mask`: pruned positions stay zero while the others train.

    The file holds the weight with its zeros, and no mask: the pack's entropy coder pays for a zero what its
    frequency says and nothing for its digits.
    """

    cuttable: ClassVar[bool] = True

    mask: Tensor  # bool, the weight's shape; True where the weight lives

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Hold the zeros that `weight` has now."""
        return cls(weight != 0)

    def forward(self, values: Tensor) -> Tensor:
        """Gradient: that of the weight, zero at pruned positions."""
        return torch.where(self.mask, values, 0)

    def store(self, values: Tensor) -> Tensor:
        """The values with the zeros in place."""
        return torch.where(self.mask, values, 0)

    def write(self, stored: str, writer: Writer) -> str:
        """Nothing to decode."""
        return stored

    def describe(self) -> str:
        """The share of zeros."""
        return f"{1 - float(self.mask.float().mean()):.1%} zeros"

    def pattern(self) -> str | None:
        """ "N:M" where N weights live in every group of M inputs, with M of 4, 8 or 16."""
        rows = self.mask.movedim(1, -1) if self.mask.ndim > 1 else self.mask
        for size in (4, 8, 16):
            if rows.shape[-1] % size == 0:
                living = set(rows.reshape(-1, size).sum(1).tolist())
                if len(living) == 1 and max(living) < size:
                    return f"{living.pop()}:{size}"
        return None

    def zeros(self) -> Tensor:
        """The pruned positions."""
        return ~self.mask

    def cut(self, dim: int, positions: Tensor) -> Mask:
        """The mask of what is left."""
        return Mask(self.mask.index_select(dim, positions))
