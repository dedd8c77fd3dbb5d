"""The grid of one weight at a given rate, and its integers on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.encodings.grid import Grid, exponents
from rarefy.numerics.second_order import Curvature
from rarefy.quantizing.fisher import Information
from rarefy.quantizing.matrices import Matrices

FLOOR = 1.0  # of the mean of all rows, that each row's information is raised by: few examples reach few classes
FEW = 1000  # integers


@dataclass
class Rounding:
    """One weight, and what is known about it. relative: the logarithms (to base 2) of its rows' steps, in units of the
    step that all weights share."""

    weight: Tensor
    layout: Matrices
    bits: int
    keep: Tensor | None  # where a mask lets it be something else than zero
    relative: Tensor | None  # None: nothing depends on it, and every step is as fine as its integers allow
    curvature: Curvature | None

    @classmethod
    def of(
        cls, weight: Tensor, layout: Matrices, bits: int, keep: Tensor | None, found: Information | None
    ) -> Rounding:
        """found: None where no answer depends on the weight."""
        if found is None or not bool(found.rows.any()):
            return cls(weight, layout, bits, keep, None, None)
        rows = found.rows + FLOOR * found.rows.mean()
        curvature = Curvature.of(found.moment.shrunk()) if found.moment.count else None
        steps = rows.rsqrt()[:, :, None].expand(layout.split(weight).shape)
        logarithms = layout.joined(steps).double().log2()
        dims = [d for d, size in enumerate(layout.row_shape) if size == 1]
        return cls(weight, layout, bits, keep, logarithms.mean(dims, keepdim=True), curvature)

    def at(self, logarithm: float) -> tuple[Grid, Tensor]:
        """The grid for the shared step 2^logarithm, and the rounded weight."""
        grid = Grid.of(self.weight, self.bits, self.layout.outputs)
        if self.relative is not None:
            wanted = exponents((self.relative + logarithm).exp2().float())
            grid = Grid(torch.maximum(wanted, grid.rows), self.bits)
        if self.curvature is None:
            return grid, grid(self.weight)
        split = self.layout.split
        keep = None if self.keep is None else split(self.keep)
        steps = grid.steps().expand(self.weight.shape)
        integers = self.curvature.rounded(split(self.weight), split(steps), grid.most(self.bits), keep)
        return grid, self.layout.joined(integers) * steps


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
