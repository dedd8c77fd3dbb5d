"""Cutting a weight into vectors, and back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rarefy.numerics.subvectors import By, Subvectors

SHAPES = st.lists(st.integers(1, 7), min_size=2, max_size=5).map(tuple)
BY = st.sampled_from(["channels", "kernels"])


@given(shape=SHAPES, length=st.integers(1, 20), by=BY)
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_and_no_vector_is_longer(shape: tuple[int, ...], length: int, by: By) -> None:
    cut, weight = Subvectors.near(shape, length, by), torch.randn(shape)
    vectors = cut.cut(weight)
    assert vectors.shape == (shape[0], cut.count, cut.length)
    assert cut.length <= length
    assert torch.equal(cut.joined(vectors), weight)
    assert cut.joined(vectors).stride() == weight.stride()
    filled = vectors.numel() - weight.numel()
    assert filled < cut.length * len(weight) * (torch.Size(shape[2:]).numel() if by == "channels" else 1)


def test_channels_at_a_position_or_whole_kernels() -> None:
    weight = torch.arange(2 * 6 * 3 * 3).view(2, 6, 3, 3)
    channels = Subvectors.near((2, 6, 3, 3), 4, "channels").cut(weight)  # 3 + 3 rather than 4 + 2
    assert channels.shape == (2, 18, 3)
    assert channels[1, 3].tolist() == weight[1, 3:, 0, 1].tolist()
    kernels = Subvectors.near((2, 6, 3, 3), 20, "kernels").cut(weight)
    assert kernels.shape == (2, 3, 18)
    assert torch.equal(kernels[1, 2], weight[1, 4:].flatten())
    assert Subvectors.near((2, 6, 3, 3), 8, "kernels").cut(weight).shape == (2, 7, 8)  # a kernel is longer


@given(shape=SHAPES, length=st.integers(1, 9), by=BY, groups=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_moments_follow_the_order_of_the_vectors(shape: tuple[int, ...], length: int, by: By, groups: int) -> None:
    n = torch.Size(shape[1:]).numel()
    weight, x = torch.randn(shape, dtype=torch.float64), torch.randn(groups, n, 5, dtype=torch.float64)
    cut, moment = Subvectors.near(shape, length, by), x @ x.mT
    vectors = cut.cut(weight).flatten(1)
    found = torch.einsum("ri,gij,rj->gr", vectors, cut.moment(moment), vectors)
    wanted = F.linear(x.mT, weight.flatten(1)).square().sum(1)
    assert torch.allclose(found, wanted)
