"""One encoding, one file: the ways of storing a weight."""

from rarefy.encodings.base import (
    Encoding,
    adopted,
    chain,
    copied,
    decoded,
    describe,
    encode,
    find,
    stored,
    stored_bits,
    zeros,
)
from rarefy.encodings.codebook import Codebook
from rarefy.encodings.half import Half
from rarefy.encodings.mask import Mask

ALL: tuple[type[Encoding], ...] = (Mask, Codebook, Half)

__all__ = [
    "ALL",
    "Codebook",
    "Encoding",
    "Half",
    "Mask",
    "adopted",
    "chain",
    "copied",
    "decoded",
    "describe",
    "encode",
    "find",
    "stored",
    "stored_bits",
    "zeros",
]
