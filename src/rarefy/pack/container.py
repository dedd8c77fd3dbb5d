"""The outside of a `.rfy` file.

"RFY"   version   length of the file   body   checksum
"""

from __future__ import annotations

import hashlib

from rarefy.errors import PackError
from rarefy.pack.bits import LONGEST_VARINT, Reader, varint

MAGIC = b"RFY"
VERSION = 2
CHECKSUM = 8  # bytes


def checksum(data: bytes | memoryview) -> bytes:
    """BLAKE2b of 8 bytes."""
    return hashlib.blake2b(data, digest_size=CHECKSUM).digest()


def sealed(body: bytes) -> bytes:
    """`body` between the header and the checksum."""
    fixed = len(MAGIC) + 1 + len(body) + CHECKSUM
    length = next(total for n in range(1, 11) if len(varint(total := fixed + n)) == n)
    data = MAGIC + bytes([VERSION]) + varint(length) + body
    return data + checksum(data)


def unsealed(data: bytes | memoryview) -> memoryview:
    """The body of a file, after the header and the checksum have been found right."""
    view = memoryview(data)
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise PackError("not a .rfy file: it does not begin with RFY")
    if len(view) < len(MAGIC) + 1 + LONGEST_VARINT:
        raise PackError(f"truncated: no .rfy file has only {len(view)} bytes")
    if (version := view[len(MAGIC)]) != VERSION:
        maker = "a newer rarefy" if version > VERSION else "an older rarefy, or corrupted"
        raise PackError(f"made by {maker}: the format's version is {version}, this one reads {VERSION}")
    reader = Reader(view)
    reader.take(len(MAGIC) + 1)
    length = reader.varint()
    if length != len(view):
        kind = "truncated" if length > len(view) else "too long"
        raise PackError(f"{kind}: the header declares {length} bytes, the file has {len(view)}")
    if checksum(view[:-CHECKSUM]) != bytes(view[-CHECKSUM:]):
        raise PackError("corrupted: the checksum does not fit the bytes")
    return reader.take(reader.left - CHECKSUM)
