"""One tensor, lossless, by the shortest of a few codings.

raw      the bytes symbols  elements of up to one byte: a stream (2- and 4-bit elements unpacked) planes
wider elements: the exponent or the high byte apart from the rest, zeros costing only their frequency
palette  few distinct values: the values, then a stream of their numbers offset   integers within a span of
65,536: the smallest, then a stream of the distances from it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rarefy.errors import PackError
from rarefy.pack import planes, symbols
from rarefy.pack.ans import Decoder, Symbols
from rarefy.pack.bits import Reader, unzigzag, varint, zigzag
from rarefy.pack.symbols import Coded

RAW, PLANES, PALETTE, OFFSET = range(4)
SYMBOLS = 8  # and above: the mode of the stream is added
LARGEST_PALETTE = 4096
LARGEST_SPAN = 1 << 16
SAMPLE = 1 << 16  # elements looked at before all are sorted for a palette


@dataclass(frozen=True)
class Element:
    """What a tensor is made of: bits per word, words per element; unsigned, integer, float or bytes."""

    bits: int
    kind: str
    words: int = 1

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[npt.NBitBase]]:
        """The unsigned type of a word."""
        return np.dtype(f"<u{max(self.bits // 8, 1)}")


# by the numbers of onnx.TensorProto.DataType
ELEMENTS = {
    1: Element(32, "f"), 10: Element(16, "f"), 11: Element(64, "f"), 16: Element(16, "f"),
    2: Element(8, "b"), 3: Element(8, "b"), 9: Element(8, "b"),
    4: Element(16, "u"), 5: Element(16, "i"), 6: Element(32, "i"), 7: Element(64, "i"),
    12: Element(32, "u"), 13: Element(64, "u"),
    14: Element(32, "f", 2), 15: Element(64, "f", 2),
    17: Element(8, "b"), 18: Element(8, "b"), 19: Element(8, "b"), 20: Element(8, "b"), 24: Element(8, "b"),
    21: Element(4, "b"), 22: Element(4, "b"), 23: Element(4, "b"), 25: Element(2, "b"), 26: Element(2, "b"),
}  # fmt: skip


def size_in_bytes(element: Element, count: int) -> int:
    """Bytes of `count` elements; the last byte of 2- and 4-bit tensors may be partly empty."""
    return -(-count * element.bits * element.words // 8)


def word(coding: int, element: Element) -> str:
    """What a coding is called."""
    planes_of = "float" if element.kind == "f" else "planes"
    return {RAW: "raw", PLANES: planes_of, PALETTE: "palette", OFFSET: "offset"}.get(coding, "symbols")


def encode(data: bytes, element: Element, count: int, columns: int = 1) -> Coded:
    """The shortest coding of the `count` >= 1 elements in `data`; the first byte of its head says which.

    columns: how many elements share the first index, so that they are a matrix.
    """
    raw = Coded(bytes([RAW]) + data)
    if element.bits <= 8:
        found = _symbols(data, element, count, columns)
        return found if found is not None and found.size < len(data) + 1 else raw
    words = np.frombuffer(data, element.dtype)
    candidates = [raw, _marked(PLANES, planes.encode(words, element.kind))]
    columns *= element.words
    few = _offset(words, element.kind, columns) or _palette(words, columns)
    return min([*candidates, few] if few else candidates, key=lambda item: item.size)


def decode(reader: Reader, coder: Decoder, coding: int, element: Element, count: int) -> bytes | memoryview:
    """The bytes of `count` elements coded as `coding`."""
    if coding == RAW:
        return reader.take(size_in_bytes(element, count))
    if coding >= SYMBOLS and element.bits <= 8:
        array = symbols.decode(reader, coder, count, 1 << element.bits, coding - SYMBOLS)
        return _packed(array, element.bits)
    if element.bits <= 8:
        raise PackError(f"corrupted: a tensor of {element.bits}-bit elements cannot have the coding {coding}")
    count *= element.words
    if coding == PLANES:
        return planes.decode(reader, coder, count, element.dtype, element.kind).tobytes()
    if coding == PALETTE:
        size = reader.varint()
        if not 1 <= size <= min(LARGEST_PALETTE, count):
            raise PackError(f"corrupted: a palette of {size} values for {count} elements")
        values = np.frombuffer(reader.take(size * element.dtype.itemsize), element.dtype)
        return values[symbols.decode(reader, coder, count, size)].tobytes()
    if coding == OFFSET and element.kind in "iu":
        return _from_offset(reader, coder, count, element)
    raise PackError(f"corrupted: no tensor has the coding {coding}")


def _marked(coding: int, coded: Coded, between: bytes = b"") -> Coded:
    return Coded(bytes([coding]) + between + coded.head, coded.jobs)


def _symbols(data: bytes, element: Element, count: int, columns: int) -> Coded | None:
    array = _unpacked(np.frombuffer(data, np.uint8), element.bits, count)
    if element.bits < 8 and _packed(array, element.bits) != data:  # something in the unused bits
        return None
    coded = symbols.encode(array, 1 << element.bits, columns)
    return Coded(bytes([SYMBOLS + coded.head[0]]) + coded.head[1:], coded.jobs)


def _unpacked(data: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """One element a byte; the first is in the lowest bits."""
    if bits == 8:
        return data
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((data[:, None] >> shifts) & np.uint8((1 << bits) - 1)).ravel()[:count]


def _packed(array: Symbols, bits: int) -> bytes:
    """The inverse of `_unpacked`, with zeros in the unused bits."""
    if bits == 8:
        return array.tobytes()
    per_byte = 8 // bits
    padded = np.zeros(-(-len(array) // per_byte) * per_byte, np.uint8)
    padded[: len(array)] = array
    columns = padded.reshape(-1, per_byte)
    out = columns[:, 0].copy()
    for index in range(1, per_byte):
        out |= columns[:, index] << np.uint8(bits * index)
    return out.tobytes()


def _offset(words: planes.Words, kind: str, columns: int) -> Coded | None:
    """Distances from the smallest, where they are below 65,536; the histogram is then the exact one."""
    if kind not in "iu":
        return None
    values = words.view(f"<{kind}{words.itemsize}")
    low, high = int(values.min()), int(values.max())
    if high - low >= LARGEST_SPAN:
        return None
    limit = high - low + 1
    distances = (words - words.dtype.type(low & (1 << 8 * words.itemsize) - 1)).astype(symbols.width(limit))
    return _marked(OFFSET, symbols.encode(distances, limit, columns), varint(zigzag(low)) + varint(limit))


def _from_offset(reader: Reader, coder: Decoder, count: int, element: Element) -> bytes:
    low, limit = unzigzag(reader.varint()), reader.varint()
    if not 1 <= limit <= LARGEST_SPAN:
        raise PackError(f"corrupted: a span of {limit}; {LARGEST_SPAN} is the largest")
    distances = symbols.decode(reader, coder, count, limit).astype(element.dtype)
    return (distances + element.dtype.type(low & (1 << element.bits) - 1)).tobytes()


def _palette(words: planes.Words, columns: int) -> Coded | None:
    """The distinct values in order, then which of them each element is; only where there are few."""
    if len(words) > SAMPLE and len(np.unique(words[:: len(words) // SAMPLE])) > LARGEST_PALETTE:
        return None
    values, numbers = np.unique(words, return_inverse=True)
    if len(values) > min(LARGEST_PALETTE, len(words) // 2):
        return None
    coded = symbols.encode(numbers.astype(symbols.width(len(values))), len(values), columns)
    return _marked(PALETTE, coded, varint(len(values)) + values.tobytes())
