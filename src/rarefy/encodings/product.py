"""Vectors that many places of a weight share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rarefy.encodings.base import Encoding, Writer
from rarefy.numerics.subvectors import Subvectors


class ProductCodebook(Encoding):
    """`v[r, s] = sum_t values[t, b(s), indices[t, r, s]]`, where v are the sub-vectors that the weight is cut into.

    values: (stages, books, k, length). One stage is product quantization (Jegou et al. 2011; Wu et al. 2016): one book
    for the whole layer, or one for each place s of a row. With several stages each adds what those before it left
    (residual or additive quantization, Babenko and Lempitsky 2014). Stores ceil(log2 k) bits per sub-vector and stage,
    and the books. The gradient of a code vector is the sum of its members'. Smaller on disk; at run time the weight is
    decoded once when the network is loaded, and is then as fast as before.
    """

    elementwise: ClassVar[bool] = False

    indices: Tensor  # (stages, rows, sub-vectors of a row), uint8 up to 256 code vectors, else int32

    def __init__(self, indices: Tensor, cut: Subvectors, k: int, books: int = 1) -> None:
        super().__init__()
        self.subvectors, self.k, self.books = cut, k, books
        self.register_buffer("indices", indices.to(torch.uint8 if k <= 256 else torch.int32))

    @property
    def stages(self) -> int:
        """How many code vectors add up to a sub-vector."""
        return len(self.indices)

    def forward(self, values: Tensor) -> Tensor:
        """Look up and add."""
        first = torch.arange(0, self.stages * self.books * self.k, self.k, device=values.device)  # of each book
        vectors = F.embedding(self.indices + first.view(self.stages, 1, self.books), values.flatten(0, 2))
        return self.subvectors.joined(vectors.sum(0))

    def store(self, values: Tensor) -> Tensor:
        """The books."""
        return values

    def write(self, stored: str, writer: Writer) -> str:
        """`Gather` from all books as one table, `ReduceSum` over the stages, and the order of the weight."""
        dtype = "uint4" if self.k <= 16 else "uint8" if self.k <= 256 else "uint16"
        place = writer.node("Cast", writer.tensor("indices", self.indices, dtype), to="int32")
        rows, positions, extent = self.subvectors.sides
        if (books := self.stages * self.books) > 1:
            limits = (writer.node("Constant", value_int=i) for i in (0, books * self.k, self.k))
            first = writer.node("Cast", writer.node("Range", *limits), to="int32")
            shaped = writer.node("Reshape", first, _numbers(writer, self.stages, 1, self.books))
            place = writer.node("Add", place, shaped)
        table = writer.node("Reshape", stored, _numbers(writer, -1, self.subvectors.length))
        vectors = writer.node("Gather", table, place)
        if self.stages > 1:
            vectors = writer.node("ReduceSum", vectors, _numbers(writer, 0), keepdims=0)
        apart = writer.node("Reshape", vectors, _numbers(writer, rows, positions, -1))
        if extent % self.subvectors.length:
            bounds = (_numbers(writer, i) for i in (0, extent, 2))
            apart = writer.node("Slice", apart, *bounds)
        if positions > 1:
            apart = writer.node("Transpose", apart, perm=[0, 2, 1])
        return writer.node("Reshape", apart, _numbers(writer, *self.subvectors.shape))

    def describe(self) -> str:
        """How many code vectors of which length."""
        kind = "product codebook" if self.stages == 1 else f"sum of {self.stages} codebooks"
        own = f", {self.books} of them" if self.books > 1 else ""
        return f"{kind} of {self.k} vectors of {self.subvectors.length}{own}"

    def tensors(self) -> list[tuple[int, int]]:
        """An index per sub-vector and stage."""
        return [(self.indices.numel(), max(1, (self.k - 1).bit_length()))]


def _numbers(writer: Writer, *values: int) -> str:
    return writer.node("Constant", value_ints=list(values))
