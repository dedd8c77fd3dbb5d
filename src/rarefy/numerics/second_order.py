"""Rounding with second-order information: what one weight's rounding breaks, the later ones of its row repair.

The loss grows by (up to a factor for each row) e H e^T for an error e of a row, H the curvature that all rows share.
With H^-1 = U^T U, U upper triangular, rounding column j by an error e_j and then choosing all later columns at their
best costs (e_j / U_jj)^2 (Hassibi and Stork 1993, Optimal Brain Surgeon; Frantar et al. 2023, GPTQ).

H is known from few examples, and a repair along correlations that are chance does harm on others. So the examples are
parted into two halves: what is repaired by the one is judged by the other, both ways, and that says how much of the
correlations to believe, and what rounding a column really costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations

import torch
from torch import Tensor

BLOCK = 64  # columns rounded between two updates of all later ones
LEAST = 1e-3  # of the mean curvature: what is added to every column's
TRUST = 0.7  # power of how much more than the mean a column costs: what was measured is noisy
SHARES = (0.1, 0.3, 0.6, 0.9)  # of the correlations, that are not believed


@dataclass
class Moment:
    """The sum of matrices (groups, columns, columns)."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    count: int = 0

    def add(self, matrix: Tensor) -> None:
        """One more."""
        self.total = self.total + matrix
        self.count += 1

    def unit(self) -> Tensor:
        """In float64 and units of its mean diagonal."""
        total = self.total.double()
        mean = total.diagonal(dim1=1, dim2=2).mean(1)
        return total / torch.where(mean > 0, mean, 1.0)[:, None, None]


@dataclass(frozen=True)
class Curvature:
    """order: (columns,), most important first. factor: (groups, columns, columns), U of that order, each row in units
    of its diagonal. costs: (groups, columns), what a unit error of a column costs in the end, on other examples."""

    order: Tensor
    factor: Tensor
    costs: Tensor

    @classmethod
    def of(cls, seen: Sequence[Moment], true: Sequence[Moment]) -> Curvature:
        """seen: the matrices to repair by, of two halves of the examples. true: those to judge by."""
        shares: tuple[float, ...] = SHARES
        if all(moment.count for moment in (*seen, *true)):
            both, judges = [moment.unit() for moment in seen], [moment.unit() for moment in true]
        else:  # nothing to judge by
            shares, both = (1.0,), [seen[0].unit()] * 2
            judges = both
        whole = (both[0] + both[1]) / 2
        order = whole.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
        best, costs = None, torch.empty(0)
        for share in shares:
            found = torch.stack(
                [_costs(_factor(both[a], share, order), _ordered(judges[b], order)) for a, b in permutations((0, 1))]
            ).mean(0)
            if best is None or found.log().mean() < costs.log().mean():
                best, costs = share, found
        assert best is not None
        mean = costs.mean(1, keepdim=True)
        costs = torch.empty_like(costs).index_copy_(1, order, mean * (costs / mean) ** TRUST)
        return cls(order, _factor(whole, best, order).float(), costs.float())

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
                error = work[:, :, j] - q * steps[:, :, j]
                errors[:, :, j - start] = error
                work[:, :, j + 1 : end] -= error[:, :, None] * self.factor[:, j, None, j + 1 : end]
            work[:, :, end:] -= errors @ self.factor[:, start:end, end:]
        return torch.empty_like(integers).index_copy_(2, self.order, integers)


def _ordered(matrix: Tensor, order: Tensor) -> Tensor:
    return matrix[:, order][:, :, order]


def _factor(matrix: Tensor, share: float, order: Tensor) -> Tensor:
    """U in units of its diagonal, of `matrix` without that share of its correlations.

    H = V V^T with V = U^-1, upper triangular: the Cholesky factor from the last column to the first.
    """
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    mixed = _ordered((1 - share) * matrix + torch.diag_embed(share * diagonal + LEAST), order)
    inverse = torch.linalg.cholesky(mixed.flip(1, 2)).flip(1, 2)
    whole = torch.linalg.solve_triangular(inverse, torch.eye(inverse.shape[1]).to(inverse), upper=True)
    factor: Tensor = inverse.diagonal(dim1=1, dim2=2)[:, :, None] * whole
    return factor


def _costs(factor: Tensor, matrix: Tensor) -> Tensor:
    """(groups, columns): independent roundings of variance 1 end as errors n U, which cost n U H U^T n^T."""
    costs: Tensor = ((factor @ matrix) * factor).sum(2) + LEAST
    return costs
