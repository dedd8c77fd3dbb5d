"""The coarsest rounding that a target allows."""

from __future__ import annotations

import math
from collections.abc import Callable

LOOKS = 40
WIDEST = 100.0  # octaves from the start that are looked at


def coarsest(cost: Callable[[float], float], target: float, tolerance: float, start: float) -> tuple[float, float]:
    """x with `cost(x)` in (1 - tolerance) target .. target, and that cost.

    cost: falls (roughly) as x, a logarithm to base 2, rises. Found from `start` by interpolation and bisection in
    turns. Where it cannot be met, the cost that comes nearest from below is given.
    """
    low, high = -math.inf, math.inf  # too dear, and within
    values: dict[float, float] = {}
    x = start
    for look in range(LOOKS):
        values[x] = cost(x)
        if (1 - tolerance) * target <= values[x] <= target:
            return x, values[x]
        low, high = (max(low, x), high) if values[x] > target else (low, min(high, x))
        if math.isinf(low) or math.isinf(high):
            x += 2.0 ** min(look, 4) * (1 if values[x] > target else -1) * _share(values[x], target)
            if abs(x - start) > WIDEST:
                break
        elif high - low < 1e-4:
            break
        else:
            part = (values[low] - target) / max(values[low] - values[high], 1e-12)
            x = low + (high - low) * (min(max(part, 0.05), 0.95) if look % 2 else 0.5)
    best = max((x for x in values if values[x] <= target), key=lambda x: values[x], default=x)
    return best, values.get(best, math.inf)


def _share(value: float, target: float) -> float:
    """A small first step where the target is near."""
    return min(1.0, max(0.05, 4 * abs(value / target - 1)))
