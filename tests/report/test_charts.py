"""Axes and the geometry of charts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.records import Epoch, Histogram
from rarefy.report import charts
from rarefy.report.axis import Axis, decades, finite, spread, steps

ANY = st.floats(allow_nan=False, allow_infinity=False)


def test_ticks_are_round() -> None:
    assert steps(0.989, 0.9934) == [0.989, 0.99, 0.991, 0.992, 0.993]
    assert steps(0, 10) == [0, 2, 4, 6, 8, 10]
    assert steps(3, 3) == [3]
    assert decades(9_000, 2_000_000) == [10_000, 100_000, 1_000_000]
    assert decades(9_000, 60_000) == [10_000, 20_000, 50_000]


@given(st.lists(ANY, min_size=1, max_size=5).filter(lambda values: any(map(finite, values))))
def test_any_values_make_an_axis(values: list[float]) -> None:
    axis = Axis(*spread(values), 0.0, 100.0)
    ticks = axis.ticks(str)
    assert 1 <= len(ticks) <= 8
    assert all(-0.5 <= tick.at <= 100.5 for tick in ticks)
    assert all(0 <= axis.place(value) <= 100 for value in values if finite(value))


def test_logarithmic_axis() -> None:
    axis = Axis(1, 100, 0.0, 100.0, log=True)
    assert [axis.place(value) for value in (1, 10, 100)] == [0, 50, 100]


def epochs(losses: list[float]) -> list[Epoch]:
    return [Epoch(epoch=i, loss=loss, lr=0.1, seconds=1) for i, loss in enumerate(losses, 1)]


def test_a_curve_goes_from_the_first_to_the_last_epoch() -> None:
    (chart,) = charts.curves("2 Finetune", epochs([4.0, 2.0, 1.0]), "accuracy")
    assert (chart.title, chart.description) == ("2 Finetune: loss", "4 at epoch 1, 1 at epoch 3")
    assert [tick.label for tick in chart.x] == ["epoch 1", "epoch 3"]
    assert chart.paths[0].d.startswith("M18.0 ")
    assert chart.paths[0].d.count("L") == 2
    highest, lowest = chart.marks
    assert highest.y < lowest.y  # pixels grow downwards


def test_an_epoch_that_diverged_is_a_gap() -> None:
    (chart,) = charts.curves("Finetune", epochs([4.0, math.nan, 2.0, math.inf]), "accuracy")
    assert chart.paths[0].d.count("M") == 2
    assert "n" not in chart.paths[0].d
    assert charts.curves("Finetune", epochs([math.nan]), "accuracy") == []


def test_validation_has_a_curve_of_its_own() -> None:
    judged = [epoch.model_copy(update={"validation": 0.9}) for epoch in epochs([1.0, 0.5])]
    titles = [chart.title for chart in charts.curves("Train", judged, "accuracy")]
    assert titles == ["Train: loss", "Train: accuracy while training"]


def test_histogram() -> None:
    found = Histogram(low=-1, high=3, before=[1, 4, 2, 1], after=[0, 2, 0, 0], zeros=3, centroids=[0.0, 9.0])
    chart = charts.histogram("fc", found, 8)
    assert chart.description == "37.50 % zeros, −1 to 3, 2 centroids"
    before, after, centroids = chart.paths
    assert before.d == "M0 74V57.5H25.00V8.0H50.00V41.0H75.00V57.5H100.00V74Z"
    assert after.d == "M0 74V74.0H25.00V8.0H50.00V74.0H75.00V74.0H100.00V74Z"
    assert centroids.d == "M25.0 76V82"  # 9.0 lies outside


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_an_empty_histogram_draws_nothing(counts: list[int]) -> None:
    found = Histogram(low=0, high=0, before=counts, after=counts, zeros=0)
    assert [path.d for path in charts.histogram("fc", found, 0).paths] == ["", "", ""]
