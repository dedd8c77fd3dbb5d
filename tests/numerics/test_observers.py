"""Ranges from streams, against what sorting everything gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rarefy.errors import InputError
from rarefy.numerics.affine import dequantize, parameters, quantize
from rarefy.numerics.observers import CELLS, METHODS, Method, Observer


def images(count: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(count, 4000, generator=torch.Generator().manual_seed(seed))


def told(values: Tensor, batch: int = 8) -> Observer:
    observer = Observer()
    for part in values.split(batch):
        observer.add(part)
    return observer


def error(values: Tensor, bounds: tuple[float, float], symmetric: bool = False) -> float:
    low, high = (torch.tensor(bound) for bound in bounds)
    scale, point = parameters(low, high, 8, symmetric=symmetric, signed=False)
    return float((dequantize(quantize(values, scale, point, 0, 255), scale, point) - values).double().square().mean())


def test_minmax_and_percentile() -> None:
    values = images()
    assert told(values).range("minmax") == (float(values.min()), float(values.max()))
    low, high = told(values).range("percentile")
    wanted = np.quantile(values.numpy(), [1e-4, 1 - 1e-4])
    assert [low, high] == pytest.approx(wanted.tolist(), rel=0.03)


def test_average_moves_slowly() -> None:
    observer = told(torch.ones(2, 3), 2)
    observer.add(torch.full((2, 3), 11.0))
    assert observer.range("average") == (0.0, pytest.approx(2.0))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [images(), images().relu(), images().exp(), images() - 5], ids=str)
def test_mse_is_near_the_best_of_a_fine_search(values: Tensor, symmetric: bool) -> None:
    found = error(values, told(values).range("mse", symmetric=symmetric), symmetric)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    grid = [(low * a, high * b) for a in np.linspace(0.05, 1, 20) for b in np.linspace(0.05, 1, 20)]
    assert found <= 1.08 * min(error(values, bounds, symmetric) for bounds in grid)


@pytest.mark.parametrize("method", ["mse", "percentile", "entropy"])
def test_one_image_fifty_times_as_bright_hardly_matters(method: Method) -> None:
    values = images()
    spoilt = values.clone()
    spoilt[3] *= 50
    usual, with_it = told(values).range(method), told(spoilt).range(method)
    assert with_it == pytest.approx(usual, rel=0.1)
    assert told(spoilt).range("minmax")[1] > 20 * usual[1]


@pytest.mark.parametrize("method", METHODS)
def test_ranges_scale_with_the_values_and_hold_zero(method: Method) -> None:
    values = images(8).abs() + 1
    low, high = told(values).range(method)
    assert low == 0
    assert 2 < high <= float(values.max())
    assert told(values * 1024).range(method)[1] == pytest.approx(1024 * high, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 2.5, -1e-20])
def test_constants(method: Method, constant: float) -> None:
    low, high = told(torch.full((4, 10), constant)).range(method)
    assert low <= min(constant, 0) * 0.999
    assert high >= max(constant, 0) * 0.999


def test_memory_does_not_grow_with_the_examples() -> None:
    observer = told(images(400) * torch.logspace(-3, 3, 400)[:, None])
    held = sum(counts.numel() for counts in observer.counts.values())
    assert held <= 24 * CELLS
    before = held
    for _ in range(3):
        observer.add(images(40))
    assert sum(counts.numel() for counts in observer.counts.values()) <= before + CELLS


def test_the_batches_make_no_difference() -> None:
    values = images()
    assert told(values, 40).range("mse") == told(values, 1).range("mse")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = images(3)
    values[1, 7] = bad
    with pytest.raises(InputError, match="expected finite values"):
        told(values)


def test_nothing_seen() -> None:
    with pytest.raises(InputError, match="expected at least one example"):
        Observer().range("mse")
