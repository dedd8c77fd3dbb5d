"""A stream of symbols: raw bytes, one value, equal frequencies, or a fitted table; whichever is shortest.

A long stream of few symbols is better seen as one of pairs: the coder takes as long for a pair as for a symbol,
and their frequencies know how neighbours depend on each other. A matrix whose rows or columns spread differently is
better seen as several streams, one for each class of rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from rarefy.errors import PackError
from rarefy.pack.ans import CHUNK, Counts, Decoder, Job, Symbols, cost
from rarefy.pack.bits import Reader, varint
from rarefy.pack.contexts import LEVELS, SMALLEST, Classes, classes
from rarefy.pack.tables import LAWS, OCTAVES, fit, law, level_frequencies, uniform, zigzagged

RAW, ONE, EQUAL, PAIRS, TABLE = range(5)  # the modes; TABLE + 32 i + j has 2^i levels per octave and the law j
SHORTEST_TABLE = 16  # bits
STEPS = (1, 2, 4, 8, 16)
CLASSES = TABLE + LAWS * len(STEPS)  # the mode of a matrix in classes
PAIRED = 1 << 20  # symbols from which on pairs are tried: speed matters, and the larger table does not
LARGEST_PAIRED = 16  # symbols of an alphabet whose pairs fit into a byte
WORTH = 1 + 2**-10  # how much longer a stream of pairs may be, since it takes half the time
BLOCK = 1 << 17  # symbols whose widened copy stays in the cache


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
    if symbols.itemsize == 1:
        counts = _bytes_histogram(symbols)
        return counts[: int(np.flatnonzero(counts)[-1]) + 1]
    counts = np.zeros(int(symbols.max()) + 1, np.int64)
    for start in range(0, len(symbols), CHUNK):
        part = np.bincount(symbols[start : start + CHUNK])
        counts[: len(part)] += part
    return counts


def _bytes_histogram(symbols: Symbols) -> Counts:
    """Two symbols at a time: bincount widens every item to 64 bits, so halving the items halves the time."""
    even = len(symbols) // 2 * 2
    pairs: Counts = np.zeros(1 << 16, np.int64)
    for start in range(0, even, BLOCK):
        pairs += np.bincount(symbols[start : min(start + BLOCK, even)].view("<u2"), minlength=1 << 16)
    counts: Counts = pairs.reshape(256, 256).sum(0) + pairs.reshape(256, 256).sum(1)
    counts[symbols[even:]] += 1
    return counts


def encode(symbols: Symbols, limit: int, columns: int = 1) -> Coded:
    """The shortest stream for `symbols`, all below `limit`; at least one symbol. columns: of the matrix they are."""
    coded, counts = _encoded(np.ascontiguousarray(symbols), limit)
    if columns < 2 or len(symbols) < SMALLEST or np.count_nonzero(counts) == 1:
        return coded
    matrix = symbols.reshape(-1, columns)
    found = classes(matrix, counts)
    return min(coded, _classed(matrix, found, limit), key=lambda item: item.size) if found else coded


def _classed(matrix: Symbols, found: Classes, limit: int) -> Coded:
    inner = [encode(levels, LEVELS) for levels in (found.rows, found.columns)]
    inner += [encode(part, limit) for part in found.split(matrix)]
    head = bytes([CLASSES]) + varint(matrix.shape[1]) + b"".join(part.head for part in inner)
    return Coded(head, tuple(job for part in inner for job in part.jobs))


def _encoded(symbols: Symbols, limit: int) -> tuple[Coded, Counts]:
    """The stream, and the histogram."""
    size = int(symbols.max()) + 1
    if len(symbols) < PAIRED or limit > 256 or not 2 <= size <= LARGEST_PAIRED:
        counts = histogram(symbols)
        return _single(symbols, counts, limit), counts
    inner, joint = _encoded(_paired(symbols, size), size * size)
    square = np.pad(joint, (0, size * size - len(joint))).reshape(size, size)  # (second, first)
    counts = square.sum(0) + square.sum(1)
    counts[0] -= len(symbols) % 2
    pairs = Coded(bytes([PAIRS]) + varint(size) + inner.head, inner.jobs)
    single = _single(symbols, counts, limit)
    return (pairs if pairs.size <= WORTH * single.size else single), counts


def _paired(symbols: Symbols, size: int) -> Symbols:
    """first + size * second; a zero is added to the last one of an odd number."""
    pairs = np.pad(symbols, (0, 1)).view("<u2") if len(symbols) % 2 else symbols.view("<u2")
    joint = np.empty(len(pairs), np.uint8)
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        joint[start : start + CHUNK] = (part & np.uint16(255)) + (part >> np.uint16(8)) * np.uint16(size)
    return joint


def _unpaired(pairs: Symbols, size: int, count: int) -> Symbols:
    numbers = np.arange(size * size, dtype="<u2")
    both = numbers % size | numbers // size << 8
    found = np.empty(len(pairs), "<u2")
    for start in range(0, len(pairs), CHUNK):
        found[start : start + CHUNK] = both[pairs[start : start + CHUNK]]
    return found.view(np.uint8)[:count]


def _single(symbols: Symbols, counts: Counts, limit: int) -> Coded:
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
    differences = Job(z, law(table.law, table.steps), table.bits - np.log2(top))
    first = Job(table.levels[:1].astype(np.uint32), uniform(top), float(np.log2(top)))
    frequencies = level_frequencies(table.levels, table.steps)
    coded = Job(symbols, frequencies, cost(counts, frequencies))
    mode = TABLE + LAWS * STEPS.index(table.steps) + table.law
    return Coded(bytes([mode]) + varint(len(counts)), (first, differences, coded))


def decode(reader: Reader, coder: Decoder, count: int, limit: int, mode: int | None = None) -> Symbols:
    """`count` symbols, all below `limit`; `mode` where it has been read already."""
    mode, dtype = reader.byte() if mode is None else mode, width(limit)
    if mode == RAW:
        symbols = np.frombuffer(reader.take(count * dtype.itemsize), dtype)
        if len(symbols) and int(symbols.max()) >= limit:
            raise PackError(f"corrupted: a symbol of {symbols.max()} where {limit - 1} is the largest")
        return symbols
    if mode > CLASSES:
        raise PackError(f"corrupted: no stream has the mode {mode}")
    size = reader.varint()
    if mode == CLASSES:
        return _of_classes(reader, coder, count, size, limit)
    if mode == ONE:
        if size >= limit:
            raise PackError(f"corrupted: a symbol of {size} where {limit - 1} is the largest")
        return np.full(count, size, dtype)
    if not 2 <= size <= limit:
        raise PackError(f"corrupted: an alphabet of {size} symbols; between 2 and {limit} are possible")
    if mode == EQUAL:
        return coder.pop(count, uniform(size), dtype)
    if mode == PAIRS:
        return _pairs(reader, coder, count, size, limit)
    return coder.pop(count, _read_table(coder, size, *divmod(mode - TABLE, LAWS)), dtype)


def _pairs(reader: Reader, coder: Decoder, count: int, size: int, limit: int) -> Symbols:
    if size > LARGEST_PAIRED or limit > 256 or count < 2:
        raise PackError(f"corrupted: pairs of {size} symbols in a stream of {count} below {limit}")
    return _unpaired(_plain(reader, coder, -(-count // 2), size * size), size, count)


def _of_classes(reader: Reader, coder: Decoder, count: int, columns: int, limit: int) -> Symbols:
    if not 2 <= columns <= count or count % columns:
        raise PackError(f"corrupted: {count} symbols in {columns} columns")
    rows, across = (_plain(reader, coder, size, LEVELS) for size in (count // columns, columns))
    found = Classes(rows, across)
    return found.joined([_plain(reader, coder, size, limit) for size in found.sizes()])


def _plain(reader: Reader, coder: Decoder, count: int, limit: int) -> Symbols:
    """A stream inside one of classes, which cannot be one itself."""
    mode = reader.byte()
    if mode == CLASSES:
        raise PackError("corrupted: classes inside classes")
    return decode(reader, coder, count, limit, mode)


def _read_table(coder: Decoder, size: int, fineness: int, number: int) -> Counts:
    steps = STEPS[fineness]
    top = OCTAVES * steps
    first = coder.pop(1, uniform(top + 1), np.uint32).astype(np.int64)
    z = coder.pop(size - 1, law(number, steps), np.uint32).astype(np.int64)
    levels = np.cumsum(np.concatenate([first, np.where(z & 1, -(z + 1) // 2, z // 2)]))
    if levels.min() < 0 or levels.max() > top:
        raise PackError(f"corrupted: a level outside 0 to {top} in a table of {size} symbols")
    return level_frequencies(levels, steps)
