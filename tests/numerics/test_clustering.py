from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kmeans1d.core import cluster as exact

from rarefy.errors import InputError
from rarefy.numerics.clustering import Clusters, cluster, distortion
from rarefy.numerics.histogram import histogram
from rarefy.numerics.partition import partition

Array = npt.NDArray[np.float32]
METHODS = ["optimal", "linear", "density", "random"]
SHAPES = [
    "blocks",
    "laplace",
    "uniform",
    "outliers",
    "cauchy",
    "lognormal",
    "bimodal",
    "offset",
    "scales",
    "sorted",
]


def sample(shape: str, n: int) -> Array:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(n)
    match shape:
        case "blocks":
            data = normal * np.repeat(rng.uniform(0.01, 0.1, 20), -(-n // 20))[:n]
        case "laplace":
            data = rng.laplace(0, 0.02, n)
        case "uniform":
            data = rng.uniform(-1, 1, n)
        case "outliers":
            data = normal * np.where(rng.random(n) < 2e-4, 1000, 1)
        case "cauchy":
            data = rng.standard_cauchy(n)
        case "lognormal":
            data = np.exp(4 * normal)
        case "bimodal":
            data = np.sign(rng.uniform(-1, 1, n)) + 0.01 * normal
        case "offset":
            data = 1000 + 0.1 * normal
        case "scales":
            data = rng.choice([-1e3, 1, 1e6], n, p=[0.2, 0.7, 0.1]) * (1 + 1e-3 * normal)
        case _:
            data = np.sort(normal)
    return data.astype(np.float32)


def squares(values: Array, result: Clusters) -> float:
    return float(((values.astype(np.float64).ravel() - result.centroids[result.labels]) ** 2).sum())


def optimum(values: npt.NDArray[np.floating], k: int) -> float:
    data = values.astype(np.float64)
    labels, centroids = exact(data.tolist(), k)
    return float(((data - np.array(centroids, np.float32)[labels]) ** 2).sum())  # rounded, as ours are


@pytest.mark.parametrize("k", [2, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_small_samples_are_solved_at_the_optimum(shape: str, k: int) -> None:
    values = sample(shape, 1000)
    assert cluster(values, k).error == pytest.approx(optimum(values, k), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "k"), [(shape, 12) for shape in SHAPES] + [("blocks", 128), ("lognormal", 64), ("outliers", 2)]
)
def test_binned_values_are_solved_near_the_optimum(shape: str, k: int) -> None:
    values = sample(shape, 66_000)
    result = cluster(values, k)
    assert result.error <= (1.0005 if k < 100 else 1.001) * optimum(values, k)
    assert result.error == pytest.approx(squares(values, result), rel=1e-9)


def test_pinned_zeros_leave_the_optimum_of_the_others() -> None:
    values = sample("blocks", 300_000)
    values[np.random.default_rng(0).random(values.size) < 0.9] = 0
    result = cluster(values, 32, zero=True)
    assert result.error <= 1.0005 * optimum(values[values != 0], 31)
    np.testing.assert_array_equal(result.labels == 0, values == 0)


@pytest.mark.parametrize("n", [3000, 100_000])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("zero", [False, True], ids=["free", "zero"])
def test_every_method_gives_means_of_ordered_clusters(method: str, zero: bool, n: int) -> None:
    values = sample("laplace", n)
    values[::3] = 0
    result = cluster(values, 32, method=method, zero=zero)  # type: ignore[arg-type]
    assert result.centroids.dtype == np.float32
    assert result.centroids.shape == (32,)
    assert np.all(np.diff(result.centroids[zero:]) >= 0)
    assert result.error == pytest.approx(squares(values, result), rel=1e-9)
    for label in range(zero, 32):
        if len(members := values[result.labels == label]):
            assert result.centroids[label] == pytest.approx(members.mean(dtype=np.float64), rel=1e-5, abs=1e-9)
    if zero:
        assert result.centroids[0] == 0
        np.testing.assert_array_equal(result.labels == 0, values == 0)


@pytest.mark.parametrize("method", METHODS[1:])
def test_no_start_beats_the_optimal_one(method: str) -> None:
    for shape in SHAPES:
        values = sample(shape, 70_000)
        other = cluster(values, 64, method=method)  # type: ignore[arg-type]
        assert cluster(values, 64).error <= 1.0005 * other.error, shape


def test_starts_are_those_of_the_paper() -> None:
    values = np.arange(101, dtype=np.float32) ** 2
    np.testing.assert_array_equal(np.unique(cluster(values, 5, method="linear", iterations=1).labels), range(5))
    linear = np.array(
        [
            values[abs(values - c) == abs(values[:, None] - np.linspace(0, 1e4, 5)).min(1)].mean()
            for c in np.linspace(0, 1e4, 5)
        ]
    )
    np.testing.assert_allclose(cluster(values, 5, method="linear", iterations=1).centroids, linear, rtol=1e-6)
    first = cluster(values, 5, method="random", seed=1, iterations=1)
    np.testing.assert_array_equal(first.labels, cluster(values, 5, method="random", seed=1, iterations=1).labels)
    assert first.error != cluster(values, 5, method="random", seed=2, iterations=1).error
    density = cluster(values, 4, method="density", iterations=1)
    starts = values[[12, 37, 63, 88]]  # the cumulative distribution at 1/8, 3/8, 5/8, 7/8
    np.testing.assert_array_equal(density.labels, abs(values[:, None] - starts).argmin(1))


@pytest.mark.parametrize("n", [500, 70_000])
def test_integer_weights_are_repeated_values(n: int) -> None:
    values = sample("laplace", n)
    times = np.random.default_rng(1).integers(0, 4, n).astype(np.float32)
    result = cluster(values, 16, weights=times)
    repeated = np.repeat(values, times.astype(int))
    assert result.error == pytest.approx(optimum(repeated, 16), rel=1e-3)
    assert result.error == pytest.approx(distortion(values, result.centroids, result.labels, times), rel=1e-12)
    for label in range(16):
        members = result.labels == label
        mean = np.average(values[members].astype(np.float64), weights=times[members])
        assert result.centroids[label] == pytest.approx(mean, rel=1e-6)
    nearest = abs(values[:, None] - result.centroids).min(1)
    assert np.allclose(abs(values - result.centroids[result.labels]), nearest, atol=1e-3 * values.std())


def test_a_far_away_place_takes_no_precision_from_the_cuts() -> None:
    mean = np.sort(np.random.default_rng(3).laplace(0, 1e-3, 400))
    moved = 2.0**20 + mean
    np.testing.assert_array_equal(partition(np.ones(400), moved, 20), partition(np.ones(400), moved - 2.0**20, 20))


def test_bins_have_the_exact_weight_and_mean_of_their_values() -> None:
    values = sample("cauchy", 300_000)
    weights = np.random.default_rng(4).uniform(1, 9, values.size)
    data = histogram(values, weights, clusters=16)
    weight = np.bincount(data.bins, weights)
    mean = np.bincount(data.bins, weights * values)[data.occupied] / weight[data.occupied]
    assert len(data.occupied) < values.size / 4
    np.testing.assert_allclose(data.weight, weight[data.occupied], rtol=1e-12)
    np.testing.assert_allclose(data.mean, mean, rtol=1e-12)
    assert np.all(np.diff(data.mean) > 0)


def test_values_of_no_weight_follow_the_others() -> None:
    result = cluster(np.array([0, 1, 9, 10, 1000]), 2, weights=np.array([1.0, 1, 1, 1, 0]))
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(result.centroids, [0.5, 9.5])
    values = sample("laplace", 1000)
    equal, none = cluster(values, 8), cluster(values, 8, weights=np.zeros(1000))
    np.testing.assert_array_equal(none.centroids, equal.centroids)


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=FLOATS | st.sampled_from([0.0, -0.0, 1.0])),
    st.integers(1, 20),
)
def test_any_values(values: Array, k: int) -> None:
    result = cluster(values, k)
    assert result.labels.max() < k
    assert np.all(np.diff(result.centroids) >= 0)
    assert result.error == pytest.approx(squares(values, result), rel=1e-9)
    data = values.astype(np.float64)
    distances = abs(data[:, None] - result.centroids)
    scale = np.abs(data).max()
    assert np.all(distances[np.arange(len(data)), result.labels] <= distances.min(1) + 1e-5 * scale)
    if len(np.unique(values)) <= k:
        np.testing.assert_array_equal(result.centroids[result.labels], values)
        assert result.error == 0
    pinned = cluster(values, k + 1, zero=True)
    np.testing.assert_array_equal(pinned.labels == 0, values == 0)
    np.testing.assert_array_equal(pinned.centroids[pinned.labels] == 0, values == 0)


@pytest.mark.parametrize("n", [2000, 70_000])
def test_order_makes_no_difference_and_a_power_of_two_scales(n: int) -> None:
    values = sample("blocks", n)
    order = np.random.default_rng(2).permutation(n)
    first, second = cluster(values, 32), cluster(values[order], 32)
    np.testing.assert_array_equal(first.labels[order], second.labels)
    np.testing.assert_allclose(first.centroids, second.centroids, rtol=1e-6)
    for scale in (2.0**-100, 3.7, 1e30):
        assert cluster(values * np.float32(scale), 32).error == pytest.approx(first.error * scale**2, rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_few_distinct_values_are_kept_exactly_however_many_and_close(shift: float) -> None:
    levels = np.array([1e-5, np.nextafter(np.float32(1e-5), np.float32(1)), 2, 3e7], np.float32) + np.float32(shift)
    levels = np.unique(levels)
    values = np.tile(levels, 50_000)
    result = cluster(values, 16)
    np.testing.assert_array_equal(result.centroids[: len(levels)], levels)
    np.testing.assert_array_equal(result.centroids[len(levels) :], levels[-1])
    np.testing.assert_array_equal(result.centroids[result.labels], values)
    assert result.error == 0


@pytest.mark.parametrize("n", [0, 1, 10, 100_000])
def test_constants(n: int) -> None:
    for value in (0.0, -0.0, 1e-45, -3e38):
        result = cluster(np.full(n, value, np.float32), 4)
        np.testing.assert_array_equal(result.centroids, np.full(4, value if n else 0, np.float32))
        assert result.labels.shape == (n,)
        assert result.error == 0


@pytest.mark.parametrize("n", [50, 100_000])
def test_pinned_zeros_are_told_from_the_smallest_values(n: int) -> None:
    values = np.tile(np.array([0.0, -0.0, 1e-45, -1e-45, 1.0], np.float32), n // 5)
    for k in (2, 3, 9):
        result = cluster(values, k, zero=True)
        np.testing.assert_array_equal(result.labels == 0, values == 0)
        np.testing.assert_array_equal(result.centroids[result.labels] == 0, values == 0)
    assert not cluster(np.zeros(n), 1, zero=True).centroids.any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_and_shapes(dtype: type[np.floating]) -> None:
    values = sample("uniform", 80_000).reshape(200, 400).T.astype(dtype)
    assert cluster(values, 257).labels.dtype == np.uint16
    assert cluster(values, 256).labels.dtype == np.uint8
    result = cluster(values, 10)
    assert result.labels.shape == (80_000,)
    assert result.error <= 1.0005 * optimum(values.ravel(), 10)
    assert distortion(values, result.centroids, result.labels) == result.error


def test_many_clusters() -> None:
    values = sample("blocks", 200_000)
    errors = [cluster(values, k).error for k in (128, 512, 2048)]
    assert errors[1] < errors[0] / 12
    assert errors[2] < errors[1] / 12
    assert len(cluster(values, 65_536).centroids) == 65_536


@pytest.mark.parametrize("n", [100, 100_000])
def test_values_that_are_not_finite_are_counted_and_placed(n: int) -> None:
    values = np.ones(n)
    values[[7, 40, 90]] = np.nan, -np.inf, 1e39
    with pytest.raises(InputError, match=rf"finite in float32; 3 of {n} are not, the first at position 7 \(nan\)"):
        cluster(values, 4)


def test_impossible_requests_are_refused() -> None:
    values = np.arange(5.0)
    for k in (0, -1, 65_537):
        with pytest.raises(InputError, match=f"expected k from 1 to 65536 clusters; got {k}"):
            cluster(values, k)
    with pytest.raises(InputError, match="k of at least 2 where zeros are pinned"):
        cluster(values, 1, zero=True)
    with pytest.raises(InputError, match="a weight for each of 5 values; got 4"):
        cluster(values, 2, weights=np.ones(4))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="weights that are finite and not negative"):
            cluster(values, 2, weights=np.array([1, 1, bad, 1, 1]))
