"""Records as a run would write them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rarefy.records import (
    BinaryTiming,
    ChangedExample,
    ClassRecord,
    Energy,
    Environment,
    Epoch,
    Histogram,
    Latency,
    LayerNote,
    LayerRecord,
    Measurement,
    Outcome,
    Parity,
    Quality,
    RunRecord,
    Sizes,
    StepRecord,
    Timing,
)

MakeRun = Callable[..., RunRecord]

LENET5 = [
    ("conv1.weight", [20, 1, 5, 5]),
    ("conv1.bias", [20]),
    ("conv2.weight", [50, 20, 5, 5]),
    ("conv2.bias", [50]),
    ("fc1.weight", [500, 800]),
    ("fc1.bias", [500]),
    ("fc2.weight", [10, 500]),
    ("fc2.bias", [10]),
]
GRAPH = 1412
HEADER = 640  # of the float32 safetensors file


def quality(value: float, agreement: float | None = None, metric: str = "accuracy") -> Quality:
    half = 1.96 * math.sqrt(max(0.0, value * (1 - value)) / 10_000)
    ends = {"low": value - half, "high": value + half}
    return Quality(metric=metric, value=value, **ends, examples=10_000, agreement=agreement)


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def layer(name: str, shape: list[int], seed: int = 0) -> LayerRecord:
    elements = math.prod(shape)
    if len(shape) < 2:
        size = 4 * elements
        why = "a bias: too small for a codebook to pay"
        return LayerRecord(
            tensor=name,
            shape=shape,
            elements=elements,
            zeros=0,
            encoding="float32",
            bits=32.0,
            bytes_before=size,
            bytes_after=size,
            reason=why,
        )
    zeros = int(elements * 0.9)
    values = np.random.default_rng(seed).normal(0, 0.05, 5_000)
    before, edges = np.histogram(values, 64)
    large = np.abs(edges[:-1]) > 0.07
    after = np.where(large & (np.arange(64) % 4 == 0), before, 0)
    histogram = Histogram(
        low=float(edges[0]),
        high=float(edges[-1]),
        before=before.tolist(),
        after=after.tolist(),
        zeros=zeros,
        centroids=[float(edges[i]) for i in np.flatnonzero(large)[::4]],
    )
    return LayerRecord(
        tensor=name,
        shape=shape,
        elements=elements,
        zeros=zeros,
        encoding="codebook of 16, zero pinned",
        bits=0.21,
        bytes_before=4 * elements,
        bytes_after=elements * 21 // 800,
        histogram=histogram,
    )


def layers_of(shapes: list[tuple[str, list[int]]]) -> list[LayerRecord]:
    return [layer(name, shape, seed) for seed, (name, shape) in enumerate(shapes)]


def measured(layers: list[LayerRecord], rfy: int, score: Quality | None, zeros: bool = True) -> Measurement:
    parameters = sum(found.elements for found in layers)
    nonzero = parameters - sum(found.zeros for found in layers) if zeros else parameters
    sizes = Sizes(safetensors=4 * parameters + HEADER, onnx=4 * parameters + 2_100, rfy=rfy)
    return Measurement(sizes=sizes, parameters=parameters, nonzero=nonzero, macs=2_293_000, quality=score)


def step(index: int, name: str, measurement: Measurement | None, **fields: Any) -> StepRecord:
    notes = [
        LayerNote(parameter="fc1.weight", done="pruned 368,000 of 400,000 (92.0 %)"),
        LayerNote(parameter="fc1.bias", left="biases are not pruned"),
    ]
    return StepRecord(
        index=index,
        name=name,
        settings={"sparsity": 0.92, "scope": "global"},
        plan={},
        seconds=12.3 * index,
        tensors=f"steps/{index:02}-{name.lower()}.safetensors",
        measurement=measurement,
        **{"notes": notes, **fields},
    )


def curve(epochs: int, start: float) -> list[Epoch]:
    return [
        Epoch(epoch=i, loss=start * math.exp(-i / 4), lr=0.01 / i, seconds=3.1, validation=0.995 - 0.02 / i)
        for i in range(1, epochs + 1)
    ]


def timing(ratio: float, verdict: str, threads: int, batch: int) -> Latency:
    return Latency(
        this=Timing(median_ms=0.132 * ratio * batch, p90_ms=0.15 * batch),
        original=Timing(median_ms=0.132 * batch, p90_ms=0.149 * batch),
        ratio=ratio,
        low=ratio - 0.02,
        high=ratio + 0.02,
        verdict=verdict,
        threads=threads,
        batch=batch,
        rounds=200,
    )


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "machine": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "cpu_features": ["avx2", "fma", "avx512f", "avx512_vnni"],
        "cores": 2,
        "threads": 2,
        "system": "Linux 6.6 x86_64, glibc 2.36",
        "python": "3.11.9",
        "versions": {"rarefy": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1"},
    }
    return Environment(**values | changes)


def outcome(layers: list[LayerRecord], score: Quality | None) -> Outcome:
    rfy = sum(found.bytes_after for found in layers) + GRAPH
    changed = [
        ChangedExample(
            index=40 + i,
            name=f"test/{i}.png",
            truth=str(i % 10),
            before=str(i % 10),
            after="7",
            png=picture(i),
        )
        for i in range(13)
    ] + [
        ChangedExample(index=9, truth="4", before="9", after="4"),
        ChangedExample(index=10, truth="4", before="9", after="1"),
    ]
    return Outcome(
        measurement=measured(layers, rfy, score),
        parity=Parity(
            examples=10_000,
            max_difference=3.8e-6,
            max_difference_unoptimised=2.4e-6,
            agreement=1.0,
            agreement_unoptimised=1.0,
        ),
        latency=[timing(1.01, "unchanged", 1, 1), timing(0.84, "faster", 2, 32)],
        memory_bytes=9_800_000,
        original_memory_bytes=11_400_000,
        energy=Energy(
            joules=4.1e-5,
            original_joules=5.2e-5,
            source="estimate",
            method="operations and memory traffic at 45 nm, Horowitz 2014",
        ),
        binary=[
            BinaryTiming(shape=shape, input=[1, shape[1], 14, 14], bits=1, count=count, float32=fast, int8=against)
            for shape, count, fast, against in (
                ([256, 256, 3, 3], 3, timing(0.09, "faster", 1, 1), timing(0.37, "faster", 1, 1)),
                ([16, 16, 3, 3], 1, timing(0.81, "faster", 1, 1), timing(1.02, "unchanged", 1, 1)),
            )
        ],
        graph_bytes=GRAPH,
        layers=layers,
        classes=[
            ClassRecord(name=str(i), examples=1000, before=0.99, after=0.99 - 0.001 * (i % 4 - 1)) for i in range(10)
        ],
        changed=changed,
        changed_total=43,
        sha256={"model.onnx": "ab" * 32, "model.rfy": "cd" * 32},
        warnings=["fc2.weight: 500 weights share a sign; nothing to gain"],
    )


@pytest.fixture
def make_run() -> MakeRun:
    """A finished LeNet-5 with every section; keyword arguments replace fields of the record."""
    return build


def build(shapes: list[tuple[str, list[int]]] | None = None, score: float | None = 0.9913, **changes: Any) -> RunRecord:
    layers = layers_of(LENET5 if shapes is None else shapes)
    before = quality(0.9916) if score is not None else None
    after = quality(score, agreement=0.9957) if score is not None else None
    end = outcome(layers, after)
    rfy = end.measurement.sizes.rfy or 0
    steps = [
        step(1, "PruneWeights", measured(layers, 180_000, quality(0.9744) if before else None)),
        step(
            2,
            "Finetune",
            measured(layers, 180_400, quality(0.9921) if before else None),
            curve=curve(12, 0.1),
        ),
        step(3, "ClusterWeights", measured(layers, rfy, quality(0.9902) if before else None)),
        step(4, "Finetune", measured(layers, rfy, after), curve=curve(6, 0.05), warnings=["stopped early"]),
    ]
    values: dict[str, Any] = {
        "name": "lenet5",
        "model": "lenet5",
        "task": "MNIST: 60,000 to train on, 10,000 to judge on, accuracy",
        "classes": [str(i) for i in range(10)],
        "recipe": {
            "name": "deep-compression",
            "steps": [{"PruneWeights": {"sparsity": 0.92}}, {"Finetune": {"epochs": 12}}],
        },
        "seed": 0,
        "command": "rarefy compress lenet5 --data mnist --recipe deep-compression --seed 0 --out runs/lenet5",
        "started": "2026-11-20T09:30:00Z",
        "environment": environment(),
        "fingerprint": "f" * 16,
        "original": measured(layers, 1_580_000, before, zeros=False),
        "trained_from_scratch": True,
        "steps": steps,
        "outcome": end,
    }
    return RunRecord(**values | changes)
