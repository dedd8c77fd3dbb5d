"""Weights and signs as bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rarefy.errors import InputError

Array = npt.NDArray[Any]


def pack_bits(weight: Array) -> Array:
    """The signs of a weight (filters, ...) as uint8 [filters, ceil(size / 8)], low bit first, 1 for >= 0."""
    if weight.ndim < 2:
        raise InputError(f"a weight of filters has two dimensions or more, not the shape {list(weight.shape)}")
    return np.packbits(weight.reshape(len(weight), -1) >= 0, axis=1, bitorder="little")


def unpack_bits(bits: Array, shape: tuple[int, ...]) -> Array:
    """The weight that `pack_bits` packed, as float32 of +1 and -1."""
    flat = np.unpackbits(bits, axis=1, bitorder="little", count=int(np.prod(shape[1:])))
    return (flat.astype(np.float32) * 2 - 1).reshape(shape)


def pack_signs(x: Array) -> Array:
    """The signs of x (batch, channels, ...) as uint32 [batch, ..., ceil(channels / 32)], low bit first."""
    last = np.moveaxis(x >= 0, 1, -1)
    room = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[1] % 32)]
    packed = np.packbits(np.pad(last, room), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4").astype(np.uint32)
