"""Scales that leave no value half-way between two integers, so that every engine rounds alike.

One engine sums products as integers, another as floats; they differ by a ten-millionth. Where a sum lies that near to
half-way between two integers they round apart, and over fifty layers one such step becomes another answer. But a sum
of products is an integer n times `input x weight`; rounded to a scale of `input x weight x N / k` it is n k / N, which
is never half-way if N is odd and k a power of two. N is in the hundreds, so a weight's scale moves by a thousandth to
reach such a ratio. A sum of activations a p u + b q u is as safe at the scale N u.
"""

from __future__ import annotations

import math

from torch import Tensor

BITS = 10  # of the scale of an addend
LEAST = 128  # of N: a scale moves by 1 / N at most


def weight_scale(scale: Tensor, given: Tensor, rounded: Tensor) -> Tensor:
    """The scale of a weight nearest to `scale`, where inputs of the scale `given` make sums rounded to `rounded`."""
    whole = rounded.double() / given.double()
    ratio = whole / scale.double()
    power = (LEAST / ratio).log2().ceil().clamp(min=0).exp2()  # k
    odd = 2 * ((ratio * power - 1) / 2).round().clamp(min=0) + 1  # N
    return (whole * power / odd).float()


def short(scale: float) -> float:
    """The largest number of 10 binary digits that is not above `scale`."""
    fraction, exponent = math.frexp(scale)
    return math.ldexp(math.floor(fraction * 2**BITS), exponent - BITS)


def unit(scale: float) -> float:
    """The largest power of two that `scale` is a whole multiple of."""
    fraction, exponent = math.frexp(scale)
    digits = int(math.ldexp(fraction, 53))
    return math.ldexp(digits & -digits, exponent - 53)


def sum_scale(scale: float, addends: list[float]) -> float:
    """The scale below `scale` for sums of activations of the scales `addends`, which are short or such sums."""
    step = min(math.ldexp(1.0, math.frexp(scale)[1] - BITS), *map(unit, addends))
    count = math.floor(scale / step)
    return (count - 1 + count % 2) * step
