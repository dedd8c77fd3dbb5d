"""Several runs beside each other."""

from __future__ import annotations

from collections.abc import Callable

from rarefy.records import RunRecord
from rarefy.report import compare

MakeRun = Callable[..., RunRecord]


def test_a_row_has_the_figures_by_which_runs_are_chosen(make_run: MakeRun) -> None:
    row = compare.compared(make_run())
    assert [cell.text for cell in row] == [
        "15.0 KB .rfy",
        "115x smaller",
        "99.13 %",
        "98.95 to 99.31 %",
        "−0.03 points",
        "1.01x, unchanged (1 thread, batch 1)",
        "2 min 3 s",
    ]
    assert row.size.order == 15_032
    assert round(row.ratio.order, 1) == 114.8
    assert row.latency.order == 1.01


def test_a_run_without_any_figure(make_run: MakeRun) -> None:
    row = compare.compared(make_run(outcome=None, steps=[]))
    assert [cell.text for cell in row] == ["not finished", "–", "–", "–", "–", "–", "< 0.1 s"]


def test_only_what_differs_is_listed(make_run: MakeRun) -> None:
    one, same = make_run(), make_run(score=0.98)
    assert compare.differences([("a", one), ("b", same)]) == []
    moved = one.environment.model_copy(update={"machine": "other", "versions": {"rarefy": "0.1.0", "torch": "2.12.0"}})
    other = make_run(seed=1, environment=moved)
    assert {row.what: row.values for row in compare.differences([("a", one), ("b", other)])} == {
        "seed": ["0", "1"],
        "machine": [one.environment.machine, "other"],
        "torch": ["2.13.0", "2.12.0"],
        "onnxruntime": ["1.31.1", "–"],
    }


def test_the_chart_has_every_run_and_every_original(make_run: MakeRun) -> None:
    chart = compare.scatter([("a", make_run()), ("b", make_run(score=0.95))])
    assert chart is not None
    assert [(mark.kind, mark.label) for mark in chart.marks] == [
        ("before", ""),
        ("after", "1"),
        ("before", ""),
        ("after", "2"),
    ]
    first, second = chart.marks[1], chart.marks[3]
    assert first.y < second.y
    assert first.x == second.x < chart.marks[0].x
    assert all(mark.high < mark.y < mark.low for mark in chart.marks)
    assert [tick.label for tick in chart.x] == ["100 KB", "1,000 KB"]


def test_scores_of_different_kinds_share_no_chart(make_run: MakeRun) -> None:
    other = make_run()
    assert other.outcome is not None
    assert other.outcome.measurement.quality is not None
    other.outcome.measurement.quality.metric = "mAP"
    assert compare.scatter([("a", make_run()), ("b", other)]) is None
    assert compare.scatter([("a", make_run(score=None)), ("b", make_run(score=None))]) is None
