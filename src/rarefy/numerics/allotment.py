"""Sharing one budget out over layers, each of which has options of a cost and an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What can be done with one layer: arrays of the same length. One option should be to leave it as it is."""

    cost: Array
    error: Array

    def front(self) -> NDArray[np.int64]:
        """The options that no other beats in cost and error, by rising cost and falling error."""
        order = np.lexsort((self.error, self.cost))
        least = np.minimum.accumulate(self.error[order])
        better = np.r_[True, least[1:] < least[:-1]]
        return order[better]


def by_error(options: Sequence[Options], budget: float) -> list[int]:
    """The choice, one option a layer, of (nearly) the least total error whose total cost is within `budget`.

    Lagrange: for a multiplier l each layer takes the option of least `error + l * cost`; l is found by bisection, and
    what is then left of the budget goes, largest gain per cost first, to options that fit. The cheapest options
    are chosen where even they exceed the budget.
    """
    fronts, layers = _fronts(options)

    def choice(multiplier: float) -> list[int]:
        return [int(np.argmin(layer.error + multiplier * layer.cost)) for layer in layers]

    chosen = _bisected(choice, layers, budget, 1e-30, 1e30)
    return [int(front[c]) for front, c in zip(fronts, _filled(layers, chosen, budget), strict=True)]


def uniform(options: Sequence[Options], budget: float) -> list[int]:
    """The choice where every layer may cost the same share of its highest cost: the baseline for `by_error`."""
    fronts, layers = _fronts(options)
    full = [float(layer.cost.max()) for layer in layers]

    def choice(inverse: float) -> list[int]:
        fits = [int((layer.cost <= top / inverse).sum()) - 1 for layer, top in zip(layers, full, strict=True)]
        return [max(0, fit) for fit in fits]

    chosen = _bisected(choice, layers, budget, 1.0, 1e9)
    return [int(front[c]) for front, c in zip(fronts, _levelled(layers, chosen, budget), strict=True)]


def cheapest_within(options: Options, error: float) -> int:
    """The option of least cost whose error is not above `error`. Raises `ValueError` where there is none."""
    front = options.front()
    fits = front[options.error[front] <= error]
    if not len(fits):
        raise ValueError(f"no option has an error of at most {error}")
    return int(fits[0])


def _fronts(options: Sequence[Options]) -> tuple[list[NDArray[np.int64]], list[Options]]:
    fronts = [o.front() for o in options]
    return fronts, [Options(o.cost[f], o.error[f]) for o, f in zip(options, fronts, strict=True)]


def _bisected(
    choice: Callable[[float], list[int]], layers: Sequence[Options], budget: float, low: float, high: float
) -> list[int]:
    """The choice at the least parameter (bisected on a log scale) whose cost is within the budget."""
    if _cost(layers, choice(low)) <= budget:
        return choice(low)
    for _ in range(100):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if _cost(layers, choice(middle)) <= budget else (middle, high)
    return choice(high)


def _cost(layers: Sequence[Options], chosen: Sequence[int]) -> float:
    return float(sum(layer.cost[c] for layer, c in zip(layers, chosen, strict=True)))


def _levelled(layers: Sequence[Options], chosen: Sequence[int], budget: float) -> list[int]:
    """Spend what is left of the budget on next options that fit, the smallest share of its layer first; errors do not
    count."""
    chosen, left = list(chosen), budget - _cost(layers, chosen)
    while True:
        fits = []
        for i, (layer, c) in enumerate(zip(layers, chosen, strict=True)):
            if c + 1 < len(layer.cost) and (more := float(layer.cost[c + 1] - layer.cost[c])) <= left:
                fits.append((layer.cost[c + 1] / layer.cost.max(), i, more))
        if not fits:
            return chosen
        _, i, more = min(fits)
        left -= more
        chosen[i] += 1


def _filled(layers: Sequence[Options], chosen: Sequence[int], budget: float) -> list[int]:
    """Spend what is left of the budget, the best gain per cost first."""
    chosen, left = list(chosen), budget - _cost(layers, chosen)
    while True:
        best, where = 0.0, (-1, -1)
        for i, layer in enumerate(layers):
            more = layer.cost[chosen[i] + 1 :] - layer.cost[chosen[i]]
            fits = int((more <= left).sum())
            if fits:
                gains = (layer.error[chosen[i]] - layer.error[chosen[i] + 1 :][:fits]) / more[:fits]
                if gains.max() > best:
                    best, where = float(gains.max()), (i, chosen[i] + 1 + int(gains.argmax()))
        if where[0] < 0:
            return chosen
        i, option = where
        left -= float(layers[i].cost[option] - layers[i].cost[chosen[i]])
        chosen[i] = option
