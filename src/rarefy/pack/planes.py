"""Elements of several bytes as planes of one byte, the most predictable first.

Floats are rotated left by one bit, so that the exponent comes first and the sign last; +0.0 is then the
number 0. Integers are zigzagged: small magnitudes have zeros on top. The first plane (two bytes of 64-bit
elements, one of all others) is stored as the distance from its smallest value, plus one; its symbol 0 says
"the whole element is zero", and such elements are in no other plane.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rarefy.errors import PackError
from rarefy.pack import symbols
from rarefy.pack.ans import Decoder
from rarefy.pack.bits import Reader, varint
from rarefy.pack.symbols import Coded

Words = npt.NDArray[np.unsignedinteger[npt.NBitBase]]
Unsigned = np.dtype[np.unsignedinteger[npt.NBitBase]]


def first_bytes(dtype: Unsigned) -> int:
    """The bytes of the first plane: a float64's exponent needs two."""
    return 2 if dtype.itemsize == 8 else 1


def mixed(words: Words, kind: str) -> Words:
    """Rotate floats ("f"), zigzag integers ("i"), leave unsigned ("u") as they are."""
    top = words.dtype.type(8 * words.itemsize - 1)
    one = words.dtype.type(1)
    if kind == "f":
        return (words << one) | (words >> top)
    return (words << one) ^ (words >> top) * ~words.dtype.type(0) if kind == "i" else words


def unmixed(words: Words, kind: str) -> Words:
    """The inverse of `mixed`."""
    top = words.dtype.type(8 * words.itemsize - 1)
    one = words.dtype.type(1)
    if kind == "f":
        return (words >> one) | (words << top)
    return (words >> one) ^ (words & one) * ~words.dtype.type(0) if kind == "i" else words


def _limit(dtype: Unsigned, low: int) -> int:
    """One more than the largest symbol of the first plane."""
    return (1 << 8 * first_bytes(dtype)) - low + 1


def encode(words: Words, kind: str) -> Coded:
    """All planes of `words`, one stream each."""
    words = mixed(words, kind)
    shift = 8 * (words.itemsize - first_bytes(words.dtype))
    some = words != 0
    top = (words >> words.dtype.type(shift)).astype(np.uint32)
    low = int(top[some].min()) if some.any() else 0
    top = np.where(some, top - np.uint32(low) + 1, 0)
    limit = _limit(words.dtype, low)
    parts = [symbols.encode(top.astype(symbols.width(limit)), limit)]
    rest = np.ascontiguousarray(words[some]).view(np.uint8).reshape(-1, words.itemsize)  # little-endian
    if len(rest):
        parts += [symbols.encode(np.ascontiguousarray(rest[:, i]), 256) for i in reversed(range(shift // 8))]
    head = varint(low) + b"".join(part.head for part in parts)
    return Coded(head, tuple(job for part in parts for job in part.jobs))


def decode(reader: Reader, coder: Decoder, count: int, dtype: Unsigned, kind: str) -> Words:
    """`count` elements of the unsigned `dtype`, one or more."""
    out = np.zeros(count, dtype)
    shift = 8 * (dtype.itemsize - first_bytes(dtype))
    low = reader.varint()
    if low >> 8 * first_bytes(dtype):
        raise PackError(f"corrupted: a first plane that begins at {low}")
    top = symbols.decode(reader, coder, count, _limit(dtype, low))
    some = top != 0
    rest = np.zeros((int(np.count_nonzero(some)), dtype.itemsize), np.uint8)
    if len(rest):
        for i in reversed(range(shift // 8)):
            rest[:, i] = symbols.decode(reader, coder, len(rest), 256)
    high = (top[some].astype(dtype) + dtype.type(low) - dtype.type(1)) << dtype.type(shift)
    out[some] = rest.view(dtype).ravel() | high
    return unmixed(out, kind)
