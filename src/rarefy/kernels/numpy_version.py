"""The kernels in NumPy: slower, and bit for bit the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from rarefy.kernels.bits import pack_signs, unpack_bits
from rarefy.kernels.convolution import Convolution

Array = npt.NDArray[Any]
EXACT = 2**24  # float32 holds every integer up to here


class Filters:
    """Filters as floats; see `rarefy.kernels.Filters`."""

    def __init__(self, bits: Array, shape: tuple[int, ...]) -> None:
        self.shape = (*shape, 1, 1)[:4]
        self.weight = unpack_bits(bits, self.shape)

    def run(
        self, x: Array, threshold: Array | None, scale: Array, bias: Array, how: Convolution, *, packed: bool
    ) -> Array:
        """The result [batch, filters, height, width], or its signs."""
        values = (
            _unpacked(x, self.shape[1]) if x.dtype == np.uint32 else x.reshape(*x.shape[:2], *x.shape[2:] or (1, 1))
        )
        y = self._sums(_activations(values, threshold, how), how).astype(np.float32) * scale[:, None, None]
        if how.map:
            y *= self._map(values, how)[:, None]
        y += bias[:, None, None]
        return pack_signs(y) if packed else y

    def _sums(self, activations: Array, how: Convolution) -> Array:
        """sum(weight * activation): exact, since every partial sum is an integer that the type holds."""
        exact = np.float32 if self.weight[0].size * (2**how.bits) < EXACT else np.float64
        windows = _windows(activations.astype(exact), self.shape, how, how.pad_value)
        batch, _, height, width = windows.shape[:4]
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch, height * width, self.weight[0].size)
        sums = columns @ self.weight.reshape(self.shape[0], -1).astype(exact).T
        by_filter: Array = sums.transpose(0, 2, 1)
        return by_filter.reshape(batch, self.shape[0], height, width)

    def _map(self, x: Array, how: Convolution) -> Array:
        """Mean |x| under the filter, added in the order of the compiled kernels: channels, then rows and columns."""
        sums = np.zeros((x.shape[0], 1, *x.shape[2:]), np.float32)
        for channel in range(x.shape[1]):
            sums[:, 0] += np.abs(x[:, channel])
        windows = _windows(sums, self.shape, how, 0)[:, 0]
        total = np.zeros(windows.shape[:3], np.float32)
        for row, column in np.ndindex(*self.shape[2:]):
            total += windows[..., row, column]
        return total * (np.float32(1) / np.float32(self.weight[0].size))


def _unpacked(words: Array, channels: int) -> Array:
    """Packed signs [batch, ..., words] as [batch, channels, height, width]."""
    if words.ndim == 2:
        words = words[:, None, None]
    flat = np.unpackbits(words.astype("<u4").view(np.uint8), axis=-1, bitorder="little", count=channels)
    return np.moveaxis(flat.astype(np.float32) * 2 - 1, -1, 1)


def _activations(x: Array, threshold: Array | None, how: Convolution) -> Array:
    if not how.bits:
        return np.where(x >= (0 if threshold is None else threshold[:, None, None]), np.float32(1), np.float32(-1))
    with np.errstate(over="ignore"):
        levels = np.rint(np.clip(x * np.float32(how.steps), 0, 2**how.bits - 1))
    return np.nan_to_num(levels, nan=0.0)


def _windows(x: Array, shape: tuple[int, ...], how: Convolution, value: float) -> Array:
    """[batch, channels, out height, out width, filter height, filter width], without copying."""
    top, left, bottom, right = how.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
    (dh, dw), (sh, sw) = how.dilation, how.stride
    spans = ((shape[2] - 1) * dh + 1, (shape[3] - 1) * dw + 1)
    return sliding_window_view(padded, spans, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
