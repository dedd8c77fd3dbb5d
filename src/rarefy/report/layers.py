"""Where the bytes are: one tensor at a time, and adding up to the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rarefy.records import LayerRecord, Outcome, RunRecord
from rarefy.report import units

BARS = 12  # tensors with a bar of their own; the rest share one
PICTURES = 12  # histograms


class Bytes(NamedTuple):
    """A named part of the file before and after."""

    name: str
    before: int | None
    after: int


class Totals(NamedTuple):
    """The sums under the table of tensors; `mismatch` says where they are not the file's size."""

    rest: Bytes  # graph and headers
    whole: Bytes
    mismatch: str


def totals(run: RunRecord, outcome: Outcome) -> Totals:
    """Add up the tensors, the graph and the headers, and compare with the files."""
    sizes = outcome.measurement.sizes
    before = run.original.sizes.safetensors if run.original else None
    tensors = sum(layer.bytes_before for layer in outcome.layers)
    rest = Bytes("Graph and headers", None if before is None else before - tensors, outcome.graph_bytes)
    after = sum(layer.bytes_after for layer in outcome.layers) + outcome.graph_bytes
    mismatch = ""
    if sizes.rfy is not None and sizes.rfy != after:
        mismatch = f"The parts add up to {after:,} B, but the file has {sizes.rfy:,} B."
    if before is not None and before < tensors:
        mismatch += f" The tensors before add up to {tensors:,} B, but their file has {before:,} B."
    return Totals(rest, Bytes("Whole file", before, after), mismatch.strip())


def bars(run: RunRecord, outcome: Outcome) -> list[Bytes]:
    """The largest tensors of either file in the network's order, the others as one, graph and headers."""
    layers = [layer for layer in outcome.layers if layer.bytes_before or layer.bytes_after]
    before = max(1, sum(layer.bytes_before for layer in layers))
    after = max(1, sum(layer.bytes_after for layer in layers))

    def share(at: int) -> float:
        return max(layers[at].bytes_before / before, layers[at].bytes_after / after)

    shown = sorted(sorted(range(len(layers)), key=share, reverse=True)[:BARS])
    rows = [Bytes(layers[at].tensor, layers[at].bytes_before, layers[at].bytes_after) for at in shown]
    others = [layer for at, layer in enumerate(layers) if at not in set(shown)]
    if others:
        rows.append(_together(others))
    return [*rows, totals(run, outcome).rest]


def _together(layers: Sequence[LayerRecord]) -> Bytes:
    before = sum(layer.bytes_before for layer in layers)
    after = sum(layer.bytes_after for layer in layers)
    return Bytes(units.plural(len(layers), "other tensor"), before, after)


def pictured(outcome: Outcome) -> list[LayerRecord]:
    """The largest tensors that have a histogram, in the network's order."""
    having = [layer for layer in outcome.layers if layer.histogram]
    largest = sorted(having, key=lambda layer: layer.elements, reverse=True)[:PICTURES]
    return [layer for layer in having if layer in largest]
