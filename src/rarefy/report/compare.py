"""Several runs beside each other: the table, the chart, and what makes them hard to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rarefy.records import Measurement, Quality, RunRecord
from rarefy.report import units
from rarefy.report.axis import Axis, finite, spread
from rarefy.report.charts import LEFT, RIGHT, Chart, Mark
from rarefy.report.summary import interval, last, setting, shipped

Runs = Sequence[tuple[str, RunRecord]]
HEIGHT, TOP, BOTTOM = 300, 24, 24


class Cell(NamedTuple):
    """A figure in words, and the number that rows are sorted by."""

    text: str = units.ABSENT
    order: float = 0.0


class Compared(NamedTuple):
    """One row of the comparison."""

    size: Cell = Cell("not finished")
    ratio: Cell = Cell()
    score: Cell = Cell()
    interval: Cell = Cell()
    gained: Cell = Cell()
    latency: Cell = Cell()
    seconds: Cell = Cell()


def compared(run: RunRecord) -> Compared:
    """The figures by which runs are chosen."""
    total = sum(step.seconds for step in run.steps)
    row = Compared(seconds=Cell(units.seconds(total), total))
    final = last(run)
    if final is None:
        return row
    row = _with_quality(_with_size(row, run.original, final), run.original, final)
    for timing in run.outcome.latency[:1] if run.outcome else []:
        text = f"{timing.ratio:.2f}x, {timing.verdict} ({setting(timing)})"
        row = row._replace(latency=Cell(text, timing.ratio))
    return row


def _with_size(row: Compared, original: Measurement | None, final: Measurement) -> Compared:
    size, form = shipped(final.sizes)
    row = row._replace(size=Cell(f"{units.size(size)} {form}", size))
    if original is None or size <= 0:
        return row
    before = original.sizes.safetensors
    return row._replace(ratio=Cell(units.change(before, size) or units.ABSENT, before / size))


def _with_quality(row: Compared, original: Measurement | None, final: Measurement) -> Compared:
    after, before = final.quality, original.quality if original else None
    if after is None:
        return row
    row = row._replace(score=Cell(units.score(after.value, after.metric), after.value))
    row = row._replace(interval=Cell(interval(after), after.low))
    if before is None:
        return row
    gained = units.gained(before.value, after.value, after.metric)
    return row._replace(gained=Cell(gained, after.value - before.value))


class Difference(NamedTuple):
    """Something that is not the same in all runs."""

    what: str
    values: list[str]


def differences(runs: Runs) -> list[Difference]:
    """What else differs than the recipe: network, data, seed, machine, versions."""
    facts = [_facts(run) for _, run in runs]
    names = dict.fromkeys(name for found in facts for name in found)
    rows = [Difference(name, [found.get(name, units.ABSENT) for found in facts]) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _facts(run: RunRecord) -> dict[str, str]:
    own = {
        "model": run.model,
        "weights": run.weights or units.ABSENT,
        "task": run.task,
        "seed": str(run.seed),
    }
    if run.original is not None:
        own["original's size"] = f"{run.original.sizes.safetensors:,} B"
        if run.original.quality is not None:
            own["original's score"] = units.score(run.original.quality.value, run.original.quality.metric)
    machine = run.environment.model_dump(exclude={"versions", "cpu_features"})
    features = {"CPU features": " ".join(run.environment.cpu_features)}
    return own | {k: str(v) for k, v in machine.items()} | features | run.environment.versions


class Point(NamedTuple):
    """A network in the chart."""

    label: str
    kind: str  # "before" or "after"
    size: int
    quality: Quality


def scatter(runs: Runs) -> Chart | None:
    """Bytes (logarithmic) against score with its interval; None where that cannot be drawn."""
    points = [point for at, (_, run) in enumerate(runs, 1) for point in _points(str(at), run)]
    metrics = {point.quality.metric for point in points}
    if len(points) < 2 or len(metrics) != 1:
        return None
    metric = metrics.pop()
    sizes = [point.size for point in points]
    x = Axis(min(sizes), max(sizes), LEFT, RIGHT - 6, log=True)
    y = Axis(*spread(v for point in points for v in _extent(point.quality)), HEIGHT - BOTTOM, TOP)
    marks = [_mark(point, x, y) for point in points]
    said = f"{metric} upwards, bytes to the right; every figure is in the table of all runs"
    x_ticks = x.ticks(lambda value: units.size(round(value)))
    y_ticks = y.ticks(lambda value: units.score(value, metric))
    return Chart("Size against score", said, x_ticks, y_ticks, [], marks, HEIGHT)


def _points(label: str, run: RunRecord) -> list[Point]:
    final = last(run)
    before = run.original and run.original.quality
    after = final and final.quality
    points = []
    if run.original and before:
        points.append(Point("", "before", run.original.sizes.safetensors, before))
    if final and after:
        points.append(Point(label, "after", shipped(final.sizes)[0], after))
    return [point for point in points if point.size > 0 and all(map(finite, _extent(point.quality)))]


def _mark(point: Point, x: Axis, y: Axis) -> Mark:
    value, high, low = (y.place(end) for end in _extent(point.quality))
    return Mark(x.place(point.size), value, high, low, point.kind, point.label)


def _extent(quality: Quality) -> tuple[float, float, float]:
    return quality.value, quality.high, quality.low
