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
    rounded,
    stored,
    stored_bits,
    zeros,
)
from rarefy.encodings.binary import FewLevels, Signs, Ternary
from rarefy.encodings.codebook import Codebook
from rarefy.encodings.grid import Grid
from rarefy.encodings.half import Half
from rarefy.encodings.mask import Mask
from rarefy.encodings.product import ProductCodebook
from rarefy.encodings.structured import Circulant, Displacement, Structured, Toeplitz, structure

ALL: tuple[type[Encoding], ...] = (
    Mask,
    Codebook,
    ProductCodebook,
    Half,
    Affine,
    Grid,
    Signs,
    Ternary,
    Circulant,
    Toeplitz,
    Displacement,
)

__all__ = [
    "ALL",
    "Affine",
    "Circulant",
    "Codebook",
    "Displacement",
    "Encoding",
    "FewLevels",
    "Grid",
    "Half",
    "Mask",
    "ProductCodebook",
    "Signs",
    "Structured",
    "Ternary",
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
    "rounded",
    "stored",
    "stored_bits",
    "structure",
    "zeros",
]
