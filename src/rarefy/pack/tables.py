"""The table of a symbol stream: one logarithmic level per symbol, as coarse as it pays.

A level q > 0 stands for the weight 2^((q - 1) / steps), level 0 for "never". The differences of
neighbouring levels are coded with the symbols, under a power law with two parameters. The levels are found
by dynamic programming over (level, symbol): a symbol with count c costs (w - c ln w) / ln 2 bits at weight
w (the Poisson form of the code length, which needs no normaliser), a change of level what its code costs.
So a smooth histogram is stored as few steps, a dense one as exactly as it pays, and 256 symbols that occur
twice each as one level.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rarefy.pack.ans import TOTAL, Counts, cost

OCTAVES = 22  # between the smallest and the largest weight
MANTISSAS = np.array([round(2 ** (15 + i / 16)) for i in range(16)], np.int64)
CHANGES, SHAPES = 8, 4  # values of the two parameters of the law of differences
LAWS, USUAL_LAW = CHANGES * SHAPES, 2 * SHAPES + 1
LARGEST_PROGRAMME = 1 << 14  # symbols; above, every level is rounded by itself
PLENTY = 1 << 8  # symbols beside the most frequent, for each entry of the table; above, its length hardly matters

Levels = npt.NDArray[np.int64]


def frequencies(sixteenths: Levels) -> Counts:
    """Frequencies, sum 2^24, for weights 2^(i / 16); a negative i is the weight 0. All in integers."""
    weights = np.where(sixteenths < 0, 0, MANTISSAS[sixteenths % 16] << np.maximum(sixteenths // 16, 0))
    total = max(int(weights.sum()), 1)
    freq = 1 + weights * (TOTAL - len(weights)) // total
    freq[np.argmax(freq)] += TOTAL - int(freq.sum())
    return freq


def uniform(size: int) -> Counts:
    """As good as equal frequencies."""
    return frequencies(np.zeros(size, np.int64))


def level_frequencies(levels: Levels, steps: int) -> Counts:
    """The frequencies of the symbols, from their levels."""
    return frequencies((levels - 1) * (16 // steps))


def zigzagged(differences: Levels) -> Levels:
    """Signed to unsigned: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return np.where(differences >= 0, 2 * differences, -2 * differences - 1)


@lru_cache(maxsize=1024)
def law(number: int, steps: int) -> Counts:
    """Frequencies of zigzagged differences z: 4^(change - 2) at 0 against about z^-(shape / 2 + 1)."""
    change, shape = divmod(number, SHAPES)
    z = np.arange(1, 2 * OCTAVES * steps + 1, dtype=np.int64)
    exponent = np.frexp(z)[1].astype(np.int64) - 1
    logarithm = 16 * exponent + 16 * (z - (1 << exponent)) // (1 << exponent)  # piecewise linear
    tail = np.maximum(176 - (shape + 2) * logarithm // 2, 0)
    return frequencies(np.concatenate([[176 + 32 * (change - 2)], tail]))


@lru_cache(maxsize=16)
def _law_bits(steps: int) -> npt.NDArray[np.float64]:
    rows = [law(number, steps) for number in range(LAWS)]
    return 24 - np.log2(np.array(rows))  # (laws, z)


@dataclass(frozen=True)
class Table:
    """A fitted table: `law` numbers the law of differences, `bits` is what the differences cost."""

    levels: Levels
    steps: int
    law: int
    bits: float


def fit(counts: Counts, finenesses: Iterable[int]) -> Table:
    """The shortest table for the histogram `counts`, at one of `finenesses` levels per octave."""
    best = min((_fitted(counts, steps, USUAL_LAW) for steps in finenesses), key=lambda table: _cost(table, counts))
    again = _fitted(counts, best.steps, best.law)
    return min(best, again, key=lambda table: _cost(table, counts))


def _fitted(counts: Counts, steps: int, law: int) -> Table:
    weights = _weights(counts, steps)
    if len(counts) > LARGEST_PROGRAMME or counts.sum() - counts.max() > PLENTY * len(counts):
        return _with_law(np.where(counts > 0, _nearest(counts, weights), 0), steps)
    return _with_law(_programme(counts, weights, _law_bits(steps)[law]), steps)


def _cost(table: Table, counts: Counts) -> float:
    """Bits of the table and the symbols."""
    return table.bits + cost(counts, level_frequencies(table.levels, table.steps))


def _weights(counts: Counts, steps: int) -> npt.NDArray[np.float64]:
    """The weight of each level, in counts; only as many levels as the histogram reaches."""
    largest = float(counts.max())
    base = max(0.25, largest / 2 ** (OCTAVES - 1))
    reach = 1 + round(steps * np.log2(largest / base))
    never = float(counts.sum()) / TOTAL
    return np.concatenate([[min(never, base / 2)], base * 2.0 ** (np.arange(reach) / steps)])


def _nearest(counts: Counts, weights: npt.NDArray[np.float64]) -> Levels:
    edges = np.sqrt(weights[1:-1] * weights[2:])
    return 1 + np.searchsorted(edges, counts)


def _programme(counts: Counts, weights: npt.NDArray[np.float64], law: npt.NDArray[np.float64]) -> Levels:
    """Viterbi's algorithm: the levels with the smallest sum of both costs; `law` costs a difference."""
    grid = np.arange(len(weights))
    jump = law[zigzagged(grid[None, :] - grid[:, None])].T.copy()  # (to, from)
    here = (weights - counts[:, None] * np.log(weights)) / np.log(2)  # (symbols, levels)
    back = np.empty((len(counts), len(weights)), np.int16)
    best = here[0]
    for index in range(1, len(counts)):
        total = jump + best
        back[index] = total.argmin(1)
        best = total[grid, back[index]] + here[index]
    levels = np.empty(len(counts), np.int64)
    levels[-1] = best.argmin()
    for index in range(len(counts) - 1, 0, -1):
        levels[index - 1] = back[index, levels[index]]
    return levels


def _with_law(levels: Levels, steps: int) -> Table:
    bits = _law_bits(steps)
    costs = bits @ np.bincount(zigzagged(np.diff(levels)), minlength=bits.shape[1])
    best = int(costs.argmin())
    return Table(levels, steps, best, float(costs[best]) + np.log2(OCTAVES * steps + 1))
