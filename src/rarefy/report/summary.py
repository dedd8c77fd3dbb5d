"""A run in one sentence and in four figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rarefy.records import BinaryTiming, Latency, Measurement, Outcome, Quality, RunRecord, Sizes
from rarefy.report import units


class Tile(NamedTuple):
    """A large figure, and the words that say of what."""

    figure: str
    detail: str


def shipped(sizes: Sizes) -> tuple[int, str]:
    """The smallest form that was written, and its ending: the pack, else ONNX, else the tensors."""
    if sizes.rfy is not None:
        return sizes.rfy, ".rfy"
    if sizes.onnx is not None:
        return sizes.onnx, ".onnx"
    return sizes.safetensors, ".safetensors"


def last(run: RunRecord) -> Measurement | None:
    """What the run came to: its end, or the last step that was measured."""
    if run.outcome is not None:
        return run.outcome.measurement
    return next((step.measurement for step in reversed(run.steps) if step.measurement), None)


def headline(label: str, run: RunRecord) -> str:
    """The run in one sentence: bytes, score with interval, latency; or how far it came."""
    final = last(run)
    parts = [_bytes(run.original, final), *_scores(run.original, final)]
    if run.outcome is None:
        done = f"not finished, {units.plural(len(run.steps), 'step')} done"
        parts = [f"{done}; so far {parts[0]}" if parts[0] else done, *parts[1:]]
    elif run.outcome.latency:
        parts.append(f"latency {_latency(run.outcome.latency)}")
    return f"{label}: {', '.join(filter(None, parts))}"


def binary(timed: Sequence[BinaryTiming]) -> str:
    """Whether bits paid in time, on the machine of the run."""
    lost = [t for t in timed if t.int8.verdict != "faster"]
    if not lost:
        return "On this machine bits are faster than INT8 in layers of every shape."
    shapes = ", ".join(" × ".join(map(str, t.shape)) for t in lost)
    return (
        f"On this machine bits do not pay beside INT8 in layers of {shapes}: Quantize loses less accuracy there, and "
        "is no slower."
    )


def _bytes(original: Measurement | None, final: Measurement | None) -> str:
    if final is None:
        return ""
    after = shipped(final.sizes)[0]
    if original is None:
        return units.size(after)
    before = original.sizes.safetensors
    factor = units.change(before, after)
    return f"{units.size(before)} → {units.size(after)}" + (f" ({factor})" if factor else "")


def _scores(original: Measurement | None, final: Measurement | None) -> Iterator[str]:
    if final is None or final.quality is None:
        return
    quality = final.quality
    before = original.quality if original else None
    start = f"{units.score(before.value, before.metric)} → " if before else ""
    value = units.score(quality.value, quality.metric)
    yield f"{quality.metric} {start}{value} (95 % interval {interval(quality)})"


def interval(quality: Quality) -> str:
    """98.93 to 99.30 %."""
    low, high = (units.score(value, quality.metric) for value in (quality.low, quality.high))
    return f"{low.removesuffix(' %')} to {high}"


def _latency(timings: list[Latency]) -> str:
    """One verdict where all agree, else how often each; ratios are of time, so below 1 is faster."""
    ratios = sorted(timing.ratio for timing in timings)
    span = " to ".join(dict.fromkeys(f"{ratio:.2f}x" for ratio in (ratios[0], ratios[-1])))
    verdicts = Counter(timing.verdict for timing in timings)
    if len(verdicts) == 1:
        return f"{timings[0].verdict} ({span} the time)"
    (most, often), *others = verdicts.most_common()
    words = "".join(f", {verdict} in {number}" for verdict, number in others)
    return f"{most} in {often} of {len(timings)} settings{words} ({span} the time)"


def setting(timing: Latency) -> str:
    """1 thread, batch 1."""
    return f"{units.plural(timing.threads, 'thread')}, batch {timing.batch}"


def tiles(run: RunRecord) -> list[Tile]:
    """The figures that are asked for first."""
    original, final = run.original, last(run)
    if final is None:
        return []
    return [*_size_and_score(original, final), *_speed(run.outcome), *_weights(final)]


def _size_and_score(original: Measurement | None, final: Measurement) -> Iterator[Tile]:
    if original is not None:
        before, (after, form) = original.sizes.safetensors, shipped(final.sizes)
        detail = f"{units.size(before)} of float32 → {units.size(after)} {form}"
        yield Tile(units.change(before, after) or units.size(after), detail)
    quality, base = final.quality, original.quality if original else None
    if quality is not None and base is not None:
        values = " → ".join(units.score(value.value, value.metric) for value in (base, quality))
        yield Tile(units.gained(base.value, quality.value, quality.metric), f"{quality.metric} {values}")


def _speed(outcome: Outcome | None) -> Iterator[Tile]:
    if outcome is not None and outcome.latency:
        first = outcome.latency[0]
        others = f"; {len(outcome.latency)} settings below" if len(outcome.latency) > 1 else ""
        yield Tile(first.verdict, f"latency, {first.ratio:.2f}x the time at {setting(first)}{others}")


def _weights(final: Measurement) -> Iterator[Tile]:
    if final.parameters:
        share = units.percent(final.nonzero / final.parameters)
        yield Tile(share, f"of {units.count(final.parameters)} weights are not zero")
