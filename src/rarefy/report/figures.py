"""The table of before and after: every figure that was taken of the original and of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rarefy.records import Measurement, Outcome, Quality, RunRecord
from rarefy.report import units
from rarefy.report.summary import interval, last, shipped


class Figure(NamedTuple):
    """A figure, and the exact or further words that stand small beside it."""

    text: str = units.ABSENT
    detail: str = ""


class Row(NamedTuple):
    """A figure before and after."""

    label: str
    before: Figure
    after: Figure
    change: str = ""


def before_after(run: RunRecord) -> list[Row]:
    """Every figure that was taken of the original and of the result."""
    final = last(run)
    if final is None:
        return []
    rows = [*_size_rows(run.original, final), *_count_rows(run.original, final)]
    rows += _quality_rows(run.original, final)
    return [*rows, *_cost_rows(run.outcome)] if run.outcome else rows


def _size_rows(original: Measurement | None, final: Measurement) -> Iterator[Row]:
    if original is not None:
        before, (after, form) = original.sizes.safetensors, shipped(final.sizes)
        change = units.change(before, after)
        yield Row(f"What is shipped: float32 → {form}", _bytes(before), _bytes(after), change)
    forms = {"safetensors": "Float32 tensors, .safetensors", "onnx": "ONNX file", "rfy": "Pack, .rfy"}
    for form, label in forms.items():
        start = getattr(original.sizes, form) if original else None
        yield from _row(label, start, getattr(final.sizes, form), _bytes)


def _count_rows(original: Measurement | None, final: Measurement) -> Iterator[Row]:
    labels = {"parameters": "Parameters", "nonzero": "Non-zero weights", "macs": "MACs of one example"}
    for field, label in labels.items():
        start = getattr(original, field) if original else None
        yield from _row(label, start, getattr(final, field), _count, "fewer", "more")


def _row(
    label: str,
    before: float | None,
    after: float | None,
    figure: Callable[[float], Figure],
    down: str = "smaller",
    up: str = "larger",
) -> Iterator[Row]:
    """A row where either figure is known."""
    if before is not None or after is not None:
        start, end = (Figure() if value is None else figure(value) for value in (before, after))
        yield Row(label, start, end, units.change(before, after, down, up))


def _bytes(value: float) -> Figure:
    return Figure(units.size(value), f"{value:,} B" if abs(value) >= 1000 else "")


def _count(value: float) -> Figure:
    return Figure(units.count(value))


def _joules(value: float) -> Figure:
    return Figure(units.joules(value))


def _quality_rows(original: Measurement | None, final: Measurement) -> Iterator[Row]:
    before, after = original.quality if original else None, final.quality
    known = after or before
    if known is None:
        return
    label = f"{known.metric.capitalize()} on {units.plural(known.examples, 'example')}, {known.engine}"
    gained = units.gained(before.value, after.value, known.metric) if before and after else ""
    yield Row(label, _scored(before), _scored(after), gained)
    if after is not None and after.agreement is not None:
        yield Row("Same answer as the original", Figure(), Figure(units.percent(after.agreement)))


def _scored(quality: Quality | None) -> Figure:
    if quality is None:
        return Figure()
    return Figure(units.score(quality.value, quality.metric), interval(quality))


def _cost_rows(outcome: Outcome) -> Iterator[Row]:
    memory = outcome.original_memory_bytes, outcome.memory_bytes
    yield from _row("Peak memory above the bare engine", *memory, _bytes)
    energy = outcome.energy
    if energy is not None:
        kind = "measured" if energy.source == "cpu counters" else "estimate"
        label = f"Energy of one inference ({kind})"
        yield from _row(label, energy.original_joules, energy.joules, _joules, "less", "more")
