"""One-dimensional k-means of millions of values: a codebook of k centroids and a label for each value.

The values are binned (`histogram`), the bins gathered into atoms, and the atoms cut at the optimum
(`partition`); Lloyd's steps on the bins then take back what the atoms were too coarse for. Beyond the
binning, time does not depend on the number of values.

The three starts of Han et al., "Deep Compression" (2016), section 3.2, are here too. The same steps
follow, but end where the start leads: on bell-shaped weights at k = 256 well above the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rarefy.errors import InputError
from rarefy.numerics.entropy_constrained import Constrained, constrained
from rarefy.numerics.histogram import BINS, Bins, Doubles, Floats, Histogram, chunks, fill, histogram, resolution
from rarefy.numerics.partition import Cuts, partition

Method = Literal["optimal", "linear", "density", "random"]
Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Clusters:
    """`centroids[labels]` stands for the values; `error` is the weighted sum of squares of what that changes.

    `centroids` is float32, of length k; `labels` is flat, uint8 up to k = 256 and uint16 above.
    """

    centroids: npt.NDArray[np.float32]
    labels: Labels
    error: float


def cluster(
    values: Floats,
    k: int,
    *,
    method: Method = "optimal",
    zero: bool = False,
    weights: Floats | None = None,
    rate: float = 0.0,
    iterations: int = 60,
    seed: int = 0,
) -> Clusters:
    """Cluster `values` (any shape, read flat) around k centroids so that the sum of squared errors is least.

    Centroids ascend, each the mean of its members. With fewer distinct values than k they are those
    values, and the last is repeated to make k. Other starts than `optimal` may leave centroids without
    members.

    Args:
        values: finite in float32; memory taken beside the labels is 2 bytes a value.
        k: from 1 to 65536.
        method: `optimal`, or how Lloyd's steps begin: `linear` between least and greatest value, `density` at
            equal steps of the cumulative distribution, `random` among the values.
        zero: pin the zeros: centroid 0 is exactly 0 and has the exact zeros as its only members; the other
            k - 1 ascend after it and are never exactly 0.
        weights: importance of each value, not negative; all zero counts as all equal.
        rate: what a bit of a label's entropy is worth, as a share of the values' (weighted) mean square; above 0 fewer
            than k centroids may be left, and the last is repeated (`entropy_constrained`).
        iterations: at most so many of Lloyd's steps.
        seed: of `random`.

    Raises:
        InputError: k or a value or weight is out of range.
    """
    flat = np.asarray(values).reshape(-1)
    importance = _checked(flat.size, k, weights)
    data = histogram(flat, importance, clusters=k, leave_out_zeros=zero)
    if zero and k == 1 and len(data.mean):
        raise InputError("expected k of at least 2 where zeros are pinned and other values exist; got k = 1")
    means, label_of_bin = _solve(data, k - zero, method, iterations, seed)
    found = Constrained(means, label_of_bin[None], None)
    if rate > 0 and len(means) > 1:
        found = constrained(flat, importance, data, means, rate, iterations)
    centroids = _codebook(found.centroids, k, zero)
    tables = np.zeros((len(found.labels), BINS), np.uint8 if k <= 256 else np.uint16)
    tables[:, data.occupied] = found.labels + zero
    labels = _looked_up(tables, data.bins, found.grade)
    return Clusters(centroids, labels, distortion(flat, centroids, labels, importance))


def _looked_up(tables: Labels, bins: Bins, grade: npt.NDArray[np.uint8] | None) -> Labels:
    labels = np.empty(bins.size, tables.dtype)
    for part in chunks(bins.size):
        if grade is None:
            np.take(tables[0], bins[part], out=labels[part], mode="clip")
        else:
            labels[part] = tables[grade[part], bins[part]]
    return labels


def distortion(values: Floats, centroids: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """Sum of ``weight * (value - centroids[label])^2``, in float64; every array read flat."""
    flat, flat_labels = np.asarray(values).reshape(-1), labels.reshape(-1)
    flat_weights = None if weights is None else np.asarray(weights).reshape(-1)
    total = 0.0
    for part in chunks(flat.size):
        square = np.subtract(flat[part], centroids.take(flat_labels[part], mode="clip"), dtype=np.float64)
        square *= square
        if flat_weights is not None:
            square *= flat_weights[part]
        total += float(square.sum())
    return total


def _checked(size: int, k: int, weights: Floats | None) -> Floats | None:
    """The weights flat, or none if they make no difference."""
    if not 1 <= k <= BINS:
        raise InputError(f"expected k from 1 to {BINS} clusters; got {k}")
    if weights is None or size == 0:
        return None
    flat = np.asarray(weights).reshape(-1)
    if flat.size != size:
        raise InputError(f"expected a weight for each of {size} values; got {flat.size} weights")
    least, greatest = flat.min(), flat.max()  # both are NaN if one weight is
    if not (least >= 0 and np.isfinite(greatest)):
        raise InputError(f"expected weights that are finite and not negative; got {least} to {greatest}")
    return flat if greatest > 0 else None


def _solve(data: Histogram, k: int, method: Method, iterations: int, seed: int) -> tuple[Doubles, Cuts]:
    """At most k centroids, ascending, and which of them each occupied bin belongs to."""
    if len(data.mean) <= k:
        return data.mean, np.arange(len(data.mean))
    heavy = data.weight > 0
    weight, mean = data.weight[heavy], data.mean[heavy]
    start = _start(weight, mean, min(k, len(mean)), method, seed)
    centroids, cuts = _lloyd(weight, mean, start, iterations)
    label = np.searchsorted(_between(centroids), data.mean)
    label[heavy] = np.repeat(np.arange(len(centroids)), np.diff(cuts))
    return centroids, label


def _start(weight: Doubles, mean: Doubles, k: int, method: Method, seed: int) -> Doubles:
    if method == "linear":
        return np.linspace(mean[0], mean[-1], k)
    if method == "density":
        below = np.cumsum(weight)
        middle: Cuts = np.searchsorted(below, below[-1] * (np.arange(k) + 0.5) / k)
        return mean[middle]
    if method == "random":
        chosen = np.random.default_rng(seed).choice(len(mean), k, replace=False, p=weight / weight.sum())
        return mean[np.sort(chosen)]
    first = _atoms(weight, mean, max(1024, 16 * k))
    mass = np.add.reduceat(weight, first)
    cuts = partition(mass, np.add.reduceat(weight * mean, first) / mass, k)
    return _means(weight, mean, np.append(first, len(mean))[cuts], np.empty(k))


def _atoms(weight: Doubles, mean: Doubles, atoms: int) -> Cuts:
    """Where each of about as many runs of bins begins, runs that deserve the same number of centroids."""
    if len(mean) <= atoms:
        return np.arange(len(mean))
    share = fill(resolution(weight, np.gradient(mean)), 1.0, atoms)
    atom = np.floor(np.cumsum(share) - share / 2)
    return np.flatnonzero(np.diff(atom, prepend=-1))


def _lloyd(weight: Doubles, mean: Doubles, centroids: Doubles, iterations: int) -> tuple[Doubles, Cuts]:
    """Each bin to the nearest centroid, each centroid to the mean of its bins, until nothing moves."""
    cuts = np.zeros(0, np.intp)
    for _ in range(max(iterations, 1)):
        last = cuts
        cuts = np.r_[0, np.searchsorted(mean, _between(centroids)), len(mean)]
        if np.array_equal(cuts, last):
            break
        centroids = _means(weight, mean, cuts, centroids)
    return centroids, cuts


def _between(centroids: Doubles) -> Doubles:
    return (centroids[1:] + centroids[:-1]) / 2


def _means(weight: Doubles, mean: Doubles, cuts: Cuts, empty: Doubles) -> Doubles:
    """Mean of each run of bins; of a run without bins the entry of `empty`."""
    filled = np.diff(cuts) > 0
    begin = cuts[:-1][filled]
    result = empty.copy()
    result[filled] = np.add.reduceat(weight * mean, begin) / np.add.reduceat(weight, begin)
    return result


def _codebook(means: Doubles, k: int, zero: bool) -> npt.NDArray[np.float32]:
    """The means behind the pinned zero, if any, the last repeated to make k."""
    rounded = means.astype(np.float32)
    if zero:  # a mean that is zero, or rounds to it, would read as pruned
        smallest = np.nextafter(np.float32(0), np.where(means < 0, -1, 1).astype(np.float32))
        rounded = np.r_[np.float32(0), np.where(rounded == 0, smallest, rounded)]
    if len(rounded) == 0:
        return np.zeros(k, np.float32)
    return np.pad(rounded, (0, k - len(rounded)), mode="edge")
