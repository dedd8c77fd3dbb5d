from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.quantizing.search import LOOKS, coarsest


@given(st.floats(0.5, 8), st.floats(-30, 30), st.floats(-20, 20), st.sampled_from([0.005, 0.01, 0.1]))
def test_meets_what_can_be_met(target: float, zero: float, start: float, tolerance: float) -> None:
    """Entropy falls by a bit with each octave, and more slowly near nothing."""
    looks = []

    def bits(x: float) -> float:
        looks.append(x)
        return math.log2(1 + 2 ** (zero - x))

    x, value = coarsest(bits, target, tolerance, start)
    assert (1 - tolerance) * target <= value <= target
    assert value == bits(x)
    assert len(looks) <= LOOKS + 1


def test_a_good_start_needs_few_looks() -> None:
    looks = []

    def bytes_(x: float) -> float:
        looks.append(x)
        return 40_000 + 575_000 * (4 - x)

    assert coarsest(bytes_, 2_050_000, 0.005, 0.4)[1] <= 2_050_000
    assert len(looks) <= 5


def test_steps_in_the_cost_and_what_cannot_be_met() -> None:
    x, value = coarsest(lambda x: 6.0 if x < 1 else 3.0, 4.0, 0.01, 0.0)
    assert (x >= 1, value) == (True, 3.0)
    assert coarsest(lambda _: 7.0, 4.0, 0.01, 0.0)[1] == math.inf
    assert coarsest(lambda _: 3.0, 4.0, 0.01, 0.0)[1] == pytest.approx(3.0)
