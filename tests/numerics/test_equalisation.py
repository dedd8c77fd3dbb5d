"""Equal ranges."""

from __future__ import annotations

import torch

from rarefy.numerics.equalisation import MARGIN, factors, within


def test_both_sides_have_the_geometric_mean_within_the_nearest_power_of_two() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(64, generator=generator).mul(12).exp2() for _ in range(2))
    found = factors(first, second)
    assert bool((found.log2() == found.log2().round()).all())
    ratio = (first / found) / (second * found)
    assert float(ratio.log2().abs().max()) <= 1.001
    assert float((first / second).log2().abs().max()) > 5


def test_a_channel_of_zeros_is_left() -> None:
    assert factors(torch.tensor([0.0, 4.0, 0.0]), torch.tensor([4.0, 0.0, 0.0])).tolist() == [1, 1, 1]


def test_clipped_channels_stay_under_their_bound() -> None:
    largest = torch.tensor([5.0, 3.1, 1.0, 0.1, 0.0])
    found = within(torch.tensor([0.125, 4.0, 0.125, 0.25, 0.5]), largest, 6.0)
    assert found.tolist() == [1, 1, 0.5, 0.25, 0.5]
    assert bool((largest[2:] * MARGIN / found[2:] <= 6.0).all())
