"""The compiled coder against constriction's: the same words, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.kernels.ans import Stack, Words
from rarefy.kernels.library import library
from rarefy.pack.ans import TOTAL, Portable

pytestmark = pytest.mark.skipif(library() is None, reason="rarefy was installed without a C++ compiler")


def bounds(rng: np.random.Generator, size: int) -> Words:
    """Any frequencies >= 1 that sum to 2^24; mostly very uneven ones."""
    weights = rng.random(size) ** rng.integers(1, 40)
    frequencies = 1 + (weights / weights.sum() * (TOTAL - size)).astype(np.int64)
    frequencies[rng.integers(size)] += TOTAL - frequencies.sum()
    return np.concatenate([[0], np.cumsum(frequencies)]).astype(np.uint32)


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 16, 256, 5000]), st.integers(0, 400), st.sampled_from([1, 2, 4])
)
def test_both_coders_give_the_same_words(seed: int, size: int, count: int, itemsize: int) -> None:
    rng = np.random.default_rng(seed)
    dtype: Any = f"<u{itemsize}"
    native, portable = Stack(np.empty(0, np.uint32)), Portable(np.empty(0, np.uint32))
    pushed = []
    for _ in range(3):
        table = bounds(rng, size := min(size, 256**itemsize))
        even = rng.integers(0, size, count)
        likely = np.searchsorted(table, rng.integers(0, TOTAL, count), "right") - 1
        symbols = np.where(rng.random(count) < 0.5, even, likely).astype(dtype)
        pushed.append((symbols, table))
        native.push(symbols, table)
        portable.push(symbols, table)
        assert np.array_equal(native.words, portable.words)
        assert native.bits == portable.bits
    again = Stack(native.words)
    for symbols, table in reversed(pushed):
        out = np.empty(count, dtype)
        again.pop(out, table)
        assert np.array_equal(out, symbols)
    assert again.bits == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(1, 300))
def test_words_that_were_never_coded_give_the_same_symbols(seed: int, words: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    hostile = rng.integers(1, 2**32, words, dtype=np.uint32)
    table = bounds(rng, 256)
    native, portable = Stack(hostile), Portable(hostile.copy())
    ours, theirs = np.empty(count, np.uint8), np.empty(count, np.uint8)
    native.pop(ours, table)
    portable.pop(theirs, table)
    assert np.array_equal(ours, theirs)
    assert native.bits == portable.bits


def test_a_symbol_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="a symbol of 2 where there are 2"):
        Stack(np.empty(0, np.uint32)).push(np.array([2], np.uint8), np.array([0, 5, TOTAL], np.uint32))
