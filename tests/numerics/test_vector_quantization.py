"""Books of vectors against plain float64 loops and the best of many starts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rarefy.numerics.vector_quantization import Coded, additive, kmeans, means, nearest, quantized


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=draw(seed))


def squares(vectors: Tensor, book: Tensor) -> float:
    return float((vectors - book[nearest(vectors, book)]).double().square().sum())


def test_nearest_and_means() -> None:
    vectors, book = points(700, 5), points(40, 5, seed=1)
    codes = nearest(vectors, book)
    apart = torch.cdist(vectors.double(), book.double())
    assert torch.allclose(apart.gather(1, codes[:, None])[:, 0], apart.min(1).values)
    codes[codes == 3] = 4
    found = means(vectors, codes, book)
    for j in set(codes.tolist()):
        assert torch.allclose(found[j].double(), vectors[codes == j].double().mean(0), atol=1e-6)
    assert torch.equal(found[3], book[3])


@pytest.mark.parametrize(("n", "d", "k"), [(1000, 4, 16), (600, 8, 32), (600, 2, 5)])
def test_about_as_good_as_the_best_of_many_starts(n: int, d: int, k: int) -> None:
    vectors = points(n, d)
    best = min(lloyd(vectors.double(), k, seed) for seed in range(10))
    assert squares(vectors, kmeans(vectors, k, draw())) <= 1.08 * best


def lloyd(vectors: Tensor, k: int, seed: int) -> float:
    """The squared error of plain k-means in float64, from vectors drawn at random."""
    book = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[:k]].clone()
    for _ in range(100):
        codes = torch.cdist(vectors, book).argmin(1)
        for j in codes.unique().tolist():
            book[j] = vectors[codes == j].mean(0)
    return float(torch.cdist(vectors, book).min(1).values.square().sum())


def test_clusters_that_are_apart_are_all_found() -> None:
    centres = 100 * points(30, 6)
    vectors = centres.repeat(20, 1) + points(600, 6, seed=1)
    assert squares(vectors, kmeans(vectors, 30, draw())) < 600 * 6 * 1.1


@pytest.mark.parametrize("n", [1, 3, 10])
def test_fewer_vectors_than_code_vectors(n: int) -> None:
    vectors = points(n, 3)
    book = kmeans(vectors, 8, draw())
    assert book.shape == (8, 3)
    assert book.isfinite().all()
    assert n > 8 or squares(vectors, book) == pytest.approx(0, abs=1e-10)
    same = kmeans(vectors[:1].expand(50, 3), 4, draw())
    assert torch.allclose(same, vectors[:1].expand(4, 3))


def test_a_sample_trains_the_book_of_many() -> None:
    vectors = points(20_000, 4)
    whole = squares(vectors, kmeans(vectors, 16, draw()))
    assert squares(vectors[:4096], kmeans(vectors[:4096], 16, draw())) / 4096 <= whole / 20_000 * 1.05
    assert len(kmeans(points(3000, 2), 1200, draw()).unique(dim=0)) == 1200


def test_more_stages_leave_less() -> None:
    vectors = points(1500, 8)
    errors = []
    for stages in (1, 2, 3, 4):
        books, codes = additive(vectors, 16, stages, draw())
        assert books.shape == (stages, 16, 8)
        assert codes.shape == (stages, 1500)
        sums = sum(books[t][codes[t]] for t in range(stages))
        errors.append(float((vectors - sums).square().sum()))
    assert all(b < 0.85 * a for a, b in pairwise(errors))


@pytest.mark.parametrize(("stages", "books"), [(1, 1), (1, 6), (3, 1)])
def test_decoding_is_looking_up_and_adding(stages: int, books: int) -> None:
    vectors = points(20 * 6, 4).view(20, 6, 4)
    coded = quantized(vectors, 5, stages, books, draw())
    assert coded.books.shape == (stages, books, 5, 4)
    assert coded.codes.shape == (stages, 20, 6)
    for r in range(20):
        for s in range(6):
            wanted = sum(coded.books[t, s % books, coded.codes[t, r, s]] for t in range(stages))
            assert torch.allclose(coded.vectors()[r, s], torch.as_tensor(wanted))
    assert (vectors - coded.vectors()).square().sum() < 0.75 * vectors.square().sum()


def test_books_of_places_fit_better_than_one() -> None:
    vectors = points(400, 4).view(100, 4, 4) + 10 * points(4, 4, seed=1)
    one, own = (quantized(vectors, 8, 1, books, draw()) for books in (1, 4))
    assert isinstance(one, Coded)
    assert (vectors - own.vectors()).square().sum() < 0.6 * (vectors - one.vectors()).square().sum()
