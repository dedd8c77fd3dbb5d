"""Axes: from values to places, and the round values that are written beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

HUGE = 1e300


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """From values to places; `start` and `end` are where the lowest and the highest value go."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` goes, to a tenth."""
        low, high, value = map(math.log10 if self.log else float, (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, label: Callable[[float], str]) -> list[Tick]:
        """Round values inside the axis."""
        values = decades(self.low, self.high) if self.log else steps(self.low, self.high)
        return [Tick(self.place(value), label(value)) for value in values]


def steps(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 between low and high, three to seven of them.

    >>> steps(0.989, 0.9934)
    [0.989, 0.99, 0.991, 0.992, 0.993]
    """
    if not high - low > 1 / HUGE:
        return [low]
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.8)
    first, final = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [float(f"{index * step:.12g}") for index in range(first, final + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between low and high; only the powers where those are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 50 else (1,)
    return [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high] or [low, high]


def finite(value: float) -> bool:
    """Whether a chart can show it; differences of shown values do not overflow."""
    return abs(value) < HUGE  # False for NaN


def spread(values: Iterable[float], room: float = 0.08) -> tuple[float, float]:
    """The lowest and highest finite value with some room around them."""
    drawn = [value for value in values if finite(value)]
    low, high = min(drawn), max(drawn)
    margin = (high - low) * room or abs(high) * room or 1.0
    return low - margin, high + margin
