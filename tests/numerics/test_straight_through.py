"""Rounding: its values against integers computed one by one, its gradients against the paper's formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rarefy.numerics.straight_through import rounded

LIMITS = [((-7, 7), 0), ((0, 15), 0), ((0, 15), 6), ((-127, 127), 3)]


def example(limits: tuple[int, int], point: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values on both sides of the range, three scales, and a gradient from above."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=draw, dtype=torch.float64) * (limits[1] - limits[0]) * 0.05
    return (
        x.requires_grad_(),
        torch.tensor([0.1, 0.03, 0.5], dtype=torch.float64, requires_grad=True),
        torch.full((3,), point, dtype=torch.float64),
        torch.randn(40, 3, generator=draw, dtype=torch.float64),
    )


@pytest.mark.parametrize(("limits", "point"), LIMITS, ids=str)
def test_values_and_gradients_are_those_of_the_paper(limits: tuple[int, int], point: int) -> None:
    x, scale, points, above = example(limits, point)
    result = rounded(x, scale, points, limits, 40)
    result.backward(above)
    assert x.grad is not None
    assert scale.grad is not None
    least, most = limits[0] - point, limits[1] - point
    wanted = torch.zeros(3, dtype=torch.float64)
    clipped = 0
    for i, j in torch.cartesian_prod(torch.arange(40), torch.arange(3)).tolist():
        v = float(x[i, j].detach() / scale[j].detach())
        inside = least < v < most
        level = round(v) if inside else max(least, min(most, v))
        clipped += not inside
        assert float(result[i, j].detach()) == pytest.approx(round(level) * float(scale[j].detach()), abs=1e-12)
        assert float(x.grad[i, j]) == (float(above[i, j]) if inside else 0)
        wanted[j] += above[i, j] * (level - v if inside else level)
    assert 0 < clipped < 120
    assert torch.allclose(scale.grad, wanted / math.sqrt(40 * limits[1]))


def test_what_follows_may_work_in_place() -> None:
    x, scale, points, above = example((-7, 7), 0)
    (plain,) = torch.autograd.grad(rounded(x, scale, points, (-7, 7), 40), scale, above)
    y = rounded(x, scale, points, (-7, 7), 40)
    y += 1
    assert torch.equal(torch.autograd.grad(y, scale, above)[0], plain)


def test_no_gradient_for_a_scale_that_wants_none() -> None:
    x, scale, points, above = example((0, 15), 0)
    rounded(x, scale.detach(), points, (0, 15), 40).backward(above)
    assert x.grad is not None
    assert scale.grad is None


def test_steps_go_where_the_error_is_least() -> None:
    """Gradient descent on a step size ends where a search over all of them does."""
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    scale, point = torch.tensor(0.9, requires_grad=True), torch.zeros(())
    for _ in range(400):
        error = (rounded(x, scale, point, (-7, 7), 4000) - x).square().sum()
        (gradient,) = torch.autograd.grad(error, scale)
        scale = (scale - 1e-3 * gradient).detach().requires_grad_()
    tried = torch.linspace(0.1, 0.9, 400)
    errors = [float((rounded(x, s, point, (-7, 7), 1) - x).square().sum()) for s in tried]
    assert float(scale.detach()) == pytest.approx(float(tried[errors.index(min(errors))]), rel=0.1)
