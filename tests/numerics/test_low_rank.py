"""Against plain float64: Eckart-Young, and that error curves are the errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rarefy.numerics import low_rank


def matrix(groups: int, m: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(groups, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment(groups: int, n: int, examples: int, seed: int = 1) -> Tensor:
    """Of correlated features, so that it matters."""
    x = matrix(groups, examples, n, seed) @ (matrix(1, n, n, seed + 1) * torch.logspace(0, -2, n, dtype=torch.float64))
    return x.mT @ x / examples


def error(difference: Tensor, c: Tensor | None = None) -> float:
    c = torch.eye(difference.shape[-1], dtype=torch.float64) if c is None else c
    return float((difference @ c @ difference.mT).diagonal(dim1=-2, dim2=-1).sum())


shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_svd_is_the_best_of_its_rank(shape: tuple[int, int, int, int]) -> None:
    w = matrix(*shape)
    curve = low_rank.svd_errors(w)
    values = torch.linalg.svdvals(w)
    for rank in range(1, min(w.shape[1:]) + 1):
        left, right = low_rank.svd(w, rank)
        assert left.shape[2] == right.shape[1] == rank
        assert error(w - left @ right) == pytest.approx(float(values[:, rank:].square().sum()), abs=1e-9)
        assert float(curve[rank]) == pytest.approx(error(w - left @ right), abs=1e-8)
        torch.testing.assert_close(left.norm(dim=1), right.norm(dim=2))
    assert float(curve[0]) == pytest.approx(error(w))


@pytest.mark.parametrize(("m", "n"), [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("examples", [4, 200], ids=["few", "many"])
def test_on_data_it_is_the_best_of_its_rank_there(m: int, n: int, examples: int) -> None:
    w, c = matrix(2, m, n), moment(2, n, examples)
    curve = low_rank.svd_errors(w, c)
    values, vectors = torch.linalg.eigh(c)
    tails = torch.linalg.svdvals(w @ vectors * values.clamp(min=0).sqrt()[:, None, :]).square()
    for rank in range(1, min(m, n) + 1):
        found = w - torch.matmul(*low_rank.svd(w, rank, c))
        assert error(found, c) == pytest.approx(float(tails[:, rank:].sum()), rel=1e-3, abs=1e-4 * error(w, c))
        assert error(found, c) <= error(w - torch.matmul(*low_rank.svd(w, rank)), c) * (1 + 1e-6) + 1e-9
        assert float(curve[rank]) == pytest.approx(error(found, c), rel=1e-3, abs=1e-4 * error(w, c))
    assert error(found) < 1e-9 * error(w) or examples < n


def test_full_rank_loses_nothing_beyond_the_data_either() -> None:
    w, c = matrix(1, 8, 12), moment(1, 12, 5)
    torch.testing.assert_close(torch.matmul(*low_rank.svd(w, 8, c)), w)
    torch.testing.assert_close(torch.matmul(*low_rank.svd(w, 8, torch.zeros_like(c))), w)


def test_many_rows_are_iterated_to_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    w = matrix(1, 80, 120) * torch.logspace(0, -2, 120, dtype=torch.float64)
    exact = low_rank.svd(w, 10)
    monkeypatch.setattr(low_rank, "_LARGE", 16)
    fast = low_rank.svd(w, 10)
    assert error(w - torch.matmul(*fast)) == pytest.approx(error(w - torch.matmul(*exact)), rel=1e-4)
    assert torch.equal(fast[0], low_rank.svd(w, 10)[0])


def test_float32_is_kept() -> None:
    assert low_rank.svd(matrix(1, 4, 5).float(), 2)[0].dtype == torch.float32


@pytest.mark.parametrize("c", [None, moment(1, 5, 50)], ids=["weights", "data"])
def test_tucker_curve_is_the_error(c: Tensor | None) -> None:
    w = matrix(6, 5, 6).view(6, 5, 3, 2)
    curve = low_rank.tucker_errors(w, c)
    assert curve.shape == (7, 6)
    for ranks in ((1, 1), (3, 2), (6, 5), (6, 1), (2, 5)):
        found, better = (low_rank.tucker(w, ranks, c, sweeps=sweeps) for sweeps in (0, 3))
        errors = [_tucker_error(w, parts, c) for parts in (found, better)]
        assert float(curve[ranks]) == pytest.approx(errors[0], rel=1e-4, abs=1e-4)
        assert errors[1] <= errors[0] + 1e-9
    assert errors[0] < float(curve[0, 0])


def _tucker_error(w: Tensor, parts: tuple[Tensor, Tensor, Tensor], c: Tensor | None) -> float:
    last, core, first = parts
    found = torch.einsum("or,rshw,si->oihw", last, core, first)
    return error((w - found).movedim(1, -1).flatten(0, 2), None if c is None else c[0])


def test_refit_is_least_squares() -> None:
    w, front, c = matrix(2, 6, 10), matrix(2, 3, 10, seed=5), moment(2, 10, 60)
    last = low_rank.refit(w, front, c)
    best = error(w - last @ front, c)
    for seed in range(5):
        assert error(w - (last + 1e-3 * matrix(2, 6, 3, seed)) @ front, c) >= best


def test_moments_of_rows_and_channels_are_means() -> None:
    kernel, channels = (2, 3), 4
    c = moment(2, channels * 6, 100)
    whole = c.view(2, channels, 2, 3, channels, 2, 3)
    rows = low_rank.spatial_moment(c, channels, kernel).view(2, channels, 2, channels, 2)
    torch.testing.assert_close(rows[1, 2, 0, 3, 1], whole[1, 2, 0, :, 3, 1, :].diagonal().mean())
    one = low_rank.channel_moment(c, channels, kernel)
    torch.testing.assert_close(
        one[0, 1, 2], torch.stack([whole[0, 1, y, x, 2, y, x] for y in (0, 1) for x in (0, 1, 2)]).mean()
    )
