"""Affine integers against plain float64 arithmetic."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from rarefy.errors import InputError
from rarefy.numerics.affine import dequantize, fitted, limits, parameters, quantize

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
BITS = st.integers(2, 8)


def test_limits() -> None:
    assert limits(8) == (-127, 127)
    assert limits(2) == (-1, 1)
    assert limits(8, signed=False) == (0, 255)


@given(FINITE, FINITE, BITS, st.booleans(), st.booleans())
def test_zero_is_exact_and_the_range_is_covered(a: float, b: float, bits: int, symmetric: bool, signed: bool) -> None:
    low, high = torch.tensor([min(a, b)]), torch.tensor([max(a, b)])
    scale, point = parameters(low, high, bits, symmetric=symmetric, signed=signed)
    least, most = limits(bits, signed)
    assert float(scale) > 0
    assert math.isfinite(float(scale))
    assert least <= int(point) <= most
    zero = torch.zeros(1)
    assert float(dequantize(quantize(zero, scale, point, least, most), scale, point)) == 0
    if symmetric:
        assert int(point) == (0 if signed else 2 ** (bits - 1))
    s, z = float(scale), int(point)
    slack = 0.5001 * s + 1e-6 * max(abs(a), abs(b))
    assert (least - z) * s <= min(a, b, 0) + slack
    assert (most - z) * s >= max(a, b, 0) - slack


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=20), BITS)
def test_rounds_as_python_does(values: list[float], bits: int) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    scale, point = parameters(torch.tensor(-1.0), torch.tensor(3.0), bits, symmetric=False, signed=False)
    least, most = limits(bits, signed=False)
    got = quantize(x, scale.double(), point.double(), least, most)
    s = float(scale)
    assert got.tolist() == [min(max(round(v / s) + int(point), least), most) for v in x.tolist()]


def test_a_range_of_nothing_has_the_scale_one() -> None:
    for signed in (True, False):
        scale, point = parameters(torch.zeros(2), torch.zeros(2), 8, symmetric=False, signed=signed)
        assert scale.tolist() == [1, 1]
        assert point.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ranges_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="expected ranges that are finite"):
        parameters(torch.tensor(-1.0), torch.tensor(bad), 8, symmetric=False)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_fitted_is_no_worse_than_the_full_range(bits: int, symmetric: bool) -> None:
    rows = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    rows[3], rows[4] = 0.25, 0.0
    least, most = limits(bits)

    def error(scale: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        back = dequantize(quantize(rows, scale[:, None], point[:, None], least, most), scale[:, None], point[:, None])
        return (back - rows).square().sum(1)

    full = parameters(rows.amin(1), rows.amax(1), bits, symmetric=symmetric)
    best = fitted(rows, bits, symmetric=symmetric)
    assert bool((error(*best) <= error(*full)).all())
    assert error(*best)[3:].max() < 1e-9  # constants are exact
    if bits == 2:
        assert bool((error(*best) < 0.8 * error(*full))[:3].all())
