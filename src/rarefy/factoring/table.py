"""All that can be done with one layer: every method at every rank, with its cost and its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rarefy.factoring.method import Geometry, Layer, Method, Ranks
from rarefy.numerics.allotment import Options, cheapest_within

Array = NDArray[np.float64]
_LEAST = 1e-30  # energy, so that its logarithm is finite
_FEW = 16  # times the alignment: matrices of a lower full rank take any rank
_LOW = 4  # times the alignment: lower ranks are any; a whole step would be too large a part of them


@dataclass(frozen=True)
class Table:
    """Rows: a method at a rank. The last row leaves the layer as it is, and has an error of 0."""

    methods: tuple[Method, ...]
    full: tuple[Ranks, ...]  # of each method
    method: NDArray[np.int64]  # of each row; -1 in the last
    ranks: NDArray[np.int64]  # (rows, 2), the second 0 where there is one only
    parameters: Array
    macs: Array
    error: Array  # relative: 1 is all of the layer
    aligned: NDArray[np.bool_]
    bias: bool  # the last part gets one of its own

    @classmethod
    def of(cls, layer: Layer, methods: Sequence[Method], moment: Tensor | None, at: Geometry, align: int) -> Table:
        """Look at every rank of every method. moment: the covariance of the unfolded input; what the weights lose of
        the output's mean is then left to a bias."""
        full = tuple(method.full(layer) for method in methods)
        numel = float(layer.weight.numel())
        whole = (np.array([-1.0, 0, 0, numel, numel * at.outside, 0, 1])[None],)
        parts = [_rows(i, layer, m, moment, at, align) for i, m in enumerate(methods)]
        method, high, wide, parameters, macs, error, aligned = np.concatenate([*parts, *whole]).T
        bias = moment is not None
        parameters[:-1] += layer.weight.shape[0] * (bias and layer.bias is None)
        ranks = np.stack([high, wide], 1).astype(np.int64)
        return cls(tuple(methods), full, method.astype(np.int64), ranks, parameters, macs, error, aligned > 0, bias)

    @property
    def saves(self) -> NDArray[np.bool_]:
        """The rows that have fewer parameters and fewer multiply-accumulates than the layer, and the last."""
        fewer: NDArray[np.bool_] = (self.parameters < self.parameters[-1]) & (self.macs < self.macs[-1])
        fewer[-1] = True
        return fewer

    def rows(self, aligned: bool) -> NDArray[np.int64]:
        """The rows to choose from."""
        return np.flatnonzero(self.saves & self.aligned if aligned else self.saves)

    def options(self, rows: NDArray[np.int64], cost: str) -> Options:
        """These rows' costs ("parameters" or "macs"), and as errors the -log of the energy they keep: a sum of those is
        least where the product of the layers' energies is largest, so that no layer is given up for the others."""
        costs = self.parameters if cost == "parameters" else self.macs
        return Options(costs[rows], -np.log((1 - self.error[rows]).clip(_LEAST, 1)))

    def rank(self, row: int) -> Ranks:
        """The ranks of a row."""
        return tuple(int(r) for r in self.ranks[row] if r)

    def keeping(self, energy: float) -> int:
        """The row of fewest parameters that keeps this share of the energy; not aligned where that saves nothing."""
        for aligned in (True, False):
            rows = self.rows(aligned)
            row = int(rows[cheapest_within(self.options(rows, "parameters"), -math.log(energy) + 1e-12)])
            if row != rows[-1]:
                break
        return row

    def row(self, ranks: Ranks) -> int | None:
        """The row with these ranks that loses least; a single number stands for a pair of it, too. None where none of
        them saves anything. Raises `ValueError` where the ranks are above full."""
        wanted = {ranks, ranks * 2} if len(ranks) == 1 else {ranks}
        same = np.stack([(self.ranks == np.resize([*w, 0], 2)).all(1) for w in wanted]).any(0)
        rows = np.flatnonzero(same & self.saves).tolist()
        if rows:
            return int(min(rows, key=lambda row: self.error[row]))
        known = [full for full in self.full if any(len(w) == len(full) for w in wanted)]
        if any(all(r <= most for r, most in zip((*ranks, *ranks), full, strict=False)) for full in known):
            return None
        full = " or ".join(f"{words(f)} ({m.name})" for m, f in zip(self.methods, self.full, strict=True))
        raise ValueError(f"rank {words(ranks)} is above its full rank, {full}")


def _rows(number: int, layer: Layer, method: Method, moment: Tensor | None, at: Geometry, align: int) -> Array:
    """(ranks, 7): the columns of a table."""
    curve = method.curve(layer, moment)
    parameters, macs = method.cost(layer, curve.ranks, at)
    ranks, count = curve.ranks.numpy(), len(curve.ranks)
    aligned = _aligned(layer, ranks, np.array(method.full(layer)), align)
    pair = np.pad(ranks, ((0, 0), (0, 2 - ranks.shape[1])))
    error = curve.error.numpy() / (curve.total or 1.0)
    return np.column_stack([np.full(count, number), pair, parameters.numpy(), macs.numpy(), error, aligned])


def _aligned(layer: Layer, ranks: NDArray[np.int64], full: NDArray[np.int64], align: int) -> NDArray[np.bool_]:
    """Engines compute convolutions in blocks of channels: an odd rank costs more time there than a higher one saves,
    where what is around it fits the blocks."""
    blocks = layer.weight.ndim > 2 and layer.weight.shape[0] % align == 0
    any_rank = ranks < align if blocks else (ranks < _LOW * align) | (full < _FEW * align)
    found: NDArray[np.bool_] = ((ranks % align == 0) | any_rank).all(1)
    return found


def words(ranks: Ranks) -> str:
    """The ranks as they are read: 8 x 16."""
    return " x ".join(map(str, ranks))
