"""A weight cut into short vectors, all of one length, and put together again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

By = Literal["channels", "kernels"]


@dataclass(frozen=True)
class Subvectors:
    """How a weight (out, in, *kernel) is cut: `out` rows of `count` sub-vectors of `length` numbers.

    By channels, a sub-vector holds neighbouring input channels at one position of the kernel; by kernels, the kernels
    of neighbouring input channels. Where the length does not divide what is cut, zeros fill up the last one.
    """

    shape: tuple[int, ...]
    length: int
    by: By = "channels"

    @classmethod
    def near(cls, shape: tuple[int, ...], length: int, by: By) -> Subvectors:
        """Sub-vectors of about `length`, no longer, evenly long: of whole kernels, where one is not longer itself."""
        extent, kernel = (shape[1], 1) if by == "channels" else (math.prod(shape[1:]), math.prod(shape[2:]))
        unit = kernel if kernel <= length else 1
        units = extent // unit
        vectors = -(-units // (length // unit))
        return cls(shape, -(-units // vectors) * unit, by)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Rows, kernel positions that are cut apart from each other, and numbers at each."""
        positions = math.prod(self.shape[2:]) if self.by == "channels" else 1
        return self.shape[0], positions, math.prod(self.shape[1:]) // positions

    @property
    def count(self) -> int:
        """Sub-vectors in a row."""
        return self.sides[1] * -(-self.sides[2] // self.length)

    def cut(self, weight: Tensor) -> Tensor:
        """(out, in, *kernel) -> (out, count, length)."""
        rows, positions, extent = self.sides
        apart = weight.reshape(rows, extent, positions).mT  # (out, positions, extent)
        filled = torch.nn.functional.pad(apart, (0, -extent % self.length))
        return filled.reshape(rows, self.count, self.length)

    def joined(self, vectors: Tensor) -> Tensor:
        """(out, count, length) -> (out, in, *kernel)."""
        rows, positions, extent = self.sides
        return vectors.reshape(rows, positions, -1)[..., :extent].mT.flatten().view(self.shape)

    def moment(self, moment: Tensor) -> Tensor:
        """A matrix over the inputs, (groups, n, n), in the order of the sub-vectors; what fills them up is 0."""
        n = moment.shape[-1]
        place = Subvectors((1, *self.shape[1:]), self.length, self.by).cut(torch.arange(1, n + 1).float())
        order = place.flatten().long() - 1
        there = (order >= 0).to(moment)
        return moment[:, order][:, :, order] * there * there[:, None]
