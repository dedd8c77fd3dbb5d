"""The recursion against its definition: round a column, then choose all later ones at their best."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rarefy.numerics.second_order import JITTER, LEAST, SHRINKAGE, Curvature, Moment


def moment(groups: int, columns: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 3 * columns, columns, generator=draw) @ torch.randn(
        groups, columns, columns, generator=draw
    )
    return x.mT @ x


def even(matrix: Tensor) -> Tensor:
    matrix = matrix.double() / matrix.double().diagonal().mean()
    diagonal = matrix.diagonal().clamp(min=LEAST) + JITTER
    return matrix.fill_diagonal_(0) + torch.diag(diagonal)


def by_definition(weight: Tensor, steps: Tensor, curvature: Tensor, order: list[int]) -> Tensor:
    """One row, in float64: after each rounding, the free columns minimise e H e^T given all errors so far."""
    work, integers, done = weight.double().clone(), torch.zeros_like(weight), list[int]()
    for j in order:
        integers[j] = (work[j] / steps[j].double()).round()
        done.append(j)
        free = [i for i in order if i not in done]
        errors = weight.double()[done] - (integers * steps)[done].double()
        if free:
            work[free] = weight.double()[free] + torch.linalg.solve(
                curvature[free][:, free], curvature[free][:, done] @ errors
            )
    return integers


@pytest.mark.parametrize("diagonal", [False, True])
def test_rounds_as_defined(diagonal: bool) -> None:
    groups, rows, columns = 2, 3, 9
    weight = torch.randn(groups, rows, columns, generator=torch.Generator().manual_seed(1))
    steps = 0.2 + 0.3 * torch.rand(groups, rows, columns, generator=torch.Generator().manual_seed(2))
    matrices = moment(groups, columns)
    matrices = torch.diag_embed(matrices.diagonal(dim1=1, dim2=2)) if diagonal else matrices
    curvature = Curvature.of(matrices)
    found = curvature.rounded(weight, steps, 127)
    for g in range(groups):
        full = even(matrices[g].clone())
        for r in range(rows):
            wanted = by_definition(weight[g, r], steps[g, r], full, curvature.order.tolist())
            assert torch.equal(found[g, r], wanted)
    if diagonal:
        assert torch.equal(found, (weight / steps).round())


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, curvature = torch.randn(1, 5, 150), Curvature.of(moment(1, 150))
    steps = torch.full_like(weight, 0.3)
    whole = curvature.rounded(weight, steps, 127)
    monkeypatch.setattr("rarefy.numerics.second_order.BLOCK", 150)
    assert float((whole != curvature.rounded(weight, steps, 127)).float().mean()) < 0.01  # sums in another order


def test_the_error_that_counts_is_smaller() -> None:
    weight, matrices = torch.randn(1, 40, 64), moment(1, 64)
    curvature, steps = Curvature.of(matrices), torch.full((1, 40, 64), 0.5)
    errors = [weight - q * steps for q in (curvature.rounded(weight, steps, 127), (weight / steps).round())]
    second, nearest = (float(((e @ matrices) * e).sum()) for e in errors)
    assert second < 0.5 * nearest


def test_zeros_stay_and_integers_have_a_largest() -> None:
    weight, curvature = 10 * torch.randn(1, 6, 20), Curvature.of(moment(1, 20))
    keep = torch.rand(1, 6, 20, generator=torch.Generator().manual_seed(3)) > 0.5
    found = curvature.rounded(weight, torch.full_like(weight, 0.5), 7, keep)
    assert not found[~keep].any()
    assert float(found.abs().max()) == 7


@pytest.mark.parametrize(("count", "share"), [(1, 1.0), (4, 0.5), (40, SHRINKAGE)])
def test_moments_are_moved_towards_their_diagonal(count: int, share: float) -> None:
    found, matrices = Moment(), [moment(2, 5, seed) for seed in range(count)]
    for matrix in matrices:
        found.add(matrix)
    total = torch.stack(matrices).sum(0)
    wanted = total / total.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    shrunk = found.shrunk()
    torch.testing.assert_close(shrunk.diagonal(dim1=1, dim2=2), wanted.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(shrunk.triu(1), (1 - share) * wanted.triu(1))


@pytest.mark.parametrize("matrix", [torch.zeros(1, 4, 4), torch.ones(1, 4, 4), torch.eye(4)[None] * 1e-30])
def test_degenerate_curvature(matrix: Tensor) -> None:
    curvature = Curvature.of(matrix)
    found = curvature.rounded(torch.randn(1, 3, 4), torch.full((1, 3, 4), 0.1), 127)
    assert bool(found.isfinite().all())
