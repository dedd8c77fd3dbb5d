"""A stream of symbols: raw bytes, one value, equal frequencies, or a fitted table; whichever is shortest."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from rarefy.errors import PackError
from rarefy.pack.ans import CHUNK, Counts, Decoder, Job, Symbols, cost
from rarefy.pack.bits import Reader, varint
from rarefy.pack.tables import OCTAVES, SHAPES, fit, law, level_frequencies, uniform, zigzagged

RAW, ONE, EQUAL, TABLE = range(4)  # the modes; TABLE + i has 2^i levels per octave
SHORTEST_TABLE = 16  # bits
STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Coded:
    """What goes into the file: `head` as it is, `jobs` into an ANS coder."""

    head: bytes
    jobs: tuple[Job, ...] = ()

    @property
    def size(self) -> float:
        """Bytes, to within the few bits that a stream is rounded up by."""
        return len(self.head) + sum(item.bits for item in self.jobs) / 8


def width(limit: int) -> np.dtype[np.unsignedinteger[np.typing.NBitBase]]:
    """The smallest unsigned type for symbols below `limit`, little-endian."""
    return np.dtype("<u1" if limit <= 1 << 8 else "<u2" if limit <= 1 << 16 else "<u4")


def histogram(symbols: Symbols) -> Counts:
    """How often each symbol occurs, up to the largest that does."""
    counts: Counts = np.zeros(1, np.int64)
    for start in range(0, len(symbols), 8 * CHUNK):
        chunk = symbols[start : start + 8 * CHUNK]
        part = _bytes_histogram(chunk) if chunk.itemsize == 1 else np.bincount(chunk)
        longer, shorter = (counts, part) if len(counts) >= len(part) else (part, counts)
        longer[: len(shorter)] += shorter
        counts = longer
    return counts[: int(np.flatnonzero(counts)[-1]) + 1]


def _bytes_histogram(symbols: Symbols) -> Counts:
    """Two symbols at a time: bincount widens every item to 64 bits, so halving the items halves the time."""
    even = len(symbols) // 2 * 2
    pairs: Counts = np.bincount(np.ascontiguousarray(symbols[:even]).view("<u2"), minlength=1 << 16)
    counts: Counts = pairs.reshape(256, 256).sum(0) + pairs.reshape(256, 256).sum(1)
    if even < len(symbols):
        counts[symbols[-1]] += 1
    return counts


def encode(symbols: Symbols, limit: int) -> Coded:
    """The shortest stream for `symbols`, all below `limit`; at least one symbol."""
    counts = histogram(symbols)
    if np.count_nonzero(counts) == 1:
        return Coded(bytes([ONE]) + varint(len(counts) - 1))
    best = _equal(symbols, counts)
    if _uneven(counts):
        best = min(best, _tabled(symbols, counts), key=lambda item: item.size)
    if 1 + symbols.size * width(limit).itemsize <= best.size:
        return Coded(bytes([RAW]) + symbols.astype(width(limit)).tobytes())
    return best


def _uneven(counts: Counts) -> bool:
    """Whether a table can pay: Pearson's statistic above its expectation is 1.4 times the bits to be won."""
    expected = float(counts.sum()) / len(counts)
    excess = float(((counts - expected) ** 2).sum() / expected) - len(counts)
    return excess / (2 * log(2)) > SHORTEST_TABLE


def _equal(symbols: Symbols, counts: Counts) -> Coded:
    frequencies = uniform(len(counts))
    job = Job(symbols, frequencies, cost(counts, frequencies))
    return Coded(bytes([EQUAL]) + varint(len(counts)), (job,))


def _finenesses(counts: Counts) -> tuple[int, ...]:
    """Three from the one that theory expects: a rounded level loses 0.03 / steps^2 bits a symbol."""
    expected = np.sqrt(0.06 * (counts.sum() - counts.max()) / np.count_nonzero(counts))
    index = int(np.clip(np.log2(expected), 0, len(STEPS) - 2))
    return STEPS[index : index + 3]


def _tabled(symbols: Symbols, counts: Counts) -> Coded:
    table = fit(counts, _finenesses(counts))
    top = OCTAVES * table.steps + 1
    z = zigzagged(np.diff(table.levels)).astype(np.uint32)
    differences = Job(z, law(*divmod(table.law, SHAPES), table.steps), table.bits - np.log2(top))
    first = Job(table.levels[:1].astype(np.uint32), uniform(top), float(np.log2(top)))
    frequencies = level_frequencies(table.levels, table.steps)
    coded = Job(symbols, frequencies, cost(counts, frequencies))
    head = bytes([TABLE + STEPS.index(table.steps)]) + varint(len(counts)) + bytes([table.law])
    return Coded(head, (first, differences, coded))


def decode(reader: Reader, coder: Decoder, count: int, limit: int, mode: int | None = None) -> Symbols:
    """`count` symbols, all below `limit`; `mode` where it has been read already."""
    mode, dtype = reader.byte() if mode is None else mode, width(limit)
    if mode == RAW:
        symbols = np.frombuffer(reader.take(count * dtype.itemsize), dtype)
        if len(symbols) and int(symbols.max()) >= limit:
            raise PackError(f"corrupted: a symbol of {symbols.max()} where {limit - 1} is the largest")
        return symbols
    if mode >= TABLE + len(STEPS):
        raise PackError(f"corrupted: no stream has the mode {mode}")
    size = reader.varint()
    if mode == ONE:
        if size >= limit:
            raise PackError(f"corrupted: a symbol of {size} where {limit - 1} is the largest")
        return np.full(count, size, dtype)
    if not 2 <= size <= limit:
        raise PackError(f"corrupted: an alphabet of {size} symbols; between 2 and {limit} are possible")
    if mode == EQUAL:
        return coder.pop(count, uniform(size), dtype)
    return coder.pop(count, _read_table(reader, coder, size, STEPS[mode - TABLE]), dtype)


def _read_table(reader: Reader, coder: Decoder, size: int, steps: int) -> Counts:
    number, top = reader.byte(), OCTAVES * steps
    change, shape = divmod(number, SHAPES)
    if change >= 16:
        raise PackError(f"corrupted: no law of differences has the number {number}")
    first = coder.pop(1, uniform(top + 1), np.int64)
    z = coder.pop(size - 1, law(change, shape, steps), np.int64)
    levels = np.cumsum(np.concatenate([first, np.where(z & 1, -(z + 1) // 2, z // 2)]))
    if levels.min() < 0 or levels.max() > top:
        raise PackError(f"corrupted: a level outside 0 to {top} in a table of {size} symbols")
    return level_frequencies(levels, steps)
