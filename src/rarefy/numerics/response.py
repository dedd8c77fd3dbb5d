"""Code vectors for a layer's output: books and codes whose weight answers as the layer's own does.

With the second moment H = E[x x^T] of what a layer multiplies its weight with, the error of its output is the sum of
e H e^T over the rows e of decoded - weight (Wu et al. 2016, Quantized-CNN, in closed form). Through H the places of a
row depend on each other: coordinate descent chooses the codes of one place at a time, for all rows at once, to the
errors made at the others. Between the sweeps all books are fitted together, by conjugate gradients, since the decoded
weight is linear in them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rarefy.numerics.vector_quantization import Coded, quantized

_DAMPING = 0.01  # of the mean square of the inputs is added to each: inputs never seen must not make wild weights
_RIDGE = 0.1  # the same, where the error made before is corrected: more, for calibration examples are few
_FLOAT64_MOST = 2048  # features of a system that is still solved in float64


def damped(moment: Tensor, share: float = _DAMPING) -> Tensor:
    """The moment (groups, n, n) with `share` of its mean diagonal added to the diagonal."""
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return moment + torch.where(mean > 0, share * mean, 1.0) * torch.eye(moment.shape[1]).to(moment)


def corrected(weight: Tensor, moment: Tensor, gap: Tensor) -> Tensor:
    """The weight that answers to what the layer sees now as `weight` (rows, n) did to what it saw before.

    minimise  E ||weight x - w x'||^2 + ridge ||w - weight||^2  over w: the layer makes up for the errors of those
    before it. moment: E[x' x'^T]; gap: E[(x - x') x'^T]; both (groups, n, n).
    """
    rows = weight.view(len(moment), -1, moment.shape[1])
    kind = torch.float64 if moment.shape[1] <= _FLOAT64_MOST else torch.float32
    root = torch.linalg.cholesky(damped(moment, _RIDGE).to(kind))
    change = torch.cholesky_solve((rows @ gap).mT.to(kind), root).mT
    return weight + change.to(weight.dtype).reshape(weight.shape)


def response_error(error: Tensor, moment: Tensor) -> float:
    """The sum of e H e^T over the rows. error: (rows, places, d); moment: (groups, places * d, places * d)."""
    return float((_answers(error, moment) * error).sum(dtype=torch.float64))


def answering(
    target: Tensor, moment: Tensor, k: int, stages: int, books: int, draw: torch.Generator, rounds: int = 8
) -> Coded:
    """Books and codes with a small `response_error` from target (rows, places, d)."""
    moment = damped(moment)
    coded = _start(target, moment, k, stages, books, draw)
    for _ in range(rounds):
        coded.books = _fitted(target, moment, coded)
        if not _sweep(target, moment, coded):
            break
    coded.books = _fitted(target, moment, coded)
    return coded


def _start(target: Tensor, moment: Tensor, k: int, stages: int, books: int, draw: torch.Generator) -> Coded:
    """As if places were independent: plain k-means in the mean metric of a place."""
    places, d = target.shape[1:]
    root = torch.linalg.cholesky(_blocks(moment, places, d).mean((0, 1)))
    coded = quantized(target @ root, k, stages, books, draw)
    coded.books = torch.linalg.solve_triangular(root, coded.books, upper=False, left=False).contiguous()
    return coded


def _blocks(moment: Tensor, places: int, d: int) -> Tensor:
    """What belongs to each place alone: (groups, places, d, d)."""
    return moment.view(-1, places, d, places, d).diagonal(dim1=1, dim2=3).movedim(-1, 1)


def _answers(error: Tensor, moment: Tensor) -> Tensor:
    return (error.reshape(len(moment), -1, moment.shape[1]) @ moment).view_as(error)


def _fitted(target: Tensor, moment: Tensor, coded: Coded, iterations: int = 20) -> Tensor:
    """The best books for these codes: conjugate gradients, scaled by the number of members."""
    books = coded.books

    def gathered(gradient: Tensor) -> Tensor:  # the transpose of decoding: added up for each code vector
        spread = gradient.expand(len(coded.codes), *gradient.shape).reshape(-1, gradient.shape[-1])
        return torch.zeros_like(books).view(-1, books.shape[-1]).index_add_(0, where, spread).view_as(books)

    where = coded.flat.flatten()
    scale = 1 / torch.bincount(where, minlength=books[..., 0].numel()).clamp(min=1).to(books).view(*books.shape[:3], 1)
    left = gathered(_answers(target - coded.vectors(), moment))
    way = left * scale
    size = first = (left * way).sum()
    for _ in range(iterations):
        if size <= 1e-8 * first:
            break
        pull = gathered(_answers(coded.parts(way).sum(0), moment))
        step = size / (way * pull).sum()
        books, left = books + step * way, left - step * pull
        next_size = (left * left * scale).sum()
        way, size = left * scale + next_size / size * way, next_size
    return books


def _sweep(target: Tensor, moment: Tensor, coded: Coded) -> bool:
    """Choose the codes anew, place by place; whether one changed."""
    groups, (rows, places, d) = len(moment), target.shape
    parts = coded.parts(coded.books).view(-1, groups, rows // groups, places, d)
    error = parts.sum(0) - target.view(groups, -1, places, d)
    pulls = (error.flatten(2) @ moment).view_as(error)
    blocks, across = _blocks(moment, places, d), moment.view(groups, places, d, -1)
    before = coded.codes.clone()
    for s in range(places):
        block, own = blocks[:, s], error[:, :, s]
        pull = pulls[:, :, s] - own @ block  # of the errors at the other places
        for t, stage in enumerate(coded.books):
            book = stage[s % len(stage)]
            rest = own - parts[t, :, :, s]
            cost = ((book @ block) * book).sum(-1)[:, None] + 2 * (pull + rest @ block) @ book.T  # (groups, rows, k)
            codes = cost.argmin(-1)
            coded.codes[t, :, s] = codes.flatten()
            own = rest + book[codes]
        pulls += ((own - error[:, :, s]) @ across[:, s]).view_as(pulls)
    return not torch.equal(before, coded.codes)
