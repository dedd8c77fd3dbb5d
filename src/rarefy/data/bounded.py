"""Reading files that may lie about their size: nothing is allocated that the file cannot hold."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import DataError

MOST_BYTES = 4 << 30  # of one array, decompressed
_DEFLATE = 1032  # deflate never expands further: 258 bytes for 2 bits


class Reader(Protocol):
    """Anything with a `read` of bytes: a file, a gzip stream, a member of an archive."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


def check_size(declared: int, stored: int, *, compressed: bool, where: str) -> None:
    """Refuse a declared size in bytes that is absurd, or that `stored` bytes of file cannot expand to."""
    if declared > MOST_BYTES:
        raise DataError(f"{where}: declares {declared:,} bytes, more than the {MOST_BYTES:,} that are read")
    if declared > stored * (_DEFLATE if compressed else 1):
        raise DataError(f"{where}: declares {declared:,} bytes, which its {stored:,} bytes cannot hold")


def read_exactly(stream: Reader, count: int, where: str) -> NDArray[np.uint8]:
    """The next `count` bytes; fewer, or any more behind them, is a `DataError`."""
    data = np.empty(count, dtype=np.uint8)
    view, done = data.data, 0
    while done < count:
        piece = stream.read(min(count - done, 1 << 20))
        if not piece:
            raise DataError(f"{where}: cut short: expected {count:,} bytes of data, found {done:,}")
        view[done : done + len(piece)] = piece
        done += len(piece)
    if stream.read(1):
        raise DataError(f"{where}: expected {count:,} bytes of data, found more")
    return data
