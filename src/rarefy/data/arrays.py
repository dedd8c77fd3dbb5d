"""Arrays of unknown layout and type made into (N, C, H, W) uint8 and int64 labels, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import DataError

_CHANNELS = (1, 3, 4)
_MOST_CLASSES = 100_000
_TOLERANCE = 1e-3  # of one grey level
_CHUNK = 1 << 20


def channels_first(array: NDArray[Any], where: str) -> NDArray[Any]:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels -> (N, C, H, W)."""
    if 0 in array.shape:
        raise DataError(f"{where}: holds no image: its shape is {array.shape}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"{where}: expected images (N, H, W), (N, H, W, C) or (N, C, H, W), found {array.shape}")
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    if first == last:
        why = "both the second and the last" if first else "neither the second nor the last"
        raise DataError(
            f"{where}: which axis of {array.shape} holds the channels cannot be told: {why} "
            "could be 1, 3 or 4 channels; give (N, C, H, W) or (N, H, W, C) that is clear"
        )
    return array if first else array.transpose(0, 3, 1, 2)


def grey_levels(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """The same values as uint8: integers of 0 to 255, or floats of 0 to 1 if every one is some k / 255."""
    if array.dtype == np.uint8:
        return array
    out = np.empty(array.shape, dtype=np.uint8)
    values, flat = array.reshape(-1), out.reshape(-1)
    for start in range(0, values.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        flat[chunk] = _as_levels(values[chunk], where)
    return out


def labels_of(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    """(N,) or (N, 1) of any integer type -> (N,) int64, each of 0 to 99,999."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise DataError(f"{where}: expected labels (N,) of whole numbers, found {array.dtype} {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= _MOST_CLASSES):
        raise DataError(f"{where}: labels must be 0 to {_MOST_CLASSES - 1}, found {array.min()} to {array.max()}")
    return array.astype(np.int64)


def numbered_classes(*labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names "0", "1", ... up to the largest label of all the arrays."""
    largest = max((int(part.max()) for part in labels if part.size), default=0)
    return tuple(map(str, range(largest + 1)))


def _as_levels(values: NDArray[Any], where: str) -> NDArray[Any]:
    if values.dtype.kind in "ui":
        if values.min() < 0 or values.max() > 255:
            raise DataError(f"{where}: pixels must be 0 to 255, found {values.min()} to {values.max()}")
        return values
    if values.dtype.kind != "f":
        raise DataError(f"{where}: pixels must be uint8 (0 to 255), not {values.dtype}")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(
            f"{where}: {values.dtype} pixels must lie in 0 to 1, found {values.min()} to {values.max()}; "
            "undo any normalisation, or give uint8 of 0 to 255"
        )
    scaled = values.astype(np.float64) * 255
    levels = np.rint(scaled)
    if np.abs(scaled - levels).max() > _TOLERANCE:
        raise DataError(
            f"{where}: {values.dtype} pixels that are not whole grey levels k/255 would lose precision; "
            "give uint8 of 0 to 255 (np.rint(255 * x).astype(np.uint8))"
        )
    return levels
