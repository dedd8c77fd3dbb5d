"""A weight as the matrices that it multiplies with: one row for each output, one column for each input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.graph.weights import Weight
from rarefy.quantizing.decision import TRANSPOSED

WIDEST = 2048  # columns that share a curvature; wider matrices are cut
FEW = 16  # rows: where there are fewer, columns have no steps of their own


@dataclass(frozen=True)
class Matrices:
    """The layout of a weight of this shape: `groups` matrices, and how many parts their columns are cut into.

    A one-dimensional weight is a matrix of one column for each of its values.
    """

    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False  # (inputs, outputs / groups, ...), as transposed convolutions have it

    @classmethod
    def of(cls, weight: Weight) -> Matrices:
        """Of a layer's weight by its groups; of any other parameter, one matrix with its first dimension as rows."""
        shape, module = tuple(weight.tensor.shape), weight.module
        groups = getattr(module, "groups", 1) if isinstance(module, nn.modules.conv._ConvNd) else 1
        layer = len(shape) > 1 and weight.owners[0][1] == "weight"
        depthwise = layer and groups == shape[0]
        return cls(shape, groups if layer else 1, layer and isinstance(module, TRANSPOSED) and not depthwise)

    @property
    def outputs(self) -> int:
        """The dimension of the weight that is its rows."""
        return 1 if self.transposed else 0

    @property
    def row_shape(self) -> tuple[int, ...]:
        """That of a value for each row, broadcast to the weight's; of a vector, one value."""
        return tuple(n if d == self.outputs and len(self.shape) > 1 else 1 for d, n in enumerate(self.shape))

    @property
    def column_shape(self) -> tuple[int, ...] | None:
        """That of a value for each input, broadcast to the weight's; None where inputs have too few weights to be worth
        one."""
        inputs = 1 - self.outputs
        if self.groups > 1 or len(self.shape) < 2 or self.shape[self.outputs] < FEW or self.shape[inputs] < 2:
            return None
        return tuple(n if d == inputs else 1 for d, n in enumerate(self.shape))

    @property
    def parts(self) -> int:
        """The parts that the columns of a matrix are cut into."""
        columns = self._whole()[2]
        return next(n for n in range(-(-columns // WIDEST), columns + 1) if columns % n == 0)

    def _whole(self) -> tuple[int, int, int]:
        count = torch.Size(self.shape).numel()
        rows = self.shape[1] if self.transposed else self.shape[0] // self.groups
        return self.groups, rows, count // rows // self.groups

    def split(self, tensor: Tensor) -> Tensor:
        """(groups x parts, rows, columns)."""
        groups, rows, columns = self._whole()
        if self.transposed:
            tensor = tensor.reshape(groups, self.shape[0] // groups, rows, -1).transpose(1, 2)
        cut = tensor.reshape(groups, rows, self.parts, columns // self.parts)
        return cut.transpose(1, 2).reshape(groups * self.parts, rows, -1)

    def inputs(self, columns: Tensor) -> Tensor:
        """(groups x parts, columns) -> `column_shape`, the mean of an input's columns."""
        rows = self._whole()[1]
        whole = self.joined(columns[:, None].expand(-1, rows, -1))
        return whole.mean([d for d in range(len(self.shape)) if d != 1 - self.outputs], keepdim=True)

    def joined(self, matrices: Tensor) -> Tensor:
        """The inverse of `split`."""
        groups, rows, columns = self._whole()
        whole = matrices.reshape(groups, self.parts, rows, -1).transpose(1, 2).reshape(groups, rows, columns)
        if self.transposed:
            whole = whole.reshape(groups, rows, self.shape[0] // groups, -1).transpose(1, 2)
        return whole.reshape(self.shape)
