"""Proximal steps against the minimum that defines them; the choice of the smallest against a sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rarefy.numerics import sparsity as s

seeds = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cost(name: str, x: Tensor, w: Tensor, t: float) -> float:
    penalty = {
        "l1": lambda: x.abs().sum(),
        "group": lambda: sum(row.numel() ** 0.5 * row.norm() for row in x),
        "decay": lambda: x[::2].square().sum() / 2,
    }[name]()
    return float((x - w).square().sum() / 2 + t * penalty)


def stepped(name: str, w: Tensor, t: float) -> Tensor:
    chosen = (torch.arange(len(w)) % 2 == 0).view(-1, *[1] * (w.ndim - 1))
    return {
        "l1": lambda: s.l1_step(w, t),
        "group": lambda: s.group_step(w, t),
        "decay": lambda: s.decay_step(w, chosen, t),
    }[name]()


@pytest.mark.parametrize("name", ["l1", "group", "decay"])
@given(seed=seeds, t=st.floats(0.01, 2))
@settings(max_examples=25, deadline=None)
def test_a_step_is_the_minimum(name: str, seed: int, t: float) -> None:
    w = drawn(seed, 5, 3, 2)
    x = stepped(name, w, t)
    best = cost(name, x, w, t)
    for size in (1e-3, 0.03, 0.5):
        for i in range(6):
            assert cost(name, x + size * drawn(seed + i, 5, 3, 2), w, t) >= best
    assert best <= min(cost(name, w, w, t), cost(name, torch.zeros_like(w), w, t)) + 1e-12


def test_zeros_are_exact_and_stay() -> None:
    w = torch.tensor([[0.5, -0.2], [0.01, 0.02], [0.0, 0.0]])
    assert s.l1_step(w, 0.2).count_nonzero() == 1
    assert torch.equal(s.group_step(w, 0.1)[1:], torch.zeros(2, 2))
    kept = s.group_step(w, 0.1)[0]
    assert torch.allclose(kept / kept.norm(), w[0] / w[0].norm())
    assert torch.equal(s.group_step(w, 0.0), w)
    assert torch.equal(s.group_step(w, 0.1, dim=1), s.group_step(w.T, 0.1).T)


@given(seeds, st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_lowest_is_a_sort(seed: int, count: int) -> None:
    scores = drawn(seed, 12).mul(2).round()  # with ties
    order = sorted(range(12), key=lambda i: (float(scores[i]), i))
    assert s.lowest(scores, count).nonzero().flatten().tolist() == sorted(order[:count])


@given(seeds, st.sampled_from([(1, 2), (2, 4), (3, 4), (4, 8), (1, 1)]), st.sampled_from([0, 1, 2]))
@settings(max_examples=30, deadline=None)
def test_lowest_in_groups_is_a_sort_of_each(seed: int, pattern: tuple[int, int], dim: int) -> None:
    count, size = pattern
    shape = [3, 3, 3]
    shape[dim] = 2 * size
    scores = drawn(seed, *shape).mul(2).round()
    found = s.lowest_in_groups(scores, count, size, dim)
    assert found.shape == scores.shape
    for row, low in zip(
        scores.movedim(dim, -1).reshape(-1, size), found.movedim(dim, -1).reshape(-1, size), strict=True
    ):
        assert torch.equal(low, s.lowest(row, count))


def test_slices() -> None:
    w = drawn(0, 2, 3, 4)
    assert torch.allclose(s.slice_norms(w, 1), torch.stack([w[:, i].square().mean().sqrt() for i in range(3)]))
    assert s.along(torch.arange(3), w, 1).shape == (1, 3, 1)
