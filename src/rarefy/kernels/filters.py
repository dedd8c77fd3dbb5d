"""Filters of one bit, and what is done with them."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from rarefy.errors import InputError
from rarefy.kernels import numpy_version
from rarefy.kernels.convolution import Convolution
from rarefy.kernels.library import Call, library

Array = npt.NDArray[Any]
PLAIN = Convolution()


class Filters:
    """Binary filters, laid out for the version of the kernels that runs when they are made.

    bits: uint8 [filters, ceil(size / 8)] of `pack_bits`; shape: (filters, channels, height, width), or
    (filters, features) for a matrix product. Raises `InputError` where they do not fit.
    """

    def __init__(self, bits: Array, shape: tuple[int, ...]) -> None:
        if len(shape) not in (2, 4) or min(shape) < 1:
            raise InputError(f"the shape of binary filters has 2 or 4 sizes of at least 1, not {list(shape)}")
        wanted = (shape[0], -(-int(np.prod(shape[1:])) // 8))
        if bits.dtype != np.uint8 or bits.shape != wanted:
            raise InputError(f"filters of {list(shape)} are uint8{list(wanted)}, not {bits.dtype}{list(bits.shape)}")
        self.shape = shape
        self._library = library()
        self._numpy = numpy_version.Filters(bits, shape) if self._library is None else None
        self._handle = ctypes.c_void_p()
        if self._library is not None:
            four = (*shape, 1, 1)[:4]
            data = np.ascontiguousarray(bits)
            _check(self._library.rarefy_filters_new(data.ctypes.data, *four, ctypes.byref(self._handle)))
            weakref.finalize(self, self._library.rarefy_filters_free, self._handle)

    def conv2d(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        how: Convolution = PLAIN,
        *,
        threshold: Array | None = None,
        signs: bool = False,
    ) -> Array:
        """scale[filter] * K * sum(weight * activation) + bias[filter], as float32 [batch, filters, height, width].

        x: float32 [batch, channels, height, width], or its signs by `pack_signs`, which a call with `signs=True` gives
        as well: signs of the result, uint32 [batch, height, width, ceil(filters / 32)]. threshold: float32 [channels],
        for activations sign(x - threshold).
        """
        if len(self.shape) != 4:
            raise InputError(f"filters of {list(self.shape)} are for `linear`")
        packed = x.dtype == np.uint32
        batch, channels, height, width = _four(x, packed, self.shape[1])
        if packed and (how.bits or how.map):
            raise InputError("x is packed signs: it has neither more bits nor magnitudes")
        size = how.output(height, width, (self.shape[2], self.shape[3]))
        call = Call(
            *(batch, channels, height, width, *how.stride, *how.dilation, *how.padding, how.pad_value),
            *(how.bits, how.map, 0, packed, signs, how.steps),
        )
        shape = (batch, *size, -(-self.shape[0] // 32)) if signs else (batch, self.shape[0], *size)
        return self._run(call, how, x, threshold, scale, bias, shape)

    def linear(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        *,
        bits: int = 0,
        steps: float = 1.0,
        threshold: Array | None = None,
        signs: bool = False,
    ) -> Array:
        """The same for x [batch, features]: float32 [batch, filters], or its signs [batch, ceil(filters / 32)]."""
        if len(self.shape) != 2:
            raise InputError(f"filters of {list(self.shape)} are for `conv2d`")
        how, packed = Convolution(bits=bits, steps=steps), x.dtype == np.uint32
        features = -(-self.shape[1] // 32) if packed else self.shape[1]
        if x.ndim != 2 or x.shape[1] != features or (packed and bits):
            raise InputError(
                f"x must be float32[batch, {self.shape[1]}], or its packed signs, not {x.dtype}{list(x.shape)}"
            )
        call = Call(*(len(x), self.shape[1], 1, 1), *[1] * 4, *[0] * 5, bits, 0, 1, packed, signs, steps)
        shape = (len(x), -(-self.shape[0] // 32) if signs else self.shape[0])
        return self._run(call, how, x, threshold, scale, bias, shape)

    def _run(
        self,
        call: Call,
        how: Convolution,
        x: Array,
        threshold: Array | None,
        scale: Array,
        bias: Array,
        shape: tuple[int, ...],
    ) -> Array:
        vectors = [_vector(v, name, self.shape[0]) for v, name in ((scale, "scale"), (bias, "bias"))]
        if x.dtype not in (np.float32, np.uint32):
            raise InputError(f"x must be float32 or packed uint32, not {x.dtype}")
        if threshold is not None and (how.bits or how.map or x.dtype == np.uint32):
            raise InputError("a threshold is for signs of float32, without magnitudes")
        shift = None if threshold is None else _vector(threshold, "threshold", self.shape[1])
        x = np.ascontiguousarray(x)
        y = np.empty(shape, np.uint32 if call.packed_out else np.float32)
        if self._library is None:
            assert self._numpy is not None
            run = self._numpy.run(x, shift, vectors[0], vectors[1], how, packed=bool(call.packed_out))
            y[...] = run.reshape(shape)
            return y
        pointers = (None if array is None else array.ctypes.data for array in (x, shift, *vectors, y))
        _check(self._library.rarefy_run(self._handle, ctypes.byref(call), *pointers, None, None))
        return y


def _four(x: Array, packed: bool, channels: int) -> tuple[int, int, int, int]:
    """Batch, channels, height and width of x."""
    have = x.shape[3 if packed else 1] if x.ndim == 4 else 0
    if have != (-(-channels // 32) if packed else channels):
        wanted = f"[batch, {channels}, height, width]"
        raise InputError(f"x must be float32{wanted}, or its packed signs, not {x.dtype}{list(x.shape)}")
    height, width = x.shape[1:3] if packed else x.shape[2:]
    return x.shape[0], channels, height, width


def _vector(values: Array, name: str, filters: int) -> Array:
    if values.dtype != np.float32 or values.shape != (filters,):
        raise InputError(f"{name} must be float32[{filters}], not {values.dtype}{list(values.shape)}")
    return np.ascontiguousarray(values)


def _check(wrong: bytes | None) -> None:
    if wrong is not None:
        raise InputError(f"the binary kernel refuses: {wrong.decode()}")
