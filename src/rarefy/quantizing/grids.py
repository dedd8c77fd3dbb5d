"""The grid of one weight at a given rate, and its integers on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.encodings.grid import PER_OCTAVE, Grid, exponents, powers
from rarefy.numerics.second_order import Curvature
from rarefy.quantizing.fisher import Information
from rarefy.quantizing.matrices import Matrices

FEW = 1000  # integers


@dataclass
class Rounding:
    """One weight, and what is known about it. rows, columns: the logarithms (to base 2) of their steps, in units of the
    step that all weights share; the step of a weight is their product."""

    weight: Tensor
    layout: Matrices
    bits: int
    keep: Tensor | None  # where a mask lets it be something else than zero
    rows: Tensor | None = None  # None: nothing depends on it, and every step is as fine as its integers allow
    columns: Tensor | None = None
    curvature: Curvature | None = None

    @classmethod
    def of(
        cls, weight: Tensor, layout: Matrices, bits: int, keep: Tensor | None, found: Information | None
    ) -> Rounding:
        """found: None where no answer depends on the weight.

        The divergence grows by rows x costs x step^2 / 24 for a weight, and every weight is to add the same.
        """
        if found is None or not bool(found.rows.any()):
            return cls(weight, layout, bits, keep)
        rows, curvature, columns = -found.shrunk().log2() / 2, found.curvature(), None
        if curvature is not None:
            costs = -curvature.costs.log2() / 2
            rows = rows + costs.mean(1, keepdim=True)
            if layout.column_shape:
                columns = layout.inputs(costs)
                columns = columns - columns.mean()
        spread = layout.joined(rows[:, :, None].expand(layout.split(weight).shape))
        dims = [d for d, size in enumerate(layout.row_shape) if size == 1]
        return cls(weight, layout, bits, keep, spread.mean(dims, keepdim=True), columns, curvature)

    def at(self, logarithm: float) -> tuple[Grid, Tensor]:
        """The grid for the shared step 2^logarithm, and the rounded weight."""
        grid = self._grid(logarithm)
        if self.curvature is None:
            return grid, grid(self.weight)
        split = self.layout.split
        keep = None if self.keep is None else split(self.keep)
        steps = grid.steps().expand(self.weight.shape)
        integers = self.curvature.rounded(split(self.weight), split(steps), grid.most(self.bits), keep)
        return grid, self.layout.joined(integers) * steps

    def _grid(self, logarithm: float) -> Grid:
        finest = self._finest(self.columns)
        if self.rows is None:
            return Grid(finest, self.bits)
        rows, columns = self.rows + logarithm, self.columns
        if columns is not None:  # what the rows are coarser than wanted, columns are finer, down to the finest of them
            excess = (finest / PER_OCTAVE - rows).clamp(min=0).mean()
            columns = torch.maximum(columns - excess, columns.min())
            finest = self._finest(columns)
        across = None if columns is None else exponents(columns.exp2())
        return Grid(torch.maximum(exponents(rows.exp2()), finest), self.bits, across)

    def _finest(self, columns: Tensor | None) -> Tensor:
        """The exponents of the rows at which no integer is too large."""
        even = self.weight if columns is None else self.weight / powers(exponents(columns.exp2()))
        return Grid.of(even, self.bits, self.layout.outputs).rows


def entropy(integers: Tensor) -> float:
    """Bits of integers under their own frequencies; of few, whose frequencies say little, under the geometric
    distribution of their mean size: P(q) = (1 - t) / (1 + t) t^|q|."""
    if integers.numel() >= FEW:
        counts = torch.unique(integers, return_counts=True)[1].double()
        return float((counts * (counts.sum() / counts).log2()).sum())
    mean = float(integers.abs().double().mean())
    if mean == 0:
        return 0.0
    t = (math.sqrt(1 + mean**2) - 1) / mean
    return integers.numel() * (math.log2((1 + t) / (1 - t)) - mean * math.log2(t))
