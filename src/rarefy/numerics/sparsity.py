"""Making weights zero: proximal steps of sparsity terms, and the choice of what is smallest.

`argmin_x ½ |x - w|^2 + t penalty(x)` is one proximal step of size t. Unlike a step along the penalty's subgradient,
which ends on either side of zero, it gives exact zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def l1_step(weight: Tensor, amount: float) -> Tensor:
    """Soft threshold, the step for `sum |w|`: every weight comes nearer to zero by `amount`, and stops there."""
    return F.softshrink(weight, amount)


def group_step(weight: Tensor, amount: float, dim: int = 0) -> Tensor:
    """The step for the group lasso `sum_g sqrt(size_g) |w_g|`: whole slices along `dim` go to zero.

    Each slice keeps its direction and loses `amount sqrt(size)` of its length (Yuan, Lin 2006; for filters: Wen et
    al. 2016).
    """
    norms = slice_norms(weight, dim)
    kept = (1 - amount / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(min=0)
    return weight * along(kept, weight, dim)


def decay_step(weight: Tensor, chosen: Tensor, amount: float) -> Tensor:
    """The step for `½ |w|^2` of the weights in `chosen` (bool, broadcast): they shrink by `1 + amount`."""
    return torch.where(chosen, weight / (1 + amount), weight)


def slice_norms(weight: Tensor, dim: int = 0) -> Tensor:
    """The root mean square of every slice along `dim`. (..., n, ...) -> (n,)."""
    return weight.movedim(dim, 0).flatten(1).square().mean(1).sqrt()


def along(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """One value per slice, in a shape that broadcasts over the weight. (n,) -> (1, ..., n, ..., 1)."""
    return values.view([-1 if i == dim else 1 for i in range(weight.ndim)])


def lowest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest of a row of scores are, exactly as many; ties go to the first. O(n)."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = scores.kthvalue(count).values
    below = scores < limit
    ties = (scores == limit).nonzero().flatten()[: count - int(below.sum())]
    below[ties] = True
    return below


def lowest_in_groups(scores: Tensor, count: int, size: int, dim: int) -> Tensor:
    """Where the `count` lowest of every `size` consecutive scores along `dim` are; ties go to the first.

    The length of `dim` is a multiple of `size`. Gives a bool tensor of the shape of `scores`.
    """
    groups = scores.movedim(dim, -1)
    order = groups.reshape(*groups.shape[:-1], -1, size).argsort(dim=-1, stable=True)
    below = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :count], True)
    return below.flatten(-2).movedim(-1, dim)
