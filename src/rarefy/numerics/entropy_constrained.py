"""Clusters that are small in the file: error and entropy traded against each other.

minimise  sum_i w_i (x_i - c[a_i])^2 + lambda * -log2 p[a_i],  p the frequencies of the labels: what a label costs once
it is entropy-coded (Chou, Lookabaugh and Gray, "Entropy-constrained vector quantization", 1989). As in Lloyd's method
labels, centroids and frequencies are found in turns; centroids that become too dear lose their members and vanish.
For values of one weight the best labels are still intervals, since all costs are parabolas of one opening.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rarefy.numerics.histogram import BINS, Doubles, Floats, Histogram, chunks
from rarefy.numerics.partition import Cuts

_GRADES = 24  # of importance, half an octave each, down from the greatest
_LEAST = 1e-30  # instead of no importance at all: the label of the fewest bits


@dataclass(frozen=True)
class Constrained:
    """centroids ascend; `labels[g, b]` is the centroid of occupied bin b for values of grade g. `grade` is None where
    all values have the same."""

    centroids: Doubles
    labels: npt.NDArray[np.intp]
    grade: npt.NDArray[np.uint8] | None


def constrained(
    values: Floats, weights: Floats | None, data: Histogram, centroids: Doubles, rate: float, iterations: int
) -> Constrained:
    """Begin with `centroids` of the flat `values`, whose bins are `data`; as many are left as are worth their bits.

    rate: lambda as a share of the values' (weighted) mean square: what a bit per value is worth.
    """
    grade = None if weights is None else _graded(weights)
    count, weight, total = tables = _tallies(values, weights, data, grade)
    importance = weight.sum(1, keepdims=True) / np.maximum(count.sum(1, keepdims=True), 1)
    worth = rate * float((total * data.mean).sum()) / max(float(count.sum()), 1)
    below = np.pad(np.cumsum(tables, 2), ((0, 0), (0, 0), (1, 0)))  # of each bin; the last is the sum of all
    centroids = np.unique(centroids)
    runs = _cheapest(data.mean, centroids, np.zeros((len(importance), len(centroids))))
    for _ in range(iterations):
        members, mass, sums = np.diff(np.take_along_axis(below, runs[None], 2)).sum(1)
        alive = members > 0
        means = np.divide(sums, mass, out=centroids.copy(), where=mass > 0)[alive]
        centroids, same = np.unique(means, return_inverse=True)
        bits = -np.log2(np.bincount(same, members[alive]) / members.sum())
        before, runs = runs, _cheapest(data.mean, centroids, worth * bits / np.maximum(importance, _LEAST))
        if np.array_equal(runs, before):
            break
    labels = np.stack([np.repeat(np.arange(len(centroids)), np.diff(cuts)) for cuts in runs])
    return Constrained(centroids, labels, grade)


def _cheapest(x: Doubles, centroids: Doubles, penalties: Doubles) -> Cuts:
    """The runs of ascending x that each centroid has if it is chosen by (x - centroid)^2 + penalties[grade, centroid]:
    from cuts[grade, j] to cuts[grade, j + 1], which may be none."""
    return np.stack([_envelope(x, centroids, penalty) for penalty in penalties])


def _envelope(x: Doubles, centroids: Doubles, penalty: Doubles) -> Cuts:
    """A parabola that is nowhere below both of its neighbours is nowhere the lowest: it goes."""
    kept = np.arange(len(centroids))
    while True:
        c, h = centroids[kept], penalty[kept]
        edges = (c[1:] + c[:-1]) / 2 + np.diff(h) / (2 * np.diff(c))
        lowest = np.diff(edges) > 0
        if lowest.all():
            break
        kept = np.r_[kept[0], kept[1:-1][lowest], kept[-1]]
    cuts = np.full(len(centroids) + 1, len(x))
    cuts[kept] = np.r_[0, np.searchsorted(x, edges, side="right")]
    return np.minimum.accumulate(cuts[::-1])[::-1]


def _graded(weights: Floats) -> npt.NDArray[np.uint8]:
    """How many half octaves each weight is below the greatest."""
    greatest = float(weights.max())
    grade = np.empty(weights.size, np.uint8)
    for part in chunks(weights.size):
        share = np.maximum(weights[part] / greatest, 2.0 ** (-_GRADES / 2))
        grade[part] = np.minimum(-2 * np.log2(share), _GRADES - 1)
    return grade


def _tallies(values: Floats, weights: Floats | None, data: Histogram, grade: npt.NDArray[np.uint8] | None) -> Doubles:
    """How many values, the sum of their weights, and that of weight times value: (3, grades, occupied bins)."""
    if weights is None or grade is None:
        return np.stack([data.weight, data.weight, data.weight * data.mean])[:, None]
    count, weight, total = np.zeros((3, _GRADES * BINS))
    for part in chunks(values.size):
        cell = grade[part].astype(np.intp) * BINS + data.bins[part]
        heavy = weights[part].astype(np.float64)
        count += np.bincount(cell, minlength=len(count))
        weight += np.bincount(cell, heavy, minlength=len(count))
        total += np.bincount(cell, heavy * values[part], minlength=len(count))
    return np.stack([table.reshape(_GRADES, BINS)[:, data.occupied] for table in (count, weight, total)])
