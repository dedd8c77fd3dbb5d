"""Asymmetric numeral systems: streams of symbols under exact integer frequencies.

The coder is constriction's `AnsCoder` (Duda, 2013: 32-bit words, 64-bit state, 24-bit frequencies). Given
float64 weights that are whole numbers and sum to 2^24 - n, its `Categorical(perfect=False)` scales by
exactly 1.0 and gives symbol i the frequency weight_i + 1, with no rounding: so the format is stated in
integers and needs no floating point to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from rarefy.errors import PackError

_stream = constriction.stream  # type: ignore[attr-defined]  # compiled, without types

PRECISION = 24
TOTAL = 1 << PRECISION
CHUNK = 1 << 16  # symbols at a time: the coder wants int32, which then stay in the cache

Symbols = npt.NDArray[np.unsignedinteger[Any]]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """Symbols to be coded under `frequencies` (two or more, >= 1, sum 2^24), and the `bits` it takes."""

    symbols: Symbols
    frequencies: Counts
    bits: float


def cost(counts: Counts, frequencies: Counts) -> float:
    """Bits for symbols with the histogram `counts`."""
    return float(counts @ (PRECISION - np.log2(frequencies)))


def _model(frequencies: Counts, *, scan: bool = False) -> Any:
    weights = (frequencies - 1).astype(np.float64)
    return _stream.model.Categorical(weights, lazy=scan, perfect=False)


def _scannable(frequencies: Counts) -> bool:
    """Whether trying one symbol after the other is faster than a binary search (the results are the same)."""
    return bool(frequencies[0] > 0.9 * TOTAL and frequencies @ np.arange(len(frequencies)) < 12 * TOTAL)


class Encoder:
    """A stack: what is pushed last is popped first."""

    def __init__(self) -> None:
        self._coder = _stream.stack.AnsCoder()

    def push(self, jobs: Sequence[Job]) -> None:
        """Push `jobs` so that they are popped in the order given."""
        for item in reversed(jobs):
            model = _model(item.frequencies)
            for start in reversed(range(0, len(item.symbols), CHUNK)):
                self._coder.encode_reverse(item.symbols[start : start + CHUNK].astype(np.int32), model)

    def finish(self) -> bytes:
        """Little-endian words without the zero bytes at the end of the last one."""
        return bytes(self._coder.get_compressed().astype("<u4", copy=False).tobytes().rstrip(b"\0"))


class Decoder:
    """Pops what an `Encoder` pushed."""

    def __init__(self, data: bytes | memoryview) -> None:
        padded = bytes(data) + b"\0" * (-len(data) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        if len(data) and not data[-1]:
            raise PackError("corrupted: an ANS stream ends in a zero byte")
        self._coder = _stream.stack.AnsCoder(words)

    @property
    def bits(self) -> int:
        """Bits still in the coder."""
        return int(self._coder.num_valid_bits())

    def pop(self, count: int, frequencies: Counts, dtype: npt.DTypeLike) -> Symbols:
        """The next `count` symbols, as `dtype`."""
        out = np.empty(count, dtype)
        model = _model(frequencies, scan=_scannable(frequencies))
        for start in range(0, count, CHUNK):
            part = out[start : start + CHUNK]
            part[:] = self._coder.decode(model, len(part))
        return out

    def finish(self) -> None:
        """Raise `PackError` if anything is left: the symbols were then not those that were coded."""
        if not self._coder.is_empty():
            raise PackError("corrupted: an ANS stream holds more than its symbols")
