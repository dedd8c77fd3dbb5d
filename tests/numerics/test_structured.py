"""Structured matrices against their definitions, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rarefy.numerics import structured


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def circulant(v: Tensor, sign: int = 1) -> Tensor:
    n = len(v)
    return torch.stack([torch.stack([v[r - c] * (sign if r < c else 1) for c in range(n)]) for r in range(n)])


def shift(n: int, f: int) -> Tensor:
    """Z_f: ones below the diagonal, f in the corner."""
    return circulant(torch.eye(n, dtype=torch.float64)[1 % n], f) if n > 1 else torch.full((1, 1), float(f)).double()


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_definitions(n: int) -> None:
    v = random(n)
    for sign in (1, -1):
        assert torch.equal(structured.toeplitz(structured.wrapped(v, sign), n), circulant(v, sign))
    d = random(n + 3 - 1)
    t = structured.toeplitz(d, 3)
    assert t.shape == (n, 3)
    assert all(t[r, c] == d[r - c + 2] for r in range(n) for c in range(3))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_products_by_fft(rows: int, cols: int, seed: int) -> None:
    d, x = random(rows + cols - 1, seed=seed), random(4, cols, seed=seed + 1)
    torch.testing.assert_close(structured.toeplitz_product(d, x, rows), x @ structured.toeplitz(d, cols).mT)
    v, y = random(2, 3, rows, seed=seed), random(4, 3, rows, seed=seed + 1)
    blocks = structured.toeplitz(structured.wrapped(v), rows)
    torch.testing.assert_close(structured.blocks_product(v, y), torch.einsum("pqrc,nqc->npr", blocks, y))
    pairs = random(2, 3, 2, 2, rows, seed=seed)
    dense = structured.displacement_blocks(pairs)
    torch.testing.assert_close(structured.displacement_product(pairs, y), torch.einsum("pqrc,nqc->npr", dense, y))


@pytest.mark.parametrize(("m", "n", "rows", "cols"), [(6, 8, 2, 4), (7, 5, 3, 3), (1, 9, 4, 4), (5, 5, 5, 5)])
def test_blocks_are_cut_and_joined(m: int, n: int, rows: int, cols: int) -> None:
    w = random(m, n)
    blocks = structured.cut(w, rows, cols)
    assert blocks.shape[2:] == (rows, cols)
    assert torch.equal(blocks[0, 0][:m, :n], w[:rows, :cols])
    assert torch.equal(structured.joined(blocks, m, n), w)


@pytest.mark.parametrize("wrap", [True, False], ids=["circulant", "toeplitz"])
@pytest.mark.parametrize(("m", "n", "block"), [(8, 8, 4), (7, 10, 4), (5, 3, 3), (6, 6, 6)])
def test_means_along_diagonals_are_least_squares(wrap: bool, m: int, n: int, block: int) -> None:
    w = random(m, n)
    values = structured.diagonal_means(w, block, block, wrap)

    def build(v: Tensor) -> Tensor:
        return structured.joined(structured.toeplitz(structured.wrapped(v) if wrap else v, block), m, n)

    basis = torch.stack([build(e.view(values.shape)).flatten() for e in torch.eye(values.numel()).double()], 1)
    best = np.linalg.lstsq(basis.numpy(), w.flatten().numpy(), rcond=None)[0]
    assert float((build(values) - w).norm()) == pytest.approx(
        float(np.linalg.norm(basis.numpy() @ best - w.flatten().numpy()))
    )
    torch.testing.assert_close(structured.diagonal_means(build(values), block, block, wrap), values)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_displacement(n: int) -> None:
    w = random(2, 2, n, n)
    torch.testing.assert_close(structured.displacement(w), shift(n, 1) @ w - w @ shift(n, -1))
    torch.testing.assert_close(structured.displacement_blocks(structured.displacement_factors(w, n)), w)
    vectors = random(2, 2, 3, 2, n)
    built = structured.displacement_blocks(vectors)
    wanted = sum(circulant(vectors[0, 1, i, 0]) @ circulant(vectors[0, 1, i, 1], -1) for i in range(3))
    torch.testing.assert_close(built[0, 1], wanted)
    assert int(torch.linalg.matrix_rank(structured.displacement(built)).max()) <= 3


def test_a_toeplitz_matrix_and_its_inverse_have_displacement_rank_two() -> None:
    t = structured.toeplitz(random(15), 8)
    for w in (t, torch.linalg.inv(t)):
        factors = structured.displacement_factors(w[None, None], 2)
        torch.testing.assert_close(structured.displacement_blocks(factors)[0, 0], w)
