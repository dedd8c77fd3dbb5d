"""The recursion against its definition: round a column, then choose all later ones at their best."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rarefy.numerics import second_order
from rarefy.numerics.second_order import LEAST, Curvature, Moment


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """All correlations are believed, and all costs."""
    monkeypatch.setattr(second_order, "SHARES", (0.0,))
    monkeypatch.setattr(second_order, "TRUST", 1.0)


def halves(first: Tensor, second: Tensor | None = None) -> tuple[Moment, Moment]:
    found = Moment(), Moment()
    found[0].add(first)
    found[1].add(first if second is None else second)
    return found


def curvature(matrices: Tensor) -> Curvature:
    return Curvature.of(halves(matrices), halves(matrices))


def moment(groups: int, columns: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 3 * columns, columns, generator=draw) @ torch.randn(
        groups, columns, columns, generator=draw
    )
    return x.mT @ x


def even(matrix: Tensor) -> Tensor:
    matrix = matrix.double() / matrix.double().diagonal().mean()
    return matrix + LEAST * torch.eye(len(matrix))


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


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("diagonal", [False, True])
def test_rounds_as_defined(diagonal: bool) -> None:
    groups, rows, columns = 2, 3, 9
    weight = torch.randn(groups, rows, columns, generator=torch.Generator().manual_seed(1))
    steps = 0.2 + 0.3 * torch.rand(groups, rows, columns, generator=torch.Generator().manual_seed(2))
    matrices = moment(groups, columns)
    matrices = torch.diag_embed(matrices.diagonal(dim1=1, dim2=2)) if diagonal else matrices
    made = curvature(matrices)
    found = made.rounded(weight, steps, 127)
    for g in range(groups):
        full = even(matrices[g].clone())
        for r in range(rows):
            wanted = by_definition(weight[g, r], steps[g, r], full, made.order.tolist())
            assert torch.equal(found[g, r], wanted)
    if diagonal:
        assert torch.equal(found, (weight / steps).round())


@pytest.mark.usefixtures("whole")
def test_costs_are_those_of_a_rounding_in_the_end() -> None:
    """An error of one column, and all later ones at their best."""
    matrices, judge = moment(1, 6), moment(1, 6, 3)
    made = Curvature.of(halves(matrices), halves(judge))
    full, true = even(matrices[0].clone()), judge[0].double() / judge[0].double().diagonal().mean()
    for position, j in enumerate(made.order.tolist()):
        later = made.order[position + 1 :].tolist()
        error = torch.zeros(6, dtype=torch.float64)
        error[j] = 1
        if later:
            error[later] = -torch.linalg.solve(full[later][:, later], full[later][:, j])
        assert float(made.costs[0, j]) == pytest.approx(float(error @ true @ error) + LEAST, rel=1e-4)


def test_only_correlations_that_come_again_are_believed() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(40, 40, generator=draw)

    def sample(count: int, *mixed: Tensor) -> Tensor:
        x = torch.randn(count, 40, generator=draw)
        x = x @ mixed[0] if mixed else x
        return (x.T @ x)[None]

    chance = halves(sample(50), sample(50))
    assert Curvature.of(chance, chance).factor.triu(1).abs().max() < 0.2
    truth = halves(sample(2000, mixing), sample(2000, mixing))
    made = Curvature.of(truth, truth)
    assert made.factor.triu(1).abs().max() > 0.3
    assert made.costs.log().mean().exp() < 0.6


def test_without_a_second_half_there_is_nothing_to_believe() -> None:
    one = Moment(), Moment()
    one[0].add(moment(2, 5))
    made = Curvature.of(one, one)
    assert torch.equal(made.factor, torch.eye(5).expand(2, 5, 5))
    weight, steps = torch.randn(2, 3, 5), torch.full((2, 3, 5), 0.3)
    assert torch.equal(made.rounded(weight, steps, 127), (weight / steps).round())


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, made = torch.randn(1, 5, 150), curvature(moment(1, 150))
    steps = torch.full_like(weight, 0.3)
    together = made.rounded(weight, steps, 127)
    monkeypatch.setattr("rarefy.numerics.second_order.BLOCK", 150)
    assert float((together != made.rounded(weight, steps, 127)).float().mean()) < 0.01  # sums in another order


def test_the_error_that_counts_is_smaller() -> None:
    weight, matrices = torch.randn(1, 40, 64), moment(1, 64)
    made, steps = curvature(matrices), torch.full((1, 40, 64), 0.5)
    errors = [weight - q * steps for q in (made.rounded(weight, steps, 127), (weight / steps).round())]
    second, nearest = (float(((e @ matrices) * e).sum()) for e in errors)
    assert second < 0.5 * nearest


def test_zeros_stay_and_integers_have_a_largest() -> None:
    weight, made = 10 * torch.randn(1, 6, 20), curvature(moment(1, 20))
    keep = torch.rand(1, 6, 20, generator=torch.Generator().manual_seed(3)) > 0.5
    found = made.rounded(weight, torch.full_like(weight, 0.5), 7, keep)
    assert not found[~keep].any()
    assert float(found.abs().max()) == 7


@pytest.mark.parametrize("matrix", [torch.zeros(1, 4, 4), torch.ones(1, 4, 4), torch.eye(4)[None] * 1e-30])
def test_degenerate_curvature(matrix: Tensor) -> None:
    found = curvature(matrix).rounded(torch.randn(1, 3, 4), torch.full((1, 3, 4), 0.1), 127)
    assert bool(found.isfinite().all())
