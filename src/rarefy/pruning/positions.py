"""Positions of a dimension as text, for plans."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def ranges(held: bytes) -> str:
    """Rising positions, as bytes, as text: "0-3,5,7-8"."""
    positions = np.frombuffer(held, np.intp)
    apart = np.diff(positions) != 1
    first, last = positions[np.r_[True, apart]].tolist(), positions[np.r_[apart, True]].tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


def dims(keep: dict[str, str]) -> dict[int, np.ndarray]:
    """The positions written by `ranges`, by dimension."""
    return {int(dim): _positions(text) for dim, text in keep.items()}


@lru_cache(maxsize=256)  # a layer, its normalisation and the next layer have the same
def _positions(text: str) -> np.ndarray:
    parts = [part.split("-") for part in text.split(",")]
    return np.concatenate([np.arange(int(part[0]), int(part[-1]) + 1) for part in parts])
