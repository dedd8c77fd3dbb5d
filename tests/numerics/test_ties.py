"""No value half-way between two integers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rarefy.numerics.ties import BITS, LEAST, short, sum_scale, unit, weight_scale

SCALES = st.floats(1e-6, 1e3, allow_subnormal=False)


def fraction(scale: float, given: float, rounded: float) -> Fraction:
    """The ratio of one product to a step, as simple as float32 tells it."""
    return Fraction(scale * given / rounded).limit_denominator(4096)


@given(st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(1, 2000))
def test_sums_of_products_are_never_half_way(given_scale: float, rounded: float, ratio: float) -> None:
    scales = [torch.tensor(s, dtype=torch.float32) for s in (rounded / given_scale / ratio, given_scale, rounded)]
    made = weight_scale(*scales)
    assert float(made) == pytest.approx(float(scales[0]), rel=1.01 / LEAST)
    step = fraction(float(made), float(scales[1]), float(scales[2]))
    assert step.denominator % 2 == 1
    assert float(step) == pytest.approx(float(made.double() * scales[1].double() / scales[2].double()), rel=3e-7)
    assert all((n * step * 2).denominator > 1 or (n * step).denominator == 1 for n in range(1, 300))


@given(SCALES, SCALES, st.floats(0.3, 4))
@example(1.0, 1.0, 1.0)
@example(0.75, 3.0, 1.0)
def test_sums_of_activations_are_never_half_way(first: float, second: float, more: float) -> None:
    addends = [short(first), short(second)]
    made = sum_scale((first + second) * more, addends)
    assert (1 - 2**-8) * (first + second) * more <= made <= (first + second) * more
    one, two, whole = map(Fraction, (*addends, made))
    for a, b in ((1, 1), (7, -3), (255, 254), (0, 128), (96, -255)):
        value = (a * one + b * two) / whole
        assert (2 * value).denominator > 1 or value.denominator == 1


@given(SCALES)
def test_short_numbers(scale: float) -> None:
    made = short(scale)
    assert (1 - 2 ** (1 - BITS)) * scale < made <= scale
    assert made / unit(made) < 2**BITS
    assert (made / unit(made)) % 2 == 1
