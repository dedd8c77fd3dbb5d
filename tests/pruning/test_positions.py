"""Positions as text."""

from __future__ import annotations

import numpy as np

from rarefy.pruning.positions import dims, ranges


def test_positions_are_written_and_read() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        positions = np.flatnonzero(rng.random(40) < rng.random())
        if len(positions):
            assert np.array_equal(dims({"1": ranges(positions.tobytes())})[1], positions)
    assert ranges(np.array([0, 1, 2, 5, 7, 8]).tobytes()) == "0-2,5,7-8"
