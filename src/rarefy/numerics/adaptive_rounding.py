"""Weights rounded up or down so that a layer's outputs change least, instead of each to its nearest integer.

AdaRound (Nagel et al. 2020, Up or Down?, arXiv:2004.10568) minimises E|(W~ - W) x|^2 + lambda sum(1 - |2 h - 1|^beta)
over V, where W~ = scale (floor(W / scale) + h) and h = clip(1.2 sigmoid(V) - 0.1, 0, 1); beta falls from 20 to 2, which
drives every h to 0 or 1. The first term is tr(D M D^T) with D = W~ - W and M = E[x x^T], so that M is all that has to
be kept of the examples, and every step sees all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 400
RATE = 0.05
WARM = 0.2  # share of the steps without the second term
BETA = 20.0, 2.0
PULL = 50.0  # lambda at the end, of the first term of a weight when all are rounded to the nearest


def response_error(difference: Tensor, moments: Tensor) -> Tensor:
    """E|D x|^2 of each row: (groups, rows, n), (groups, n, n) -> (groups, rows)."""
    return (torch.bmm(difference, moments) * difference).sum(2)


@torch.enable_grad()
def adaptively_rounded(
    weight: Tensor, moments: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]
) -> Tensor:
    """The values, whole multiples of `scale`, that the weight is rounded to. Rows that would be no better than by the
    nearest integers have those.

    weight, scale, zero_point: (groups, rows, n) or broadcast to it. moments: (groups, n, n), E[x x^T].
    """
    weight, scale = weight.detach(), scale.detach()
    least, most = (bound - zero_point for bound in limits)
    low = (weight / scale).floor()
    nearest = (weight / scale).round().clamp(least, most) * scale
    before = response_error(nearest - weight, moments)
    share = (weight / scale - low).clamp(0.01, 0.99)
    variable = ((share + 0.1) / (1.1 - share)).log().requires_grad_()  # h(V) = share
    pull = PULL * float(before.mean()) / weight.shape[2]
    optimizer = torch.optim.Adam([variable], RATE)
    for step in range(STEPS):
        up = (1.2 * variable.sigmoid() - 0.1).clamp(0, 1)
        back = (low + up).clamp(least, most) * scale
        loss = response_error(back - weight, moments).sum()
        done = (step / STEPS - WARM) / (1 - WARM)
        if done > 0:
            beta = BETA[0] + (BETA[1] - BETA[0]) * done
            loss = loss + pull * done * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        made = (low + (variable.sigmoid() >= 0.5)).clamp(least, most) * scale
        better = response_error(made - weight, moments) < before
    return torch.where(better[..., None], made, nearest)
