"""Whole numbers in few bytes, and a reader that cannot run past the end."""

from __future__ import annotations

from rarefy.errors import PackError

LONGEST_VARINT = 10  # bytes: 70 bits, enough for any 64-bit number


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on all bytes but the last. `value` >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ..."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


class Reader:
    """Reads `data` from front to back; asking for more than there is raises `PackError`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.position

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, without copying them."""
        if count > self.left:
            raise PackError(f"corrupted: {count} bytes are declared at byte {self.position}, {self.left} are left")
        self.position += count
        return self._data[self.position - count : self.position]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next LEB128 number."""
        value = 0
        for index in range(LONGEST_VARINT):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value
        raise PackError(f"corrupted: a number of more than {LONGEST_VARINT} bytes before byte {self.position}")
