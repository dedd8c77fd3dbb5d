"""Rounding with second-order information: what one weight's rounding breaks, the later ones of its row repair.

The loss grows by (up to a factor for each row) e H e^T for an error e of a row, H the curvature that all rows share.
With H^-1 = U^T U, U upper triangular, rounding column j by an error e_j and then choosing all later columns at their
best costs (e_j / U_jj)^2 (Hassibi and Stork 1993, Optimal Brain Surgeon; Frantar et al. 2023, GPTQ).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 64  # columns rounded between two updates of all later ones
LEAST = 1e-4  # of the mean curvature: what no column falls below
JITTER = 1e-6
SHRINKAGE = 0.3


@dataclass
class Moment:
    """The mean of matrices (groups, columns, columns)."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    count: int = 0

    def add(self, matrix: Tensor) -> None:
        """One more."""
        self.total = self.total + matrix
        self.count += 1

    def shrunk(self) -> Tensor:
        """In units of its mean diagonal, with `SHRINKAGE` of the way to the diagonal gone, or all of it where there was
        one matrix: what few examples say of correlations is as much chance as truth, and rounding would repair along
        correlations that are not there."""
        share = max(SHRINKAGE, self.count**-0.5)
        diagonal = self.total.diagonal(dim1=1, dim2=2)
        unit = diagonal.mean(1)
        mixed = (1 - share) * self.total + share * torch.diag_embed(diagonal)
        shrunk: Tensor = mixed / torch.where(unit > 0, unit, 1.0)[:, None, None]
        return shrunk


@dataclass(frozen=True)
class Curvature:
    """order: (columns,), most important first. factor: (groups, columns, columns), U of that order."""

    order: Tensor
    factor: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Curvature:
        """matrix: (groups, columns, columns), positive semidefinite; only its direction counts, not its size."""
        diagonal = matrix.diagonal(dim1=1, dim2=2).double()
        mean = diagonal.mean(1, keepdim=True)
        mean = torch.where(mean > 0, mean, 1.0)
        least = (diagonal / mean).clamp(min=LEAST)
        even = matrix.double() / mean[:, :, None]
        even.diagonal(dim1=1, dim2=2).copy_(least + JITTER)
        order = least.mean(0).argsort(descending=True, stable=True)
        inverse = torch.linalg.inv(even[:, order][:, :, order])
        return cls(order, torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True).float())

    def rounded(self, weight: Tensor, steps: Tensor, most: int, keep: Tensor | None = None) -> Tensor:
        """The integers of `weight` (groups, rows, columns), at most `most` in size, for the steps of the same shape.

        keep: bool, where a weight may be something else than zero.
        """
        work, steps = weight[:, :, self.order].clone(), steps[:, :, self.order]
        free = None if keep is None else keep[:, :, self.order]
        integers, columns = torch.empty_like(work), work.shape[2]
        for start in range(0, columns, BLOCK):
            end = min(start + BLOCK, columns)
            errors = torch.empty_like(work[:, :, start:end])
            for j in range(start, end):
                q = (work[:, :, j] / steps[:, :, j]).round().clamp(-most, most)
                q = q if free is None else q * free[:, :, j]
                integers[:, :, j] = q
                error = (work[:, :, j] - q * steps[:, :, j]) / self.factor[:, j, j, None]
                errors[:, :, j - start] = error
                work[:, :, j + 1 : end] -= error[:, :, None] * self.factor[:, j, None, j + 1 : end]
            work[:, :, end:] -= errors @ self.factor[:, start:end, end:]
        return torch.empty_like(integers).index_copy_(2, self.order, integers)
