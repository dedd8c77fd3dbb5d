"""The road from the original to the result: size, score and time after each step."""

from __future__ import annotations

from typing import NamedTuple

from rarefy.records import Measurement, Quality, RunRecord, StepRecord
from rarefy.report import units
from rarefy.report.axis import Axis, finite, spread
from rarefy.report.summary import interval, shipped


class Strip(NamedTuple):
    """A score with its interval on the axis that all steps share, in percent of the width."""

    value: float
    low: float
    high: float
    original: float | None


class Station(NamedTuple):
    """One row: the original, or the network after a step."""

    name: str
    size: str
    share: float | None  # of the largest, in percent
    score: str
    interval: str
    strip: Strip | None
    nonzero: str
    macs: str
    time: str  # of the network, against the original
    seconds: str


def stations(run: RunRecord) -> list[Station]:
    """A row for the original and for every step."""
    reached: list[tuple[str, Measurement | None, str]] = []
    for step in run.steps:
        reached.append((f"{step.index} {step.name}", step.measurement, units.seconds(step.seconds)))
        if step.alone is not None:
            reached.append(("the same student without a teacher", step.alone, ""))
    if run.original is not None:
        reached.insert(0, ("Original", run.original, ""))
    axis = _axis(run)
    largest = max((_size(run, m)[0] for _, m, _ in reached if m), default=0)
    return [_station(run, at, axis, largest) for at in reached]


def _station(run: RunRecord, at: tuple[str, Measurement | None, str], axis: Axis | None, largest: int) -> Station:
    name, measured, seconds = at
    if measured is None:
        return Station(name, units.ABSENT, None, units.ABSENT, "", None, units.ABSENT, units.ABSENT, "", seconds)
    size, form = _size(run, measured)
    quality = measured.quality
    return Station(
        name,
        f"{units.size(size)} {form}",
        100 * size / largest if largest > 0 else None,
        units.score(quality.value, quality.metric) if quality else units.ABSENT,
        interval(quality) if quality else "",
        _strip(run, measured, axis),
        units.percent(measured.nonzero / measured.parameters) if measured.parameters else units.ABSENT,
        units.short(measured.macs) if measured.macs is not None else units.ABSENT,
        f"{measured.latency.ratio:.2f}x, {measured.latency.verdict}" if measured.latency else "",
        seconds,
    )


def _size(run: RunRecord, measured: Measurement) -> tuple[int, str]:
    """The original counts as its float32 file, the others as what would be shipped."""
    return (measured.sizes.safetensors, "float32") if measured is run.original else shipped(measured.sizes)


def _axis(run: RunRecord) -> Axis | None:
    ends = [end for q in _qualities(run) for end in (q.low, q.high) if finite(end)]
    if not ends:
        return None
    low, high = spread(ends)
    bound = 1.0 if _qualities(run)[0].metric == "accuracy" else high
    return Axis(low, max(min(high, bound), *ends), 0.0, 100.0)


def _strip(run: RunRecord, measured: Measurement, axis: Axis | None) -> Strip | None:
    quality = measured.quality
    if quality is None or axis is None or not all(map(finite, (quality.value, quality.low, quality.high))):
        return None
    base = run.original.quality if run.original else None
    reference = axis.place(base.value) if base and finite(base.value) else None
    low, high = axis.place(quality.low), axis.place(quality.high)
    return Strip(axis.place(quality.value), low, high, reference)


def span(run: RunRecord) -> str:
    """The two ends of the axis of scores in words."""
    axis = _axis(run)
    if axis is None:
        return ""
    metric = _qualities(run)[0].metric
    return " to ".join(units.score(end, metric) for end in (axis.low, axis.high))


def _qualities(run: RunRecord) -> list[Quality]:
    measured = [run.original, *(m for step in run.steps for m in (step.measurement, step.alone))]
    return [m.quality for m in measured if m and m.quality]


def training(run: RunRecord) -> list[StepRecord]:
    """The steps that have a training curve."""
    return [step for step in run.steps if step.curve]
