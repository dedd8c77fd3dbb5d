"""The best way to cut sorted, weighted points into k runs: the optimum of one-dimensional k-means.

The cost of a run, ``sum w (x - mean)^2``, obeys the quadrangle inequality. Exchanging the ends of two
sets of cuts then shows that a set is optimal as soon as it is the best of all those that keep every cut
between the old places of its neighbours. So instead of the whole table of the dynamic programming only a
band around the last cuts is filled in, again and again until they stay: exact, and from a good start done
in two rounds.

Aggarwal, Schieber and Tokuyama, "Finding a minimum-weight k-link path in graphs with the concave Monge
property and applications", 1994.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rarefy.numerics.histogram import fill, resolution

Doubles = npt.NDArray[np.float64]
Cuts = npt.NDArray[np.intp]

_REACH = 24  # points beside a cut that are tried at least; more means fewer rounds, each dearer
_RUNS = 1 << 14  # looked at in all rounds together; only thousands of runs need more to be exact


def partition(weight: Doubles, mean: Doubles, k: int) -> Cuts:
    """The k + 1 cuts, from 0 to the number of points: run j is ``[cuts[j], cuts[j + 1])``, never empty.

    `weight` is positive, `mean` ascending; both have at least k entries.
    """
    cuts, cost = _first_cuts(weight, mean, k), np.inf
    for _ in range(max(2, _RUNS // k)):
        better, new_cost = _best_near(weight, mean, cuts)
        if not new_cost < cost * (1 - 1e-12):
            break
        cuts, cost = better, new_cost
    return cuts


def _first_cuts(weight: Doubles, mean: Doubles, k: int) -> Cuts:
    """Runs that all deserve one centroid, as near as whole points allow."""
    if k == 1:
        return np.array([0, len(mean)])
    share = fill(resolution(weight, np.gradient(mean)), 1.0, k)
    order = np.arange(k + 1)
    cuts = np.searchsorted(np.cumsum(share), share.sum() * order / k)
    cuts = np.maximum.accumulate(cuts - order) + order
    return np.minimum(np.r_[0, cuts[1:-1], len(mean)], len(mean) - k + order)


def _best_near(weight: Doubles, mean: Doubles, cuts: Cuts) -> tuple[Cuts, float]:
    """The best cuts near the given ones, each at least anywhere between its neighbours, and their cost."""
    k = len(cuts) - 1
    order = np.arange(1, k)
    low = np.maximum(np.minimum(cuts[1:-1] - _REACH, cuts[:-2]), order)
    high = np.minimum(np.maximum(cuts[1:-1] + _REACH, cuts[2:]), cuts[-1] - k + order)
    low, high = np.r_[0, low, cuts[-1]], np.r_[0, high, cuts[-1]]
    best = np.zeros(1)
    choices = []
    for j in range(1, k + 1):
        cost = _costs(weight, mean, (low[j - 1], high[j - 1]), (low[j], high[j]))
        cost += best
        choice = cost.argmin(axis=1)
        best = cost[np.arange(len(choice)), choice]
        choices.append(choice)
    found = np.empty_like(cuts)
    at = 0
    for j in range(k, 0, -1):
        found[j] = low[j] + at
        at = choices[j - 1][at]
    found[0] = 0
    return found, float(best[0])


def _costs(weight: Doubles, mean: Doubles, begin: tuple[int, int], end: tuple[int, int]) -> Doubles:
    """Cost of every run that begins in one range and ends in another (both inclusive), as (ends, begins).

    Sums are taken from the middle of the ranges alone, so that far away points take no precision away.
    """
    base = begin[0]
    w, x = weight[base : end[1]], mean[base : end[1]]
    x = x - x[len(x) // 2]
    n, s, q = np.zeros((3, len(w) + 1))
    np.cumsum(w, out=n[1:])
    np.cumsum(w * x, out=s[1:])
    np.cumsum(w * x * x, out=q[1:])
    first, last = slice(0, begin[1] - base + 1), slice(end[0] - base, end[1] - base + 1)
    count = np.subtract.outer(n[last], n[first])
    cost = np.subtract.outer(s[last], s[first])
    empty = count <= 0
    count[empty] = 1
    cost *= cost
    cost /= count
    np.subtract(np.subtract.outer(q[last], q[first]), cost, out=cost)
    np.maximum(cost, 0, out=cost)
    cost[empty] = np.inf
    return cost
