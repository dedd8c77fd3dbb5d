"""k-means of vectors: a book of k code vectors, or several books whose sums stand for the vectors.

Distances go through matrix products, in chunks; of many vectors a sample trains the books, and one pass codes all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_DISTANCES = 1 << 24  # held at once: 64 MB
_SAMPLE = 256  # vectors for each code vector that a book is trained on,
_MOST = 1 << 18  # and in all
_APART = 1024  # code vectors up to which a start is spread by distance; beyond, random ones are about as good


@dataclass
class Coded:
    """`sum_t books[t, b(s), codes[t, r, s]]` stands for vector (r, s).

    books: (stages, b, k, d) with b = 1 for all places s of a row, or one for each. codes: (stages, rows, places).
    """

    books: Tensor
    codes: Tensor

    @property
    def flat(self) -> Tensor:
        """Where each code's vector is in the table of all books."""
        stages, b, k, _ = self.books.shape
        first = torch.arange(0, stages * b * k, k, device=self.codes.device)
        return self.codes + first.view(stages, 1, b)

    def parts(self, books: Tensor) -> Tensor:
        """What each stage adds: (stages, rows, places, d)."""
        return books.flatten(0, 2)[self.flat]

    def vectors(self) -> Tensor:
        """What they stand for: (rows, places, d)."""
        return self.parts(self.books).sum(0)


def quantized(vectors: Tensor, k: int, stages: int, books: int, draw: torch.Generator) -> Coded:
    """Books and codes with a small sum of squared errors. vectors: (rows, places, d); books: 1 or places."""
    rows, places = vectors.shape[:2]
    groups = [vectors.flatten(0, 1)] if books == 1 else vectors.unbind(1)
    made = [additive(group, k, stages, draw) for group in groups]
    codes = torch.stack([codes.view(stages, rows, -1) for _, codes in made], 2)
    return Coded(torch.stack([book for book, _ in made], 1), codes.view(stages, rows, places))


def additive(vectors: Tensor, k: int, stages: int, draw: torch.Generator, sweeps: int = 4) -> tuple[Tensor, Tensor]:
    """Books (stages, k, d) and codes (stages, n) whose sums are near the vectors (n, d).

    Each book begins as that of what those before it left; then each in turn is fitted to what all others leave.
    """
    books, codes, rest = list[Tensor](), list[Tensor](), vectors
    for stage in range(stages):
        books.append(kmeans(rest, k, draw))
        codes.append(nearest(rest, books[-1]))
        if stage + 1 < stages or stage:
            rest = rest - books[-1][codes[-1]]
    for _ in range(sweeps if stages > 1 else 0):
        for t in range(stages):
            rest = rest + books[t][codes[t]]
            codes[t] = nearest(rest, books[t])
            books[t] = means(rest, codes[t], books[t])
            rest = rest - books[t][codes[t]]
    return torch.stack(books), torch.stack(codes)


def kmeans(vectors: Tensor, k: int, draw: torch.Generator, iterations: int = 25) -> Tensor:
    """A book (k, d) for vectors (n, d): k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps.

    A code vector that loses its last member becomes the vector that is farthest from its own.
    """
    if len(vectors) > (most := min(_SAMPLE * k, _MOST)):
        vectors = vectors[torch.randint(len(vectors), (most,), generator=draw).to(vectors.device)]
    book, before = _seeds(vectors, k, draw), torch.empty(0, dtype=torch.long)
    for _ in range(iterations):
        codes = nearest(vectors, book)
        if torch.equal(codes, before):
            break
        book, before = _repaired(vectors, codes, means(vectors, codes, book)), codes
    return book


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """argmin_j ||v - book[j]||^2 for each vector. (n, d), (k, d) -> (n,)"""
    offset = book.square().sum(1)
    parts = torch.split(vectors, max(1, _DISTANCES // len(book)))
    return torch.cat([torch.addmm(offset, part, book.T, alpha=-2).argmin(1) for part in parts])


def means(vectors: Tensor, codes: Tensor, book: Tensor) -> Tensor:
    """The mean of the members of each code vector; one without members stays."""
    count = torch.bincount(codes, minlength=len(book)).to(vectors)[:, None]
    total = torch.zeros_like(book).index_add_(0, codes, vectors)
    return torch.where(count > 0, total / count.clamp(min=1), book)


def _seeds(vectors: Tensor, k: int, draw: torch.Generator) -> Tensor:
    """Each is drawn with the square of its distance to those before. Fewer vectors than k are repeated."""
    few = vectors[torch.randperm(len(vectors), generator=draw)[: 16 * k].to(vectors.device)]
    if k > _APART or len(few) <= k:
        return few[torch.arange(k) % len(few)]
    norms, apart = few.square().sum(1), torch.full_like(few[:, 0], torch.inf)
    share, chosen = torch.ones(len(few)), list[Tensor]()
    for _ in range(k):
        chosen.append(few[torch.multinomial(share, 1, generator=draw)[0]])
        apart = torch.minimum(apart, (norms - 2 * few @ chosen[-1] + chosen[-1].square().sum()).clamp(min=0))
        share = apart.cpu() if bool((apart > 0).any()) else torch.ones(len(few))
    return torch.stack(chosen)


def _repaired(vectors: Tensor, codes: Tensor, book: Tensor) -> Tensor:
    empty = (torch.bincount(codes, minlength=len(book)) == 0).nonzero()[:, 0]
    if len(empty):
        far = (vectors - book[codes]).square().sum(1).topk(min(len(empty), len(vectors))).indices
        book[empty[: len(far)]] = vectors[far]
    return book
