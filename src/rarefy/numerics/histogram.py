"""Millions of values as at most 2^16 small bins in ascending order, each with its weight and exact mean.

Read as integers, floats of one sign are already in order, 2^23 to an octave. A first pass counts values
by the upper 16 bits of that integer: 128 cells to an octave, so no magnitude is out of range. Then every
occupied cell is cut into equal bins, in proportion to ``(weight * width^2)^(1/3)``, the density of the
centroids of an optimal quantizer (Panter and Dite, 1951): wherever a clustering needs resolution the bins
are fine, whatever the shape of the data. All passes go in chunks: two bytes a value and a few megabytes
are all the memory they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rarefy.errors import InputError

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Bins = npt.NDArray[np.uint16]

BINS = 1 << 16
_CHUNK = 1 << 18
_SIGN = np.int32(-(1 << 31))
_MOST = 32  # bins for each value of a cell: enough to tell a few values apart
_ZEROS = BINS - 1  # where zeros go that must be alone; no layout uses it


@dataclass(frozen=True)
class Histogram:
    """`bins[i]` is the bin of value i; `occupied` are the bins in use, ascending, and the rest is about them.

    Zeros that were left out are in a bin that is not in `occupied`. A bin of no weight has its plain mean.
    """

    bins: Bins
    occupied: npt.NDArray[np.intp]
    weight: Doubles
    mean: Doubles


def histogram(
    values: Floats, weights: Floats | None = None, *, clusters: int, leave_out_zeros: bool = False
) -> Histogram:
    """Bin flat `values`, each counted with its weight; the order of the values makes no difference.

    Every distinct float32 has its own bin if there are at most 2^16 values, or at most `clusters` distinct.

    Raises:
        InputError: a value is not finite in float32.
    """
    if values.size <= BINS:
        return _tally(values, weights, _bins_of_levels(values, _levels(values)), leave_out_zeros)
    result = _tally(values, weights, _cut(values, weights, leave_out_zeros), leave_out_zeros)
    if len(result.occupied) <= clusters and not _pure(values, result):
        levels = _levels(values)
        if len(levels) <= BINS:
            return _tally(values, weights, _bins_of_levels(values, levels), leave_out_zeros)
    return result


def chunks(size: int) -> Iterator[slice]:
    """Consecutive slices over `size` values, short enough for temporaries to stay in the cache."""
    return (slice(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK))


def _float32(values: Floats) -> npt.NDArray[np.float32]:
    """A copy in float32, without negative zeros."""
    with np.errstate(over="ignore"):  # infinite is refused by the caller
        return np.add(values, 0.0, dtype=np.float32)


def _codes(values: Floats) -> npt.NDArray[np.uint32]:
    """Integers in the order of the values: sign bit flipped if positive, all bits if negative."""
    bits = _float32(values).view(np.int32)
    bits ^= (bits >> 31) | _SIGN
    return bits.view(np.uint32)


def _decode(codes: npt.NDArray[np.uint32]) -> Doubles:
    bits = codes.view(np.int32)
    floats: npt.NDArray[np.float32] = (bits ^ (~(bits >> 31) | _SIGN)).view(np.float32)
    return floats.astype(np.float64)


def _not_finite(values: Floats) -> InputError:
    bad = np.flatnonzero(~np.isfinite(_float32(values)))
    return InputError(
        f"expected values that are finite in float32; {len(bad)} of {values.size} are not, the first at "
        f"position {bad[0]} ({values[bad[0]]}): look for a diverged training run or a broken file"
    )


def _cut(values: Floats, weights: Floats | None, zeros_alone: bool) -> Bins:
    """The bin of each value."""
    start, parts = _layout(values, weights)
    bins = np.empty(values.size, np.uint16)
    for part in chunks(values.size):
        code = _codes(values[part])
        cell = (code >> 16).astype(np.intp)
        code &= 0xFFFF
        code *= parts.take(cell)  # below 2^32, for a cell has at most 2^16 parts
        code >>= 16
        code += start.take(cell)
        bins[part] = code
        if zeros_alone:
            np.copyto(bins[part], _ZEROS, where=values[part] == 0)
    return bins


def _layout(values: Floats, weights: Floats | None) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """For each of 2^16 cells its first bin and its number of bins."""
    count = np.zeros(BINS, np.int64)
    mass = count if weights is None else np.zeros(BINS)
    for part in chunks(values.size):
        cell = (_codes(values[part]) >> 16).astype(np.intp)
        count += np.bincount(cell, minlength=BINS)
        if weights is not None:
            mass += np.bincount(cell, weights[part], minlength=BINS)
    if count[:0x80].any() or count[0xFF80:].any():
        raise _not_finite(values)
    used = np.flatnonzero(count)  # finite cells are fewer than the bins
    first = used.astype(np.uint32) << np.uint32(16)
    width = _decode(first | np.uint32(0xFFFF)) - _decode(first)
    share = fill(resolution(mass[used], width), _MOST * count[used], BINS - 1 - len(used))
    parts = np.zeros(BINS, np.uint32)
    parts[used] = 1 + share.astype(np.uint32)
    return np.cumsum(parts, dtype=np.uint32) - parts, parts


def resolution(weight: npt.NDArray[np.number], width: Doubles) -> Doubles:
    """``(weight * width^2)^(1/3)``, to which an optimal quantizer's number of centroids is proportional."""
    return np.asarray(np.cbrt(weight) * np.cbrt(width) ** 2, np.float64)


def fill(share: Doubles, most: npt.NDArray[np.number] | float, total: float) -> Doubles:
    """Scale `share` to add up to `total` with no entry above `most`: what is cut off goes to the others."""
    scaled = share
    for _ in range(60):  # settles geometrically; a remainder is only resolution not used
        if (used := scaled.sum()) == 0:
            break
        scaled = np.minimum(scaled * (total / used), most)
        if scaled.sum() >= 0.99 * total:
            break
    return np.asarray(scaled * (total / max(scaled.sum(), total)), np.float64)


def _tally(values: Floats, weights: Floats | None, bins: Bins, leave_out_zeros: bool) -> Histogram:
    count, total = _sums(values, None, bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        weight = count
        if weights is not None:
            weight, total = _sums(values, weights, bins)
            mean = np.where(weight > 0, total / weight, mean)
    # Only zeros alone have the mean zero: a bin has one sign.
    occupied = np.flatnonzero((count > 0) & (mean != 0) if leave_out_zeros else count)
    return Histogram(bins, occupied, weight[occupied], mean[occupied])


def _sums(values: Floats, weights: Floats | None, bins: Bins) -> tuple[Doubles, Doubles]:
    """Per bin the sum of the weights, and of the values times the weights."""
    weight, total = np.zeros(BINS), np.zeros(BINS)
    for part in chunks(values.size):
        index, value = bins[part].astype(np.intp), values[part].astype(np.float64)
        if weights is None:
            weight += np.bincount(index, minlength=BINS)
        else:
            weight += np.bincount(index, weights[part], minlength=BINS)
            value *= weights[part]
        total += np.bincount(index, value, minlength=BINS)
    return weight, total


def _levels(values: Floats) -> npt.NDArray[np.float32]:
    """The distinct values ascending; gives up soon after the first 2^16."""
    levels = np.empty(0, np.float32)
    for part in chunks(values.size):
        levels = np.union1d(levels, _float32(values[part]))
        if len(levels) > BINS:
            break
    if not np.isfinite(levels).all():
        raise _not_finite(values)
    return levels


def _bins_of_levels(values: Floats, levels: npt.NDArray[np.float32]) -> Bins:
    bins = np.empty(values.size, np.uint16)
    for part in chunks(values.size):
        bins[part] = np.searchsorted(levels, _float32(values[part]))
    return bins


def _pure(values: Floats, result: Histogram) -> bool:
    """Whether all values of a bin are the same."""
    level = np.zeros(BINS, np.float32)
    level[result.occupied] = result.mean
    return all(np.array_equal(level[result.bins[part]], _float32(values[part])) for part in chunks(values.size))
