"""Codes for the output, against plain float64 least squares and a search of every single change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rarefy.numerics.response import answering, corrected, damped, response_error
from rarefy.numerics.vector_quantization import Coded, quantized

CASES = pytest.mark.parametrize(("stages", "books", "groups"), [(1, 1, 1), (1, 6, 1), (2, 1, 1), (1, 1, 3)])


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def seen(groups: int, n: int) -> Tensor:
    """The moment of inputs that depend on each other."""
    x = torch.randn(groups, 300, n, generator=draw()) @ torch.randn(groups, n, n, generator=draw())
    return x.mT @ x / 300


def solved(groups: int, stages: int, books: int, rounds: int = 100) -> tuple[Tensor, Tensor, Coded]:
    target, moment = torch.randn(24, 6, 4, generator=draw()), seen(groups, 24)
    return target, moment, answering(target, moment, 8, stages, books, draw(), rounds)


@CASES
def test_answers_better_than_codes_for_the_weights(stages: int, books: int, groups: int) -> None:
    target, moment, coded = solved(groups, stages, books, rounds=8)
    plain = quantized(target, 8, stages, books, draw())
    ours, theirs = (response_error(target - c.vectors(), moment) for c in (coded, plain))
    assert ours < 0.75 * theirs
    assert (target - coded.vectors()).square().sum() > (target - plain.vectors()).square().sum()


def test_the_error_is_that_of_the_output() -> None:
    x, error = torch.randn(2, 50, 12), torch.randn(8, 3, 4)
    wanted = sum(float((error.flatten(1)[4 * g : 4 * g + 4] @ x[g].T).square().sum()) / 50 for g in (0, 1))
    assert response_error(error, x.mT @ x / 50) == pytest.approx(wanted, rel=1e-5)


@CASES
def test_books_are_the_best_for_their_codes(stages: int, books: int, groups: int) -> None:
    target, moment, coded = solved(groups, stages, books)
    root = torch.linalg.cholesky(damped(moment).double())  # (groups, n, n)
    columns = []
    for i in range(coded.books.numel()):
        unit = torch.zeros(coded.books.numel())
        unit[i] = 1
        decoded = Coded(unit.view_as(coded.books), coded.codes).vectors()
        columns.append((decoded.double().reshape(groups, -1, 24) @ root).flatten())
    wanted = (target.double().reshape(groups, -1, 24) @ root).flatten()
    matrix = torch.stack(columns, 1)
    best = matrix @ torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    least = float((best - wanted).square().sum())
    assert response_error(target - coded.vectors(), damped(moment)) <= 1.02 * least


@CASES
def test_no_other_code_at_one_place_is_better(stages: int, books: int, groups: int) -> None:
    target, moment, coded = solved(groups, stages, books)
    moment, error = damped(moment), target - coded.vectors()
    least = response_error(error, moment)
    for t in range(stages):
        for s in range(6):
            others = error + coded.parts(coded.books)[t, :, s][:, None] * (torch.arange(6) == s)[:, None]
            for code in coded.books[t, s % books]:
                changed = others - code * (torch.arange(6) == s)[:, None]
                rows = [
                    response_error(torch.where(torch.arange(24)[:, None, None] == r, changed, error), moment)
                    for r in (0, 9)
                ]
                assert min(rows) >= least * (1 - 1e-3)


@pytest.mark.parametrize("groups", [1, 3])
def test_makes_up_for_what_the_layers_before_did(groups: int) -> None:
    weight, x = torch.randn(6, 10), torch.randn(groups, 400, 10)
    now = 0.8 * x + 0.3 * torch.randn(groups, 400, 10)
    moment, gap = now.mT @ now / 400, (x - now).mT @ now / 400
    found = corrected(weight, moment, gap)
    for g in range(groups):
        rows = slice(g * 6 // groups, (g + 1) * 6 // groups)
        ridge = (0.1 * 400 * moment[g].diagonal().mean()).sqrt().double()
        matrix = torch.cat([now[g].double(), ridge * torch.eye(10).double()])
        wanted = torch.cat([x[g].double() @ weight[rows].double().T, ridge * weight[rows].double().T])
        best = torch.linalg.lstsq(matrix, wanted).solution.T
        assert torch.allclose(found[rows].double(), best, atol=1e-4)
    same = corrected(weight, moment, torch.zeros_like(gap))
    assert torch.equal(same, weight)


def test_inputs_that_are_never_seen() -> None:
    target = torch.randn(10, 3, 4)
    coded = answering(target, torch.zeros(1, 12, 12), 4, 1, 1, draw())
    assert coded.vectors().isfinite().all()
    assert (target - coded.vectors()).square().sum() < target.square().sum()
    assert torch.equal(corrected(target.flatten(1), torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)), target.flatten(1))
