"""Figures as words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (13_912, "13.9 KB"),
        (99_960, "100 KB"),
        (1_724_320, "1,724 KB"),
        (9_800_000, "9.80 MB"),
        (44_661_000, "44.7 MB"),
        (5_000_000_000, "5.00 GB"),
    ],
)
def test_size(value: int, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 %"),
        (1.0, "100.00 %"),
        (0.9916, "99.16 %"),
        (0.99998, "99.998 %"),
        (0.00001, "0.001 %"),
        (float("nan"), "nan %"),
    ],
)
def test_percent_is_never_a_false_nothing_or_everything(value: float, text: str) -> None:
    assert units.percent(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1_724_320, 13_912, "124x smaller"),
        (100, 105, "1.05x larger"),
        (5, 5, "unchanged"),
        (0, 5, ""),
        (5, 0, ""),
        (None, 5, ""),
    ],
)
def test_change(before: float | None, after: float | None, text: str) -> None:
    assert units.change(before, after) == text


@pytest.mark.parametrize(
    ("before", "after", "metric", "text"),
    [
        (0.9916, 0.9913, "accuracy", "−0.03 points"),
        (0.99, 0.9915, "accuracy", "+0.15 points"),
        (0.9, 0.899999, "accuracy", "0.00 points"),
        (0.9, 0.9, "mAP", "0"),
        (31.5, 31.25, "PSNR", "−0.25"),
    ],
)
def test_gained(before: float, after: float, metric: str, text: str) -> None:
    assert units.gained(before, after, metric) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01, "< 0.1 s"), (4.21, "4.2 s"), (59.97, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.24, "1.24 J"), (0.000512, "0.512 mJ"), (1.24e-5, "12.4 µJ")])
def test_joules(value: float, text: str) -> None:
    assert units.joules(value) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"), [(1, "step", "1 step"), (0, "class", "0 classes"), (1200, "run", "1,200 runs")]
)
def test_plural(number: int, noun: str, text: str) -> None:
    assert units.plural(number, noun) == text


def test_no_line_ends_between_a_figure_and_its_unit() -> None:
    assert units.unbroken("13.9 KB, 99.1 % of 3 steps") == "13.9\u00a0KB, 99.1\u00a0% of 3 steps"


@given(st.floats(1e-3, 1e12))
def test_three_significant_digits(value: float) -> None:
    assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)
