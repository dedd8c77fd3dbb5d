"""One encoding, one file: the ways of storing a weight."""

from rarefy.encodings.affine import Affine
from rarefy.encodings.base import (
    Encoding,
    adopted,
    chain,
    copied,
    cut,
    decoded,
    describe,
    encode,
    find,
    narrow,
    stored,
    stored_bits,
    zeros,
)
from rarefy.encodings.codebook import Codebook
from rarefy.encodings.half import Half
from rarefy.encodings.mask import Mask
from rarefy.encodings.structured import Circulant, Displacement, Structured, Toeplitz, structure

ALL: tuple[type[Encoding], ...] = (Mask, Codebook, Half, Affine, Circulant, Toeplitz, Displacement)

__all__ = [
    "ALL",
    "Affine",
    "Circulant",
    "Codebook",
    "Displacement",
    "Encoding",
    "Half",
    "Mask",
    "Structured",
    "Toeplitz",
    "adopted",
    "chain",
    "copied",
    "cut",
    "decoded",
    "describe",
    "encode",
    "find",
    "narrow",
    "stored",
    "stored_bits",
    "structure",
    "zeros",
]
