"""Every version of the kernels against a float64 convolution, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernels import oracle
from rarefy.errors import InputError
from rarefy.kernels import Convolution, Filters, custom_ops, features, pack_bits, pack_signs, unpack_bits

VERSIONS = features().available
many = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAREFY_KERNELS", request.param)
    assert features().version == request.param
    return str(request.param)


@given(case=oracle.convolutions())
@example(case=((40, 20, 3, 3), (2, 20, 1, 1), Convolution(padding=(1, 1, 1, 1)), 0))  # one pixel, mostly of padding
@many
def test_convolution(version: str, case: tuple) -> None:
    shape, x_shape, how, seed = case
    weight, x, scale, bias = oracle.drawn(shape, x_shape, seed)
    filters = Filters(pack_bits(weight), shape)
    found = filters.conv2d(x, scale, bias, how)
    exact = oracle.sums(x, weight, how)
    if how.map:
        wanted = exact * scale[:, None, None] * oracle.magnitudes(x, shape, how) + bias[:, None, None]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * shape[1])
    else:
        wanted = exact.astype(np.float32) * scale[:, None, None] + bias[:, None, None]
        assert np.array_equal(found, wanted)
    assert np.array_equal(filters.conv2d(x, scale, bias, how, signs=True), pack_signs(found))
    if not how.bits and not how.map:
        assert np.array_equal(filters.conv2d(pack_signs(x), scale, bias, how), found)
        threshold = np.random.default_rng(seed).choice(x.ravel(), shape[1]) if x.size else np.ones(shape[1], np.float32)
        above = filters.conv2d(x, scale, bias, how, threshold=threshold)
        assert np.array_equal(above, filters.conv2d(x - threshold[:, None, None], scale, bias, how))


@given(
    batch=st.integers(0, 9),
    features_=st.one_of(st.integers(1, 100), st.sampled_from([224, 225, 1024, 2500])),
    count=st.integers(1, 140),
    bits=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
@many
def test_linear(version: str, batch: int, features_: int, count: int, bits: int, seed: int) -> None:
    weight, x, scale, bias = oracle.drawn((count, features_), (batch, features_), seed)
    how = Convolution(bits=bits, steps=2.5)
    filters = Filters(pack_bits(weight), weight.shape)
    found = filters.linear(x, scale, bias, bits=bits, steps=2.5)
    exact = oracle.sums(x[:, :, None, None], weight[:, :, None, None], how)[..., 0, 0]
    assert np.array_equal(found, exact.astype(np.float32) * scale + bias)
    assert np.array_equal(filters.linear(x, scale, bias, bits=bits, steps=2.5, signs=True), pack_signs(found))
    if not bits:
        assert np.array_equal(filters.linear(pack_signs(x), scale, bias), found)
        threshold = np.random.default_rng(seed).standard_normal(features_).astype(np.float32)
        above = filters.linear(x, scale, bias, threshold=threshold)
        assert np.array_equal(above, filters.linear(x - threshold, scale, bias))


@given(case=oracle.convolutions())
@settings(max_examples=60, deadline=None)
def test_all_versions_give_the_same_bits(case: tuple) -> None:
    shape, x_shape, how, seed = case
    weight, x, scale, bias = oracle.drawn(shape, x_shape, seed)
    found = []
    for name in VERSIONS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAREFY_KERNELS", name)
            found.append(Filters(pack_bits(weight), shape).conv2d(x, scale, bias, how).view(np.uint32))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_extremes(version: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-45, 3.4e38], np.float32)[None]
    one = np.ones(1, np.float32)
    for index, (sign, level) in enumerate([(-1, 0), (1, 3), (-1, 0), (1, 0), (1, 0), (1, 0), (-1, 0), (1, 3)]):
        filters = Filters(pack_bits(np.ones((1, 1))), (1, 1))
        assert filters.linear(x[:, index : index + 1], one, 0 * one) == sign
        assert filters.linear(x[:, index : index + 1], one, 0 * one, bits=2, steps=3.0) == level


def test_a_filter_beyond_the_image_sees_only_padding(version: str) -> None:
    how = Convolution(padding=(3, 3, 3, 3), dilation=(3, 3), stride=(2, 2))
    weight, x, scale, bias = oracle.drawn((5, 33, 2, 2), (1, 33, 1, 1), 0)
    found = Filters(pack_bits(weight), weight.shape).conv2d(x, scale, bias, how)
    assert np.array_equal(
        found, oracle.sums(x, weight, how).astype(np.float32) * scale[:, None, None] + bias[:, None, None]
    )


def test_bits_come_back() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 5, 2, 3))
    assert np.array_equal(unpack_bits(pack_bits(weight), weight.shape), np.where(weight >= 0, 1, -1))
    with pytest.raises(InputError, match=r"two dimensions or more, not the shape \[3\]"):
        pack_bits(np.ones(3))


def test_filters_that_do_not_fit(version: str) -> None:
    with pytest.raises(InputError, match=r"uint8\[4, 3\], not uint8\[4, 2\]"):
        Filters(np.zeros((4, 2), np.uint8), (4, 2, 3, 3))
    with pytest.raises(InputError, match=r"2 or 4 sizes of at least 1, not \[4, 0\]"):
        Filters(np.zeros((4, 0), np.uint8), (4, 0))


def test_calls_that_do_not_fit(version: str) -> None:
    filters = Filters(np.zeros((4, 3), np.uint8), (4, 2, 3, 3))
    x, four = np.zeros((1, 2, 5, 5), np.float32), np.zeros(4, np.float32)
    with pytest.raises(InputError, match=r"float32\[batch, 2, height, width\].* not float32\[1, 3, 5, 5\]"):
        filters.conv2d(np.zeros((1, 3, 5, 5), np.float32), four, four)
    with pytest.raises(InputError, match="x must be float32 or packed uint32, not float64"):
        filters.conv2d(x.astype(np.float64), four, four)
    with pytest.raises(InputError, match=r"scale must be float32\[4\], not float32\[3\]"):
        filters.conv2d(x, four[:3], four)
    with pytest.raises(InputError, match=r"filters of \[3, 3\], dilation \[4, 1\], on a padded image of \[5, 5\]"):
        filters.conv2d(x, four, four, Convolution(dilation=(4, 1)))
    with pytest.raises(InputError, match="are for `conv2d`"):
        filters.linear(np.zeros((1, 18), np.float32), four, four)
    with pytest.raises(InputError, match="neither more bits nor magnitudes"):
        filters.conv2d(pack_signs(x), four, four, Convolution(bits=2))
    for how in (Convolution(bits=2), Convolution(map=True)):
        with pytest.raises(InputError, match="a threshold is for signs"):
            filters.conv2d(x, four, four, how, threshold=four[:2])
    with pytest.raises(InputError, match=r"threshold must be float32\[2\], not float32\[4\]"):
        filters.conv2d(x, four, four, threshold=four)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stride": (0, 1)}, "stride and dilation must be at least 1"),
        ({"padding": (0, -1, 0, 0)}, "padding at least 0"),
        ({"bits": 5}, "1 to 4 bits, or 0 for signs, not 5"),
        ({"bits": 2, "pad_value": 1}, "0 beside integers, not 1"),
        ({"pad_value": 2}, "-1, 0 or 1 beside signs"),
        ({"steps": float("nan")}, "positive and finite, not nan"),
    ],
)
def test_settings_that_cannot_be(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Convolution(**wrong)


def test_a_version_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREFY_KERNELS", "avx1024")
    with pytest.raises(InputError, match="RAREFY_KERNELS is 'avx1024', of which this machine has none"):
        Filters(np.zeros((4, 1), np.uint8), (4, 2))


def test_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREFY_KERNELS", "numpy")
    assert str(features()) == "numpy (forced by RAREFY_KERNELS)" or "slow" in str(features())
    assert custom_ops() is None


@pytest.mark.parametrize("features_", [65_504, 65_536 + 40])
@pytest.mark.parametrize("bits", [0, 4])
def test_counts_beyond_sixteen_bits(version: str, features_: int, bits: int) -> None:
    """Every weight differs from every activation, so that each narrower sum inside a version would overflow."""
    x, one = np.ones((1, features_), np.float32), np.ones(3, np.float32)
    filters = Filters(pack_bits(-np.ones((3, features_))), (3, features_))
    levels = 2**bits - 1 if bits else 1
    found = filters.linear(x, one, 0 * one, bits=bits, steps=float(levels))
    assert np.array_equal(found, np.full((1, 3), -features_ * levels, np.float32))
