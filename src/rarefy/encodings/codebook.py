"""A few shared values and an index per weight."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer


class _Gather(torch.autograd.Function):
    """`codebook[indices]`, whose gradient adds up what each value's members receive.

    d loss / d codebook[j] = sum over i with indices[i] = j of d loss / d weight[i]  (Han et al. 2016, eq. 3).
    The general gradient of indexing does the same, scattering one element at a time; counting is several times faster.
    """

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.size = len(codebook)
        return torch.index_select(codebook, 0, indices.flatten().int()).view(indices.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (indices,), (gradient,) = ctx.saved_tensors, gradients
        sums = torch.bincount(indices.flatten(), weights=gradient.flatten().double(), minlength=ctx.size)
        return sums.to(gradient.dtype), None


class Codebook(Encoding):
    """`weight = values[indices]` (weight sharing, Han, Mao, Dally 2016).

    values: the k centroids, or the k - 1 that are not zero where `zero` pins the first at exactly 0 so that a pruned
    weight stays pruned. Stores ceil(log2 k) bits per weight and the centroids; what an index costs in the pack is
    its entropy. Smaller on disk; at run time the weight is decoded once when the network is loaded, and is then as
    fast as before.
    """

    cuttable: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False

    indices: Tensor  # uint8 up to 256 centroids, else int32; the weight's shape

    def __init__(self, indices: Tensor, k: int, zero: bool = False) -> None:
        super().__init__()
        self.k, self.zero = k, zero
        self.register_buffer("indices", indices.to(torch.uint8 if k <= 256 else torch.int32))

    @classmethod
    def of(cls, indices: Tensor, centroids: Tensor, zero: bool = False) -> tuple[Self, Tensor]:
        """The encoding and its values. With `zero`, the first centroid is 0 and is pinned there."""
        return cls(indices, len(centroids), zero), centroids[1:] if zero else centroids

    def forward(self, values: Tensor) -> Tensor:
        """Look up."""
        gathered: Tensor = _Gather.apply(self.store(values), self.indices)  # type: ignore[no-untyped-call]
        return gathered

    def store(self, values: Tensor) -> Tensor:
        """All k centroids, the pinned zero first. Shape (k,)."""
        return torch.cat([values.new_zeros(1), values]) if self.zero else values

    def write(self, stored: str, writer: Writer) -> str:
        """`Gather(centroids, Cast(indices))`."""
        dtype = "uint4" if self.k <= 16 else "uint8" if self.k <= 256 else "uint16"
        indices = writer.node("Cast", writer.tensor("indices", self.indices, dtype), to="int32")
        return writer.node("Gather", stored, indices)

    def describe(self) -> str:
        """The number of centroids."""
        return f"codebook of {self.k}" + (", zero pinned" if self.zero else "")

    def tensors(self) -> list[tuple[int, int]]:
        """An index per weight."""
        return [(self.indices.numel(), max(1, (self.k - 1).bit_length()))]

    def zeros(self) -> Tensor | None:
        """Where the pinned zero is used."""
        return self.indices == 0 if self.zero else None

    def pruned(self, positions: Tensor) -> Codebook:
        """The same codebook with a pinned zero at `positions` (bool, the weight's shape)."""
        indices = self.indices if self.zero else self.indices.int() + 1
        return Codebook(torch.where(positions, 0, indices), self.k if self.zero else self.k + 1, zero=True)

    def cut(self, dim: int, positions: Tensor) -> Codebook:
        """The same centroids, and the indices of what is left."""
        return Codebook(self.indices.index_select(dim, positions), self.k, self.zero)
