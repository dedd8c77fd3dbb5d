"""The graph's bytes, made small by what the standard library has.

Deflate with a preset dictionary of common nodes, attributes and shapes is three times smaller than anything
else on small graphs; LZMA takes over where there is much to compress. (zstandard was within a few percent
of LZMA.)
"""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path

from rarefy.errors import PackError

STORED, DEFLATE, LZMA = range(3)
LARGEST_RATIO = 256  # of a squeezed graph above the first megabyte: a bound on what a small file can ask for
FREE = 1 << 20
FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 24, "lc": 2, "lp": 0, "pb": 0}]
DICTIONARY = (Path(__file__).parent / "dictionary.bin").read_bytes()  # pieces of ONNX; part of the format


def allowed(squeezed: int, plain: int) -> bool:
    """Whether `squeezed` bytes may stand for `plain` ones."""
    return plain <= FREE + LARGEST_RATIO * squeezed


def squeeze(data: bytes) -> tuple[int, bytes]:
    """The shortest form of `data`, and the method that gave it."""
    forms = [
        (STORED, data),
        (DEFLATE, _deflate(data)),
        (LZMA, lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS)),
    ]
    return min((f for f in forms if allowed(len(f[1]), len(data))), key=lambda form: len(form[1]))


def _deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return coder.compress(data) + coder.flush()


def unsqueeze(method: int, data: bytes, size: int) -> bytes:
    """The `size` bytes that `data` stands for."""
    if not allowed(len(data), size):
        raise PackError(f"corrupted: {len(data)} bytes of graph declare {size}")
    try:
        if method == STORED:
            plain = data
        elif method == DEFLATE:
            plain = zlib.decompressobj(-15, DICTIONARY).decompress(data, size + 1)
        elif method == LZMA:
            plain = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS).decompress(data, size + 1)
        else:
            raise PackError(f"corrupted: no graph is squeezed by the method {method}")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise PackError(f"corrupted: the graph cannot be read ({error})") from None
    if len(plain) != size:
        raise PackError(f"corrupted: the graph declares {size} bytes and has {len(plain)}")
    return plain
