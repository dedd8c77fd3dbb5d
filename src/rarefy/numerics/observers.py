"""Ranges of values that stream by: how much of an activation's range its integers are to cover.

`Observer.add` is told the values of one batch after the other and keeps counts in cells of a fixed size, 64 to an
octave of either sign (the upper bits of a float32 are the cell's number), so no range is too large for it, none has to
be rescaled, and its memory does not grow with the examples. Examples are kept apart by the octave of their largest
magnitude: those far beyond the median example (one image with broken brightness) are left out by `percentile`, `mse`
and `entropy`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from rarefy.errors import InputError
from rarefy.numerics.affine import dequantize, limits, parameters, quantize

Method = Literal["mse", "percentile", "entropy", "minmax", "average"]
METHODS: tuple[Method, ...] = get_args(Method)

SHIFT = 17
CELLS = 1 << (32 - SHIFT)
SAMPLE = 4096  # values of an example that are counted; its extremes are those of all
BEYOND = 2  # octaves above the median example that still count
TAIL = 1e-4  # on each side, for percentile
MOMENTUM = 0.1  # of a new batch, for average
CANDIDATES = 80
MOST_INSIDE = 0.99  # of the values, for entropy: a range that holds next to nothing diverges from nothing


class Observer:
    """Counts of the values of one activation."""

    def __init__(self) -> None:
        self.counts: dict[int, Tensor] = {}  # octave of the example's largest magnitude -> counts by cell
        self.examples: dict[int, int] = {}
        self.low, self.high = 0.0, 0.0
        self.average = (0.0, 0.0)

    def add(self, examples: Tensor, clip: tuple[float, float] | None = None) -> None:
        """Some examples, along the first dimension, of what will be clipped to bounds.

        Raises `InputError` where a value is NaN or infinite.
        """
        rows = examples.detach().float().flatten(1) if examples.ndim > 1 else examples.detach().float()[:, None]
        lows, highs = rows.aminmax(dim=1)
        tops = torch.maximum(-lows, highs)
        if not bool((tops.isfinite() & lows.isfinite()).all()):
            raise InputError("expected finite values, not NaN or infinite ones")
        rows = rows[:, :: max(1, -(-rows.shape[1] // SAMPLE))]
        if clip is not None:
            rows, lows, highs = (tensor.clamp(*clip) for tensor in (rows, lows, highs))
        low, high = float(lows.mean()), float(highs.mean())
        share = MOMENTUM if self.examples else 1.0
        self.average = (
            self.average[0] + share * (low - self.average[0]),
            self.average[1] + share * (high - self.average[1]),
        )
        self.low, self.high = min(self.low, float(lows.min())), max(self.high, float(highs.max()))
        octaves = tops.frexp().exponent
        for octave in sorted(set(octaves.tolist())):
            chosen = rows[octaves == octave].contiguous()
            cells = (chosen.view(torch.int32) >> SHIFT) + CELLS // 2
            counted = torch.bincount(cells.flatten().cpu(), minlength=CELLS).int()
            self.counts[octave] = self.counts.get(octave, 0) + counted
            self.examples[octave] = self.examples.get(octave, 0) + len(chosen)

    def range(self, method: Method, bits: int = 8, *, symmetric: bool = False) -> tuple[float, float]:
        """The range to cover with unsigned integers of `bits`. Raises `InputError` where nothing was seen."""
        if not self.examples:
            raise InputError("expected at least one example to take the range from")
        if method == "minmax":
            return self.low, self.high
        if method == "average":
            return min(self.average[0], 0.0), max(self.average[1], 0.0)
        centres, weight = self._cells()
        centres = centres.clamp(self.low, self.high)  # a cell is wider than what fell into it
        if method == "percentile":
            share = weight.cumsum(0) / weight.sum()
            last = len(share) - 1
            low = centres[int((share > TAIL).int().argmax())]
            high = centres[min(int((share < 1 - TAIL).sum()), last)]
            return min(float(low), 0.0), max(float(high), 0.0)
        return _searched(centres, weight, method, bits, symmetric)

    def _cells(self) -> tuple[Tensor, Tensor]:
        """Centres of the occupied cells, ascending, and their counts, of the examples that count."""
        octaves = sorted(self.examples)
        seen = torch.tensor([self.examples[o] for o in octaves]).cumsum(0)
        median = octaves[int((2 * seen >= seen[-1]).int().argmax())]
        counts = sum((self.counts[o] for o in octaves if o <= median + BEYOND), torch.zeros(CELLS, dtype=torch.int64))
        used = counts.nonzero()[:, 0]
        middle = ((used - CELLS // 2) << SHIFT) + (1 << (SHIFT - 1))
        zero = (used == CELLS // 2) | (used == 0)  # the cells of 0 and -0
        centres = torch.where(zero, 0.0, middle.int().view(torch.float32).double())
        order = centres.argsort()
        return centres[order], counts[used][order].double()


def _searched(centres: Tensor, weight: Tensor, method: Method, bits: int, symmetric: bool) -> tuple[float, float]:
    """The range of least cost: the upper bound first, then the lower, then the upper one again."""
    low, high = min(float(centres[0]), 0.0), max(float(centres[-1]), 0.0)
    factors = torch.logspace(0, -1.5, CANDIDATES, dtype=torch.float64)
    cost = _errors if method == "mse" else _divergences
    if symmetric:
        bounds = max(-low, high) * factors
        best = float(bounds[int(cost(centres, weight, -bounds, bounds, bits, True).argmin())])
        return -best, best
    full = low, high
    for side in (1, 0, 1):
        tried = full[side] * factors
        fixed = torch.full_like(tried, low if side else high)
        lows, highs = (fixed, tried) if side else (tried, fixed)
        best = float(tried[int(cost(centres, weight, lows, highs, bits, False).argmin())])
        low, high = (low, best) if side else (best, high)
    return low, high


def _rounded(centres: Tensor, lows: Tensor, highs: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """(candidates, cells): the integers of the cells, and what they stand for."""
    scale, point = (p[:, None].double() for p in parameters(lows, highs, bits, symmetric=symmetric, signed=False))
    q = quantize(centres, scale, point, *limits(bits, signed=False))
    return q, dequantize(q, scale, point)


def _errors(centres: Tensor, weight: Tensor, lows: Tensor, highs: Tensor, bits: int, symmetric: bool) -> Tensor:
    """Mean squared errors."""
    _, back = _rounded(centres, lows, highs, bits, symmetric)
    return (back - centres).square() @ weight


def _divergences(centres: Tensor, weight: Tensor, lows: Tensor, highs: Tensor, bits: int, symmetric: bool) -> Tensor:
    """KL(P || Q): P the clipped distribution, Q what is left of it when each integer's share is spread evenly over the
    cells that it stands for (Migacz 2017, 8-bit inference with TensorRT)."""
    q, _ = _rounded(centres, lows, highs, bits, symmetric)
    level = q.long()
    inside = (centres >= lows[:, None]) & (centres <= highs[:, None])
    width = (centres.abs() / 64).clamp(min=1e-30) * inside  # of the cells
    levels = torch.zeros(len(q), 2**bits, dtype=torch.float64)
    held = levels.scatter_add(1, level, weight * inside).gather(1, level)
    wide = levels.scatter_add(1, level, width).gather(1, level).clamp(min=1e-300)
    spread = torch.where(inside, held * width / wide, 0.0)
    clipped = torch.where(inside, weight, 0.0)
    cell = torch.where(inside, torch.arange(len(centres)), -1)
    first, last = torch.where(inside, cell, len(centres)).amin(1), cell.amax(1)
    rows = torch.arange(len(q))
    clipped[rows, last.clamp(min=0)] += ((centres > highs[:, None]) * weight).sum(1)
    clipped[rows, first.clamp(max=len(centres) - 1)] += ((centres < lows[:, None]) * weight).sum(1)
    p, s = clipped / weight.sum(), spread / spread.sum(1, keepdim=True).clamp(min=1e-300)
    divergence = torch.where(p > 0, p * (p / s.clamp(min=1e-12)).log(), 0.0).sum(1)
    return torch.where((inside.double() @ weight) >= MOST_INSIDE * weight.sum(), divergence, torch.inf)
