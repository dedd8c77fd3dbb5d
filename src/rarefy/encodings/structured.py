"""Weights that are structured matrices: block by block, few numbers make many."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer, chain
from rarefy.graph.weights import Weight
from rarefy.numerics import structured


class Structured(Encoding):
    """A weight as a matrix (m, n), all dimensions but the first together, in blocks that are each made of a vector.

    shape: the weight's. Blocks are `rows` x `cols`; those at the edges are cut off. In ONNX the matrix is built once,
    when the file is loaded: smaller on disk, and as fast as before. `product` is the fast way in torch.
    """

    elementwise: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, ...], rows: int, cols: int) -> None:
        super().__init__()
        self.shape, self.rows, self.cols = tuple(shape), rows, cols
        self.sides = (shape[0], math.prod(shape[1:]))
        self.grid = (-(-self.sides[0] // rows), -(-self.sides[1] // cols))

    @property
    @abstractmethod
    def size(self) -> tuple[int, ...]:
        """The shape of the values: (p, q, ...)."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """The values whose matrix is near `weight`."""

    @abstractmethod
    def blocks(self, values: Tensor) -> Tensor:
        """(p, q, rows, cols)."""

    @abstractmethod
    def write_blocks(self, stored: str, writer: Writer) -> str:
        """The operators that make the blocks."""

    @abstractmethod
    def product_blocks(self, values: Tensor, x: Tensor) -> Tensor:
        """The blocks times x (..., q, cols), by FFT: (..., p, rows)."""

    def forward(self, values: Tensor) -> Tensor:
        """Build the matrix."""
        return structured.joined(self.blocks(values), *self.sides).reshape(self.shape)

    def product(self, values: Tensor, x: Tensor) -> Tensor:
        """`x @ weight.T` without the matrix. (..., n) -> (..., m)."""
        padded = torch.nn.functional.pad(x, (0, -self.sides[1] % self.cols))
        y = self.product_blocks(values, padded.reshape(*x.shape[:-1], -1, self.cols))
        return y.flatten(-2)[..., : self.shape[0]]

    def store(self, values: Tensor) -> Tensor:
        """The vectors."""
        return values

    def write(self, stored: str, writer: Writer) -> str:
        """Blocks, side by side, cut to the weight's shape."""
        (p, q), (m, n) = self.grid, self.sides
        whole = writer.node("Transpose", self.write_blocks(stored, writer), perm=[0, 2, 1, 3])
        result = writer.node("Reshape", whole, _numbers(writer, p * self.rows, q * self.cols))
        if (m, n) != (p * self.rows, q * self.cols):
            result = writer.node("Slice", result, _numbers(writer, 0, 0), _numbers(writer, m, n))
        return result if len(self.shape) == 2 else writer.node("Reshape", result, _numbers(writer, *self.shape))


def structure(weight: Weight) -> Structured | None:
    """That of a weight, where it has one."""
    return next((link for link in chain(weight) if isinstance(link, Structured)), None)


class Circulant(Structured):
    """`W[r, c] = v[(r - c) mod b]` in each b x b block (Cheng et al. 2015; CirCNN, Ding et al. 2017).

    b times fewer values. `product` takes O(n log n); in ONNX the matrix is built at loading.
    """

    @classmethod
    def of(cls, weight: Tensor, block: int) -> tuple[Self, Tensor]:
        """The nearest block-circulant weight: means along the wrapped diagonals."""
        link = cls(tuple(weight.shape), block, block)
        return link, link.project(weight)

    @property
    def size(self) -> tuple[int, ...]:
        """One column for each block."""
        return (*self.grid, self.rows)

    def project(self, weight: Tensor) -> Tensor:
        """Least squares."""
        return structured.diagonal_means(weight.flatten(1), self.rows, self.cols, wrap=True)

    def blocks(self, values: Tensor) -> Tensor:
        """Shifted columns."""
        return structured.toeplitz(structured.wrapped(values), self.cols)

    def product_blocks(self, values: Tensor, x: Tensor) -> Tensor:
        """Circular convolutions."""
        return structured.blocks_product(values, x)

    def write_blocks(self, stored: str, writer: Writer) -> str:
        """`Gather` at (r - c) mod b."""
        place = writer.node("Mod", _differences(writer, self.rows, self.cols), _number(writer, self.rows))
        return writer.node("Gather", stored, place, axis=2)

    def describe(self) -> str:
        """The size of a block."""
        return f"circulant blocks of {self.rows}"


class Toeplitz(Structured):
    """`W[r, c] = v[r - c + cols - 1]` in each block: constant along diagonals, with no wrapping around.

    rows * cols / (rows + cols - 1) times fewer values; twice those of `Circulant`, for half the constraint.
    """

    @classmethod
    def of(cls, weight: Tensor, block: int) -> tuple[Self, Tensor]:
        """The nearest weight of Toeplitz blocks: means along the diagonals. No block is larger than the weight."""
        m, n = weight.flatten(1).shape
        link = cls(tuple(weight.shape), min(block, m), min(block, n))
        return link, link.project(weight)

    @property
    def size(self) -> tuple[int, ...]:
        """One value for each diagonal."""
        return (*self.grid, self.rows + self.cols - 1)

    def project(self, weight: Tensor) -> Tensor:
        """Least squares."""
        return structured.diagonal_means(weight.flatten(1), self.rows, self.cols, wrap=False)

    def blocks(self, values: Tensor) -> Tensor:
        """Shifted rows."""
        return structured.toeplitz(values, self.cols)

    def product_blocks(self, values: Tensor, x: Tensor) -> Tensor:
        """Convolutions: those of circulants of more than twice the size."""
        padded = torch.nn.functional.pad(x, (0, self.rows - 1))
        return structured.blocks_product(values, padded)[..., self.cols - 1 : self.cols - 1 + self.rows]

    def write_blocks(self, stored: str, writer: Writer) -> str:
        """`Gather` at r - c + cols - 1."""
        return _gathered(stored, writer, self.rows, self.cols, axis=2)

    def describe(self) -> str:
        """The size of a block."""
        return f"Toeplitz blocks of {self.rows} x {self.cols}"


class Displacement(Structured):
    """`W = sum_i C(g_i) S(h_i)` in each b x b block: circulant times skew-circulant, r of them.

    All matrices of displacement rank r (Sindhwani et al. 2015, arXiv:1510.01722; Thomas et al. 2018,
    arXiv:1810.02309), Toeplitz ones and their inverses and products among them. b / (2 r) times fewer values.
    """

    def __init__(self, shape: tuple[int, ...], block: int, rank: int) -> None:
        super().__init__(shape, block, block)
        self.rank = rank

    @classmethod
    def of(cls, weight: Tensor, block: int, rank: int) -> tuple[Self, Tensor]:
        """The weight whose blocks have the nearest displacement of this rank."""
        link = cls(tuple(weight.shape), block, rank)
        return link, link.project(weight)

    @property
    def size(self) -> tuple[int, ...]:
        """Pairs of vectors."""
        return (*self.grid, self.rank, 2, self.rows)

    def project(self, weight: Tensor) -> Tensor:
        """Truncated SVD of the displacement: exact where the weight has that rank, else near."""
        blocks = structured.cut(weight.flatten(1), self.rows, self.cols)
        return structured.displacement_factors(blocks, self.rank)

    def blocks(self, values: Tensor) -> Tensor:
        """The sum of products."""
        return structured.displacement_blocks(values)

    def product_blocks(self, values: Tensor, x: Tensor) -> Tensor:
        """Two convolutions each."""
        return structured.displacement_product(values, x)

    def write_blocks(self, stored: str, writer: Writer) -> str:
        """`MatMul` of matrices gathered from the vectors."""
        g, h = (writer.node("Gather", stored, _number(writer, i), axis=3) for i in (0, 1))
        (one, end), axis = (_numbers(writer, v) for v in (1, self.rows)), _numbers(writer, 3)
        tails = [writer.node("Slice", vector, one, end, axis) for vector in (g, h)]
        tails[1] = writer.node("Neg", tails[1])
        wrapped = [writer.node("Concat", tail, v, axis=3) for tail, v in zip(tails, (g, h), strict=True)]
        factors = [_gathered(vector, writer, self.rows, self.cols, axis=3) for vector in wrapped]
        return writer.node("ReduceSum", writer.node("MatMul", *factors), _numbers(writer, 2), keepdims=0)

    def describe(self) -> str:
        """The size of a block and the rank."""
        return f"blocks of {self.rows} of displacement rank {self.rank}"


def _number(writer: Writer, value: int) -> str:
    return writer.node("Constant", value_int=value)


def _numbers(writer: Writer, *values: int) -> str:
    return writer.node("Constant", value_ints=list(values))


def _differences(writer: Writer, rows: int, cols: int) -> str:
    """r - c for each element of a block, computed and not stored."""
    zero, one = _number(writer, 0), _number(writer, 1)
    row, col = (writer.node("Range", zero, _number(writer, count), one) for count in (rows, cols))
    return writer.node("Sub", writer.node("Unsqueeze", row, _numbers(writer, 1)), col)


def _gathered(diagonals: str, writer: Writer, rows: int, cols: int, axis: int) -> str:
    place = writer.node("Add", _differences(writer, rows, cols), _number(writer, cols - 1))
    return writer.node("Gather", diagonals, place, axis=axis)
