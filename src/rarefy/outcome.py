"""The facts about what is shipped: where its bytes went, what it answers, what it costs to run."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rarefy import encodings, measure, pack, runtime
from rarefy.classification import Classification
from rarefy.export.onnx import Exported, Exporter, TensorExporter
from rarefy.export.parity import parity
from rarefy.files import model_tensors, write_whole
from rarefy.graph.weights import Weight, weights
from rarefy.pack import Contents
from rarefy.records import Histogram, Latency, LayerRecord, Measurement, Outcome, Quality, Sizes
from rarefy.run import Run, sha256
from rarefy.task import Task, forward
from rarefy.train import evaluating

BINS = 48


@dataclass(frozen=True)
class Written:
    """A network written to its two files, and what was measured of them."""

    measurement: Measurement
    labels: Tensor | None  # its answers
    contents: Contents
    parts: dict[str, list[str]]  # parameter -> names of the tensors it is stored in


@dataclass
class Measurer:
    """Measures a network at any moment of a run, on files that it writes."""

    task: Task
    exporter: Exporter | TensorExporter
    original_labels: Tensor | None = None
    original_tensors: dict[str, Tensor] = field(default_factory=dict)  # decoded, by parameter
    original_bytes: int | None = None

    def remember(self, model: nn.Module, onnx: Path) -> Measurement:
        """Measure the network that all others are compared to."""
        self.original_tensors = {w.path: w.tensor.detach().cpu().clone() for w in weights(model)}
        written = self.files(model, onnx, onnx.with_suffix(".rfy"))
        onnx.with_suffix(".rfy").unlink()
        self.original_labels, self.original_bytes = written.labels, written.measurement.sizes.safetensors
        return written.measurement

    def files(self, model: nn.Module, onnx: Path, rfy: Path) -> Written:
        """Write both files, and measure what they hold."""
        exported = self.exporter.write(model)
        quality, labels = self._quality(model, exported)
        _claim(exported, quality, self.original_bytes)
        write_whole(onnx, exported.proto.SerializeToString())
        contents = pack.write(exported.proto, rfy)
        plain = encodings.decoded(copy.deepcopy(model))
        plain_weights = [weight.tensor for weight in weights(plain)]
        measurement = Measurement(
            sizes=Sizes(
                safetensors=measure.safetensors_bytes(model_tensors(plain)),
                onnx=measure.file_bytes(onnx),
                rfy=measure.file_bytes(rfy),
            ),
            parameters=sum(tensor.numel() for tensor in plain_weights),
            nonzero=sum(int(tensor.count_nonzero()) for tensor in plain_weights),
            macs=measure.macs(exported.proto) if exported.runs else None,
            quality=quality,
        )
        return Written(measurement, labels, contents, exported.parts)

    def _quality(self, model: nn.Module, exported: Exported) -> tuple[Quality, Tensor | None]:
        """Judged from the bytes that are written after it, but for the claim of what was judged."""
        if exported.runs:
            run, engine = measure.answer(runtime.session(exported.proto.SerializeToString())), "onnxruntime"
            return measure.quality(run, self.task, reference_labels=self.original_labels, engine=engine)
        with evaluating(model):
            return measure.quality(
                lambda inputs: forward(model, inputs),
                self.task,
                reference_labels=self.original_labels,
                engine="torch",
            )

    def outcome(self, model: nn.Module, run: Run, reasons: dict[str, str]) -> Outcome:
        """Everything that is claimed of the files in the run's folder."""
        written = self.files(model, run.onnx, run.rfy)
        result = Outcome(
            measurement=written.measurement,
            graph_bytes=written.contents.graph,
            layers=self._layers(model, written, reasons),
            sha256={f.name: sha256(f) for f in (run.onnx, run.rfy)},
            warnings=list(self.exporter.warnings),
        )
        if isinstance(self.exporter, Exporter):
            self._running_costs(result, model, run)
        self._answers(result, written.labels)
        return result

    def _running_costs(self, result: Outcome, model: nn.Module, run: Run) -> None:
        result.parity = parity(run.onnx, model, self.task)
        result.latency = latencies(run.onnx, run.original)
        result.memory_bytes = measure.memory(run.rfy)
        result.original_memory_bytes = measure.memory(run.original)
        result.energy = measure.energy(run.onnx, run.original)
        result.binary = measure.binary_layers(run.onnx)

    def _answers(self, result: Outcome, labels: Tensor | None) -> None:
        right = measure.truth(self.task)
        if labels is None or self.original_labels is None or right is None:
            return
        before, names = self.original_labels, self.task.classes
        images = self.task.images if isinstance(self.task, Classification) else None
        result.classes = measure.classes(before, labels, right, names)
        result.changed, result.changed_total = measure.changed(before, labels, right, names, images)

    def _layers(self, model: nn.Module, written: Written, reasons: dict[str, str]) -> list[LayerRecord]:
        """One row per parameter or buffer of the network, and one per constant of the graph: together, the file."""
        parts, found = written.parts, {w.path: w for w in weights(model)}
        costs, tensors = {entry.name: entry.bytes for entry in written.contents.tensors}, model_tensors(model)
        rows = []
        for name, held in parts.items():
            spent = sum(costs.pop(part, 0) for part in held)
            if name in found:
                rows.append(self._weight(found[name], spent, reasons.get(name)))
            else:
                rows.append(_plain(name, tensors[name], spent, "a buffer, no weight"))
        rows += [self._replaced(path) for path in self.original_tensors if path not in found]
        unused = "the exported network does not use it"
        rows += [self._weight(w, 0, unused) for path, w in found.items() if path not in parts]
        constants = {entry.name: entry for entry in written.contents.tensors if entry.name in costs}
        for name, entry in constants.items():
            rows.append(_row(name, list(entry.shape), "constant of the graph", 0, entry.bytes))
        return rows

    def _replaced(self, path: str) -> LayerRecord:
        """A parameter of the original that the network has no longer: other layers do its work, or none."""
        before = self.original_tensors[path]
        row = _row(path, [0], "gone", 4 * before.numel(), 0)
        row.reason = f"it had {before.numel():,} values; other layers do its work, or none"
        return row

    def _weight(self, weight: Weight, spent: int, reason: str | None) -> LayerRecord:
        tensor = weight.tensor.detach().cpu()
        before = self.original_tensors.get(weight.path)
        wide = 0 if before is None else 4 * before.numel()
        row = _row(weight.path, list(tensor.shape), encodings.describe(weight), wide, spent)
        row.zeros = int((tensor == 0).sum())
        row.reason = reason if not encodings.chain(weight) or spent == 0 else None
        if before is not None and tensor.numel() >= BINS:
            row.histogram = _histogram(before, tensor, weight)
        return row


def _row(name: str, shape: list[int], encoding: str, before: int, after: int) -> LayerRecord:
    elements = int(np.prod(shape))
    return LayerRecord(
        tensor=name,
        shape=shape,
        elements=elements,
        zeros=0,
        encoding=encoding,
        bits=8 * after / elements if elements else 0.0,
        bytes_before=before,
        bytes_after=after,
    )


def _plain(name: str, tensor: Tensor, spent: int, reason: str) -> LayerRecord:
    kind = str(tensor.dtype).removeprefix("torch.")
    row = _row(name, list(tensor.shape), kind, tensor.numel() * tensor.element_size(), spent)
    row.reason = reason
    return row


def _histogram(before: Tensor, after: Tensor, weight: Weight) -> Histogram:
    both = torch.stack([before.aminmax().min, after.aminmax().min, before.aminmax().max, after.aminmax().max])
    low, high = float(both.min()), float(both.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    alive = after[after != 0]
    codebook = encodings.find(weight, encodings.Codebook)
    centroids = encodings.stored(weight).float().tolist() if codebook else []
    return Histogram(
        low=low,
        high=high,
        before=np.histogram(before.numpy(), BINS, (low, high))[0].tolist(),
        after=np.histogram(alive.numpy(), BINS, (low, high))[0].tolist(),
        zeros=after.numel() - alive.numel(),
        centroids=centroids if len(centroids) <= 256 else [],
    )


def latencies(this: Path, original: Path) -> list[Latency]:
    """Batch 1 on one thread, and a larger batch on all of them."""
    cores = os.cpu_count() or 1
    settings = [(1, 1), (cores, 16)]
    return [measure.latency(this, original, threads=threads, batch=batch) for threads, batch in settings]


def _claim(exported: Exported, quality: Quality | None, original: int | None) -> None:
    """Write into the file what is claimed of it, so that the file alone can be verified."""
    claims: dict[str, object] = {}
    if quality:
        claims = {quality.metric: quality.value, "examples": quality.examples}
        if quality.agreement is not None:
            claims["agreement"] = quality.agreement
    if original is not None:
        claims["original_bytes"] = original
    exported.proto.metadata_props.add(key="claims", value=json.dumps(claims, separators=(",", ":")))
