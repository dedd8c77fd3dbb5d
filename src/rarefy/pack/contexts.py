"""Symbols of a matrix in classes: those of rows and columns that spread alike.

Every row and every column has a level, and a symbol's class is the sum of its two: levels are logarithms of how large
the symbols of a row, or a column, are. A symbol's size is its rank among all symbols by frequency, so that neither the
order of a codebook nor a zero point matters. The format knows only levels, not where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rarefy.pack.ans import Counts, Symbols

LEVELS = 32  # of rows, and of columns
SMALLEST = 1 << 9  # symbols from which on classes are tried
SAMPLE = 1 << 17  # symbols of a large tensor, in whole rows, on which kinds of classes are tried
BOTH, ROWS, COLUMNS = (True, True), (True, False), (False, True)
# octaves between neighbouring levels, and whether rows and columns have them
OPTIONS = [(1.0, False, False), *((octaves, *use) for octaves in (0.5, 1.0) for use in (BOTH, ROWS, COLUMNS))]
FLOOR = 0.2  # added to ranks, for the logarithm of a row of zeros
ENTRY = 3.0  # bits that each symbol of a class costs in its table, roughly
LARGEST_ALPHABET = 1 << 12
GAIN = 0.998  # of the bits, that must be left at most

Levels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """The levels of rows and columns, all below `LEVELS`."""

    rows: Levels
    columns: Levels

    def blocks(self) -> list[list[tuple[slice, slice]]]:
        """For each class that occurs, its blocks in the matrix whose rows and columns are sorted by level."""
        found: list[list[tuple[slice, slice]]] = [[] for _ in range(2 * LEVELS)]
        columns = _runs(self.columns)
        for row, height in _runs(self.rows):
            for column, width in columns:
                found[row + column].append((height, width))
        return [blocks for blocks in found if blocks]

    def split(self, matrix: Symbols) -> list[Symbols]:
        """The symbols of each class."""
        ordered = matrix[np.argsort(self.rows, kind="stable")][:, np.argsort(self.columns, kind="stable")]
        return [np.concatenate([ordered[block].ravel() for block in blocks]) for blocks in self.blocks()]

    def sizes(self) -> list[int]:
        """The number of symbols of each class."""
        return [sum((h.stop - h.start) * (w.stop - w.start) for h, w in blocks) for blocks in self.blocks()]

    def joined(self, parts: list[Symbols]) -> Symbols:
        """The matrix again, flat."""
        ordered = np.empty((len(self.rows), len(self.columns)), parts[0].dtype)
        for part, blocks in zip(parts, self.blocks(), strict=True):
            at = 0
            for block in blocks:
                size = ordered[block].size
                ordered[block] = part[at : at + size].reshape(ordered[block].shape)
                at += size
        rows, columns = (np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (self.rows, self.columns))
        flat: Symbols = ordered[rows][:, columns].ravel()
        return flat


def _runs(levels: Levels) -> list[tuple[int, slice]]:
    """The levels that occur, and where, once they are sorted."""
    found, starts = np.unique(np.sort(levels), return_index=True)
    ends = [*starts[1:], len(levels)]
    return [(int(level), slice(int(a), int(b))) for level, a, b in zip(found, starts, ends, strict=True)]


def classes(matrix: Symbols, counts: Counts) -> Classes | None:
    """The classes in which `matrix` is shortest; None where one table for all is about as short.

    counts: the histogram of its symbols.
    """
    if len(counts) > LARGEST_ALPHABET:
        return None
    sizes = np.empty(len(counts), np.float32)
    sizes[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.float32) + np.float32(FLOOR)
    few = matrix[:: -(-matrix.size // SAMPLE)]
    scales = _scales(sizes[few])
    costs = {option: _cost(few, _made(scales, *option), len(sizes)) for option in OPTIONS}
    best = min(costs, key=lambda option: costs[option])
    if costs[best] > GAIN * costs[OPTIONS[0]]:
        return None
    return _made(scales if len(few) == len(matrix) else _scales(sizes[matrix]), *best)


def _made(scales: tuple[Floats, Floats], octaves: float, rows: bool, columns: bool) -> Classes:
    """Classes of rows, of columns, or of both."""
    used = zip(scales, (rows, columns), strict=True)
    return Classes(*(_levels(scale, octaves) if use else np.zeros(len(scale), np.uint8) for scale, use in used))


def _scales(sizes: Floats) -> tuple[Floats, Floats]:
    """Of rows and columns; their products are about the sizes."""
    rows = sizes.mean(1)
    columns = (sizes / rows[:, None]).mean(0)
    return (sizes / columns).mean(1), columns


def _levels(scale: Floats, octaves: float) -> Levels:
    steps = np.round(np.log2(scale) / octaves)
    levels: Levels = np.minimum(steps - steps.min(), LEVELS - 1).astype(np.uint8)
    return levels


def _cost(matrix: Symbols, option: Classes, alphabet: int) -> float:
    """Bits by the entropies of classes and levels, and what tables cost."""
    bits = sum(_entropy(np.bincount(part, minlength=alphabet)) for part in option.split(matrix))
    return bits + sum(_entropy(np.bincount(levels)) for levels in (option.rows, option.columns))


def _entropy(counts: Counts) -> float:
    some = counts[counts > 0].astype(np.float64)
    return float(some @ (np.log2(some.sum()) - np.log2(some))) + ENTRY * len(some)
