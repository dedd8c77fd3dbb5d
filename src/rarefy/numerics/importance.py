"""How much a filter, a neuron or a channel matters: one score for each row of a weight."""

from __future__ import annotations

import torch
from torch import Tensor


def rows(weight: Tensor, dim: int) -> Tensor:
    """The weights of each position along `dim` as a row: (size, rest)."""
    flat: Tensor = weight.detach().movedim(dim, 0).flatten(1)
    return flat


def _norm(weight: Tensor, dim: int, order: int) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows(weight, dim), order, dim=1)
    return norms


def l1(weight: Tensor, dim: int) -> Tensor:
    """Sum of magnitudes (Li et al. 2017, Pruning filters for efficient ConvNets, arXiv:1608.08710). Shape (size,)."""
    return _norm(weight, dim, 1)


def l2(weight: Tensor, dim: int) -> Tensor:
    """Euclidean norm. Shape (size,)."""
    return _norm(weight, dim, 2)


def geometric_median(weight: Tensor, dim: int) -> Tensor:
    """Sum of the distances to all other rows: those near the geometric median can be replaced by the others
    (He et al. 2019, arXiv:1811.00250). Shape (size,)."""
    flat = rows(weight, dim)
    distances: Tensor = torch.cdist(flat, flat)
    return distances.sum(1)


def taylor(weight: Tensor, gradient: Tensor, dim: int) -> Tensor:
    """What the loss of a batch changes by, to first order, when a row becomes zero: (sum of w * dL/dw) squared
    (Molchanov et al. 2019, arXiv:1906.10771, eq. 8). Shape (size,)."""
    return rows(weight * gradient, dim).sum(1).square()
