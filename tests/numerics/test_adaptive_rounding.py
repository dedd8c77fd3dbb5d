"""Up or down."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from rarefy.numerics.adaptive_rounding import adaptively_rounded, response_error


def given(groups: int, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, second moments of correlated inputs, scales."""
    generator = torch.Generator().manual_seed(width)
    inputs = torch.randn(groups, 500, width, generator=generator) + 2 * torch.randn(groups, 500, 1, generator=generator)
    weight = torch.randn(groups, rows, width, generator=generator)
    return weight, inputs.mT @ inputs / 500, torch.full((groups, rows, 1), 0.2)


def test_comes_near_the_best_of_all_choices() -> None:
    weight, moments, scale = given(1, 6, 8)
    made = adaptively_rounded(weight, moments, scale, torch.zeros(()), (-127, 127))
    low = (weight / scale).floor()
    choices = torch.tensor(list(product((0.0, 1.0), repeat=8)))
    all_ = torch.stack([response_error((low + c) * scale - weight, moments) for c in choices])
    nearest = response_error((weight / scale).round() * scale - weight, moments)
    found = response_error(made - weight, moments)
    assert float(found.sum()) <= 1.1 * float(all_.amin(0).sum())
    assert float(found.sum()) < 0.9 * float(nearest.sum())


@pytest.mark.parametrize("limits", [(-7, 7), (-1, 1)])
def test_stays_on_the_grid_and_is_never_worse(limits: tuple[int, int]) -> None:
    weight, moments, scale = given(3, 4, 16)
    point = torch.ones(3, 4, 1)
    made = adaptively_rounded(weight, moments, scale, point, limits)
    integers = made / scale + point
    assert torch.allclose(integers, integers.round(), atol=1e-5)
    assert limits[0] <= float(integers.min())
    assert float(integers.max()) <= limits[1] + 1e-5
    nearest = (weight / scale).round().clamp(limits[0] - 1, limits[1] - 1) * scale
    errors = (response_error(w - weight, moments) for w in (made, nearest))
    assert bool(torch.le(*errors).all())
