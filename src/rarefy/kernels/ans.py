"""The entropy coder's inner loops: what constriction's `AnsCoder` does, bit for bit, several times as fast."""

from __future__ import annotations

import ctypes
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rarefy.kernels.library import INT, POINTER, library

PART = 1 << 18  # symbols at a time: each may need a word

Words = npt.NDArray[np.uint32]


class _State(ctypes.Structure):
    """rarefy_ans of kernels.h."""

    _fields_ = [("state", ctypes.c_uint64), ("words", POINTER), ("at", INT)]


class Stack:
    """A stack of symbols; what is pushed last is popped first. Only where there is a compiled library."""

    def __init__(self, words: Words) -> None:
        """words: as `AnsCoder.get_compressed` gives them; the last one is not 0."""
        self._words, rest = words.copy(), len(words)
        state = 0
        while rest and state >> 32 == 0:
            rest -= 1
            state = state << 32 | int(words[rest])
        self._state = _State(state, None, rest)

    @classmethod
    def make(cls, words: Words) -> Self | None:
        """A stack, or None without a compiled library."""
        return None if library() is None else cls(words)

    @property
    def bits(self) -> int:
        """Bits on the stack, without the first one, which says that it is not empty."""
        return 32 * int(self._state.at) + max(int(self._state.state).bit_length() - 1, 0)

    @property
    def words(self) -> Words:
        """The stack as words of 32 bits, the last not 0."""
        state = int(self._state.state)
        low, high = state & 0xFFFFFFFF, state >> 32
        top = [low, high] if high else [low] if low else []
        return np.concatenate([self._words[: self._state.at], np.array(top, np.uint32)])

    def push(self, symbols: npt.NDArray[np.unsignedinteger[Any]], bounds: Words) -> None:
        """Push `symbols`, the last first. bounds: where the 24-bit quantiles of each symbol begin, and 2^24."""
        if len(symbols) and int(symbols.max()) >= len(bounds) - 1:
            raise ValueError(f"a symbol of {symbols.max()} where there are {len(bounds) - 1}")
        symbols, call = np.ascontiguousarray(symbols), self._call("rarefy_ans_encode", bounds)
        for end in range(len(symbols), 0, -PART):
            part = symbols[max(end - PART, 0) : end]
            room = self._state.at + len(part)
            if room > len(self._words):
                self._words = np.concatenate([self._words, np.empty(room, np.uint32)])
            if not call(part):
                raise MemoryError

    def pop(self, out: npt.NDArray[np.unsignedinteger[Any]], bounds: Words) -> None:
        """Fill `out` with the symbols on top."""
        self._call("rarefy_ans_decode", bounds)(out)

    def _call(self, name: str, bounds: Words) -> Any:
        function = getattr(library(), name)

        def call(symbols: npt.NDArray[np.unsignedinteger[Any]]) -> Any:
            self._state.words = self._words.ctypes.data
            table = bounds.ctypes.data
            state = ctypes.byref(self._state)
            return function(symbols.ctypes.data, symbols.itemsize, len(symbols), table, len(bounds) - 1, state)

        return call
