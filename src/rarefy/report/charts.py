"""Charts as plain geometry: x in percent of the width, y in pixels, so that they fit any screen unscaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rarefy.records import Epoch, Histogram
from rarefy.report import units
from rarefy.report.axis import Axis, Tick, finite, spread

HEIGHT = 150
TOP, BOTTOM = 20, 22  # room for the highest label and for the labels below
LEFT, RIGHT = 18.0, 96.0  # percent of the width


class Mark(NamedTuple):
    """A point, its interval as a vertical line, and a word beside it."""

    x: float
    y: float
    high: float
    low: float
    kind: str
    label: str = ""


class Path(NamedTuple):
    """A line or an area; `kind` is its class in the style sheet."""

    kind: str
    d: str


@dataclass(frozen=True)
class Chart:
    """What the template draws."""

    title: str
    description: str
    x: list[Tick] = field(default_factory=list)
    y: list[Tick] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    height: int = HEIGHT


def curve(title: str, points: Sequence[tuple[float, float]], label: Callable[[float], str]) -> Chart | None:
    """A line over epochs; points that are not finite are gaps. None where no point is finite."""
    drawn = [point for point in points if finite(point[1])]
    if not drawn:
        return None
    x = Axis(drawn[0][0], drawn[-1][0], LEFT, RIGHT)
    y = Axis(*spread(value for _, value in drawn), HEIGHT - BOTTOM, TOP)
    places = [(x.place(at), y.place(value)) if finite(value) else None for at, value in points]
    ends = dict.fromkeys((drawn[0], drawn[-1]))
    marks = [Mark(x.place(at), y.place(v), y.place(v), y.place(v), "after") for at, v in ends]
    said = ", ".join(f"{label(value)} at epoch {at:g}" for at, value in ends)
    ticks = [Tick(x.place(at), f"epoch {at:g}") for at, _ in ends]
    return Chart(title, said, ticks, y.ticks(label), [Path("line after", _line(places))], marks)


def _line(places: Iterable[tuple[float, float] | None]) -> str:
    """SVG path data; a None lifts the pen."""
    words, pen = [], "M"
    for place in places:
        words.append(f"{pen}{place[0]} {place[1]}" if place else "")
        pen = "L" if place else "M"
    return "".join(words)


def curves(step: str, epochs: Sequence[Epoch], metric: str) -> list[Chart]:
    """The loss of a step that trained and, where it was judged between, its score."""
    loss = [(float(epoch.epoch), epoch.loss) for epoch in epochs]
    judged = [(float(e.epoch), e.validation) for e in epochs if e.validation is not None]
    return [
        chart
        for chart in (
            curve(f"{step}: loss", loss, units.plain),
            curve(f"{step}: {metric} while training", judged, lambda value: units.score(value, metric)),
        )
        if chart
    ]


def histogram(name: str, found: Histogram, elements: int) -> Chart:
    """Weights before as an area, after as bars, each scaled to its own highest bin; centroids as marks."""
    height, base = 96, 74
    x = Axis(found.low, found.high, 0.0, 100.0)
    zeros = f"{units.percent(found.zeros / elements)} zeros, " if elements else ""
    marked = units.plural(len(found.centroids), "centroid")
    said = f"{zeros}{units.plain(found.low)} to {units.plain(found.high)}, {marked}"
    paths = [Path("area before", _bins(found.before, base)), Path("area after", _bins(found.after, base))]
    inside = [c for c in found.centroids if found.low <= c <= found.high]
    strokes = "".join(f"M{x.place(c)} {base + 2}V{base + 8}" for c in inside)
    ends = [Tick(0.0, units.plain(found.low)), Tick(100.0, units.plain(found.high))]
    if found.low < 0 < found.high:
        ends.insert(1, Tick(x.place(0.0), "0"))
    return Chart(name, said, ends, [], [*paths, Path("line centroids", strokes)], height=height)


def _bins(counts: Sequence[int], base: int) -> str:
    """The outline of bars that fill the width and stand on `base`."""
    top, width = max(counts, default=0), 100 / max(1, len(counts))
    if top <= 0:
        return ""
    bars = (f"V{base - 66 * n / top:.1f}H{(i + 1) * width:.2f}" for i, n in enumerate(counts))
    return f"M0 {base}{''.join(bars)}V{base}Z"
