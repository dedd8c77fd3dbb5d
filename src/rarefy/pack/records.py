"""The tensors of a file, one record each, and the stream of symbols that the small ones share."""

from __future__ import annotations

import hashlib

from rarefy.errors import PackError
from rarefy.pack import tensors
from rarefy.pack.ans import Decoder, Encoder, Job
from rarefy.pack.bits import Reader, varint
from rarefy.pack.graph import Place, Taken

SHARED = 1 << 16  # elements up to which a tensor's symbols go into the shared stream
SAME = 4  # the coding of a tensor whose bytes are those of an earlier one


def encode(taken: list[Taken]) -> bytes:
    """The shared stream after its length, then the records."""
    records: list[bytes] = []
    shared: list[Job] = []
    known: dict[tuple[int, bytes], int] = {}
    for index, item in enumerate(taken):
        key = (item.proto.data_type, hashlib.blake2b(item.data).digest())
        if known.setdefault(key, index) < index:
            records.append(bytes([SAME]) + varint(index - known[key]))
            continue
        columns = item.count // item.proto.dims[0] if item.proto.dims else 1
        coded = tensors.encode(item.data, tensors.ELEMENTS[item.proto.data_type], item.count, columns)
        if item.count <= SHARED:
            shared += coded.jobs
            records.append(coded.head)
        else:
            records.append(coded.head[:1] + _stream(coded.jobs) + coded.head[1:])
    return _stream(shared) + b"".join(records)


def _stream(jobs: list[Job] | tuple[Job, ...]) -> bytes:
    coder = Encoder()
    coder.push(jobs)
    stream = coder.finish()
    return varint(len(stream)) + stream


class Records:
    """Reads record after record. A tensor costs its record and what it takes from the shared stream."""

    def __init__(self, reader: Reader, count: int) -> None:
        if count > reader.left:
            raise PackError(f"corrupted: {count} tensors are declared in {reader.left} bytes")
        self._reader = reader
        self._shared = Decoder(reader.take(reader.varint()))
        self._bits, self._given = self._shared.bits, 0
        self._done: list[tuple[int, bytes, str]] = []

    def next(self, place: Place) -> tuple[bytes, str, int]:
        """The data of the tensor at `place`, its coding in a word, and its bytes in the file."""
        start = self._reader.position
        coding = self._reader.byte()
        if coding == SAME:
            data, word = self._earlier(place)
        else:
            element = tensors.ELEMENTS[place.proto.data_type]
            data, word = self._own(place, element, coding), tensors.word(coding, element)
        self._done.append((place.proto.data_type, data, place.proto.name))
        return data, word, self._reader.position - start + self._share()

    def _own(self, place: Place, element: tensors.Element, coding: int) -> bytes:
        if place.count <= SHARED:
            return bytes(tensors.decode(self._reader, self._shared, coding, element, place.count))
        coder = Decoder(self._reader.take(self._reader.varint()))
        data = bytes(tensors.decode(self._reader, coder, coding, element, place.count))
        coder.finish()
        return data

    def _earlier(self, place: Place) -> tuple[bytes, str]:
        back = self._reader.varint()
        if not 1 <= back <= len(self._done):
            raise PackError(f"corrupted: a tensor is the same as the one {back} before it, which there is not")
        data_type, data, name = self._done[-back]
        if data_type != place.proto.data_type or len(data) != place.size:
            raise PackError(f"corrupted: a tensor of {place.size} bytes is the same as one of {len(data)}")
        return data, f"same as {name}"

    def _share(self) -> int:
        """The whole bytes taken out of the shared stream since the last call."""
        before, self._given = self._given, (self._bits - self._shared.bits) // 8
        return self._given - before

    def finish(self) -> None:
        """Raise `PackError` if anything is left."""
        self._shared.finish()
        if self._reader.left:
            raise PackError(f"corrupted: {self._reader.left} bytes after the last tensor")
