"""A budget shared out: against trying everything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rarefy.numerics.allotment import Options, by_error, cheapest_within, uniform


def layer(seed: int, count: int = 6) -> Options:
    draw = np.random.default_rng(seed)
    return Options(np.sort(draw.uniform(0.1, 9, count)), np.r_[np.sort(draw.uniform(0, 5, count - 1))[::-1], 0.0])


def total(options: list[Options], chosen: Sequence[int]) -> tuple[float, float]:
    taken = list(zip(options, chosen, strict=True))
    return sum(float(o.cost[c]) for o, c in taken), sum(float(o.error[c]) for o, c in taken)


def widest(options: Options) -> float:
    """The largest fall of the error between neighbours on the lower convex hull, from which multipliers choose."""
    at, falls = 0, []
    while at < len(options.cost) - 1:
        slopes = (options.error[at + 1 :] - options.error[at]) / (options.cost[at + 1 :] - options.cost[at])
        at, before = at + 1 + int(slopes.argmin()), at
        falls.append(float(options.error[before] - options.error[at]))
    return max(falls)


@settings(max_examples=60, deadline=None)
@example(285522, 3, 0.859375)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.2, 1.1))
def test_near_the_best_of_all(seed: int, layers: int, share: float) -> None:
    options = [layer(seed + i) for i in range(layers)]
    budget = max(share * sum(o.cost[-1] for o in options), sum(o.cost[0] for o in options))
    every = [total(options, c) for c in product(range(6), repeat=layers)]
    best = min(e for cost, e in every if cost <= budget + 1e-9)
    cost, error = total(options, by_error(options, budget))
    assert cost <= budget + 1e-9
    assert error <= best + max(map(widest, options)) + 1e-9  # all but one layer are as in the best
    assert total(options, uniform(options, budget))[0] <= budget + 1e-9


def test_beats_uniform_where_layers_differ() -> None:
    ranks = np.arange(1.0, 101)
    options = [Options(ranks, np.exp(-speed * ranks) * (ranks < 100)) for speed in (0.5, 0.05, 0.01)]
    (cost, error), (flat_cost, flat_error) = (total(options, f(options, 120.0)) for f in (by_error, uniform))
    assert cost <= 120
    assert flat_cost <= 120
    assert flat_cost >= 118
    assert error < 0.8 * flat_error


def test_uniform_takes_the_same_share_of_each() -> None:
    options = [Options(np.arange(1.0, n + 1), np.arange(n, 0, -1) - 1.0) for n in (10, 100, 1000)]
    assert uniform(options, 555) == [4, 49, 499]


def test_the_cheapest_where_all_is_too_much() -> None:
    assert by_error([layer(0), layer(1)], 0.0) == uniform([layer(0), layer(1)], 0.0) == [0, 0]


def test_dominated_options_are_never_taken() -> None:
    options = Options(np.array([1.0, 2.0, 2.0, 3.0]), np.array([5.0, 6.0, 4.0, 4.0]))
    assert options.front().tolist() == [0, 2]
    assert by_error([options], 10.0) == [2]


def test_cheapest_within() -> None:
    assert cheapest_within(layer(3), 0.0) == 5
    with pytest.raises(ValueError, match=r"no option has an error of at most -1"):
        cheapest_within(layer(3), -1)
