"""Asymmetric numeral systems: streams of symbols under exact integer frequencies.

The coder is constriction's `AnsCoder` (Duda, 2013: 32-bit words, 64-bit state, 24-bit frequencies), or where it was
compiled, `rarefy.kernels.ans`, which gives the same bits sooner. Given float64 weights that are whole numbers and sum
to 2^24 - n, constriction's `Categorical(perfect=False)` scales by exactly 1.0 and gives symbol i the frequency
weight_i + 1, with no rounding: so the format is stated in integers and needs no floating point to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import constriction
import numpy as np
import numpy.typing as npt

from rarefy.errors import PackError
from rarefy.kernels.ans import Stack, Words

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


class _Coder(Protocol):
    """What both coders do; `Stack` says it in words."""

    @property
    def bits(self) -> int: ...

    @property
    def words(self) -> Words: ...

    def push(self, symbols: Symbols, bounds: Words) -> None: ...

    def pop(self, out: Symbols, bounds: Words) -> None: ...


class Portable:
    """The coder where nothing was compiled."""

    def __init__(self, words: Words) -> None:
        self._coder = _stream.stack.AnsCoder(words)

    @property
    def bits(self) -> int:
        """Bits on the stack."""
        return int(self._coder.num_valid_bits())

    @property
    def words(self) -> Words:
        """The stack as words of 32 bits, the last not 0."""
        words: Words = self._coder.get_compressed()
        return words

    def push(self, symbols: Symbols, bounds: Words) -> None:
        """Push `symbols`, the last first."""
        model = _model(np.diff(bounds))
        for start in reversed(range(0, len(symbols), CHUNK)):
            self._coder.encode_reverse(symbols[start : start + CHUNK].astype(np.int32), model)

    def pop(self, out: Symbols, bounds: Words) -> None:
        """Fill `out` with the symbols on top."""
        model = _model(np.diff(bounds), scannable=True)
        for start in range(0, len(out), CHUNK):
            part = out[start : start + CHUNK]
            part[:] = self._coder.decode(model, len(part))


def _model(frequencies: Words, *, scannable: bool = False) -> Any:
    """Trying one symbol after the other is faster than a binary search where the first are the most (same results)."""
    mean = float(frequencies @ np.arange(len(frequencies), dtype=np.float64)) / TOTAL
    scan = scannable and frequencies[0] > 0.9 * TOTAL and mean < 12
    weights = frequencies.astype(np.float64) - 1
    return _stream.model.Categorical(weights, lazy=scan, perfect=False)


def _stack(words: Words) -> _Coder:
    return Stack.make(words) or Portable(words)


def _bounds(frequencies: Counts) -> Words:
    return np.concatenate([[0], np.cumsum(frequencies)]).astype(np.uint32)


class Encoder:
    """A stack: what is pushed last is popped first."""

    def __init__(self) -> None:
        self._coder = _stack(np.empty(0, np.uint32))

    def push(self, jobs: Sequence[Job]) -> None:
        """Push `jobs` so that they are popped in the order given."""
        for item in reversed(jobs):
            self._coder.push(item.symbols, _bounds(item.frequencies))

    def finish(self) -> bytes:
        """Little-endian words without the zero bytes at the end of the last one."""
        return bytes(self._coder.words.astype("<u4", copy=False).tobytes().rstrip(b"\0"))


class Decoder:
    """Pops what an `Encoder` pushed."""

    def __init__(self, data: bytes | memoryview) -> None:
        padded = bytes(data) + b"\0" * (-len(data) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        if len(data) and not data[-1]:
            raise PackError("corrupted: an ANS stream ends in a zero byte")
        self._coder = _stack(words)

    @property
    def bits(self) -> int:
        """Bits still in the coder."""
        return self._coder.bits

    def pop(self, count: int, frequencies: Counts, dtype: npt.DTypeLike) -> Symbols:
        """The next `count` symbols, as `dtype`, an unsigned type that all of them fit in."""
        out = np.empty(count, dtype)
        self._coder.pop(out, _bounds(frequencies))
        return out

    def finish(self) -> None:
        """Raise `PackError` if anything is left: the symbols were then not those that were coded."""
        if len(self._coder.words):
            raise PackError("corrupted: an ANS stream holds more than its symbols")
