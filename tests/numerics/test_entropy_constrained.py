"""Rate against distortion: what theory says, and plain descent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.numerics.clustering import Clusters, cluster

Array = npt.NDArray[np.float32]


def bell(n: int) -> Array:
    return np.random.default_rng(0).standard_normal(n).astype(np.float32)


def bits(result: Clusters) -> float:
    share = np.bincount(result.labels) / result.labels.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def cost(values: Array, weights: Array, rate: float, result: Clusters) -> float:
    worth = rate * float((weights * values.astype(float) ** 2).sum())
    error = float((weights * (values - result.centroids[result.labels]).astype(float) ** 2).sum())
    return error + worth * bits(result)


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.03])
def test_a_bell_is_coded_a_quarter_of_a_bit_above_its_bound(rate: float) -> None:
    """Entropy-coded scalar quantization of a Gaussian ends 1.53 dB from the rate-distortion bound, which is
    6.02 dB per bit (Gish and Pierce 1968); without a rate, bits are wasted."""
    values = bell(200_000)
    found, plain = cluster(values, 256, rate=rate), cluster(values, 16)
    over, over_plain = (-10 * np.log10(c.error / len(values)) - 6.02 * bits(c) for c in (found, plain))
    assert over == pytest.approx(-1.53, abs=0.06)
    assert over_plain < -2.3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [3000, 66_000])
def test_costs_less_than_clusters_that_know_no_rate(n: int, weighted: bool) -> None:
    values = bell(n)
    weights = np.exp(1.5 * np.random.default_rng(1).standard_normal(n)).astype(np.float32) if weighted else None
    heavy = np.ones(n, np.float32) if weights is None else weights
    found = cluster(values, 32, rate=0.02, weights=weights)
    least = cost(values, heavy, 0.02, found)
    for k in (2, 4, 8, 16, 32):
        assert least < 0.98 * cost(values, heavy, 0.02, cluster(values, k, weights=weights))
    if weighted:
        assert least < 0.98 * cost(values, heavy, 0.02, cluster(values, 32, rate=0.02))


def test_labels_are_the_cheapest_and_centroids_the_means() -> None:
    values = bell(5000)
    found = cluster(values, 16, rate=0.02)
    used = np.unique(found.labels)
    share = np.bincount(found.labels, minlength=16) / 5000
    worth = 0.02 * float((values.astype(float) ** 2).mean())
    table = (values[:, None] - found.centroids[used]) ** 2 - worth * np.log2(share[used])
    chosen = np.take_along_axis(table, np.searchsorted(used, found.labels)[:, None], 1)[:, 0]
    assert (chosen - table.min(1)).max() < 2e-3 * worth + 1e-6
    for label in used:
        assert found.centroids[label] == pytest.approx(float(values[found.labels == label].mean()), abs=2e-3)


@given(
    n=st.integers(1, 200), k=st.integers(2, 300), seed=st.integers(0, 99), zero=st.booleans(), weighted=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_any_values(n: int, k: int, seed: int, zero: bool, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-5, 6, n).astype(np.float32)
    weights = (rng.random(n) * rng.integers(0, 2, n)).astype(np.float32) if weighted else None
    found = cluster(values, k, rate=0.1, zero=zero, weights=weights)
    assert found.centroids.shape == (k,)
    assert found.labels.shape == (n,)
    assert np.isfinite(found.centroids).all()
    if zero:
        assert np.array_equal(found.labels == 0, values == 0)
        assert found.centroids[0] == 0
        assert (found.centroids[1:] != 0).all() or not values.any()


def test_zeros_that_are_pinned_cost_the_others_nothing() -> None:
    values = bell(20_000)
    sparse = np.concatenate([values, np.zeros(60_000, np.float32)])
    alone, among = cluster(values, 32, rate=0.02), cluster(sparse, 33, rate=0.02, zero=True)
    rest = Clusters(among.centroids[1:], among.labels[:20_000] - 1, among.error)
    one = np.ones(20_000, np.float32)
    assert cost(values, one, 0.02, rest) == pytest.approx(cost(values, one, 0.02, alone), rel=0.02)


def test_no_rate_is_what_it_was() -> None:
    one, two = cluster(bell(9000), 16), cluster(bell(9000), 16, rate=0.0)
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.centroids, two.centroids)
