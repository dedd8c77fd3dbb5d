"""Recomputing every claim of a pack or a run, from its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarefy import measure, pack
from rarefy.errors import InputError
from rarefy.records import Quality
from rarefy.run import Run, sha256
from rarefy.runtime import load
from rarefy.task import Task

TOLERANCE = 1e-9  # of metrics: the same file on the same examples gives the same answers, but engines differ in ties


@dataclass(frozen=True)
class Check:
    """One claim: what was claimed, what was found."""

    claim: str
    claimed: str
    found: str
    holds: bool


def verify(path: str | Path, task: Task | None = None) -> list[Check]:
    """Check a `.rfy` file or a run folder. With a task, the metric and the agreement are computed again.

    Raises `InputError` where the file cannot be read at all: a damaged pack has no claims.
    """
    path = Path(path)
    return _run(Run.open(path), task) if path.is_dir() else _file(path, task)


def _file(path: Path, task: Task | None) -> list[Check]:
    session = load(path)
    checks = [_check("the pack is whole: checksum and every declared size", "yes", "yes")]
    claims = _claims(session.metadata)
    if "original_bytes" in claims:
        smaller = "yes" if measure.file_bytes(path) < claims["original_bytes"] else "no"
        checks.append(_check("smaller than the original's float32 file", "yes", smaller))
    if task is not None:
        quality, _ = measure.quality(measure.answer(session), task, engine="onnxruntime")
        checks += _quality(quality, claims.get(quality.metric), claims.get("examples"))
    return checks


def _claims(metadata: dict[str, str]) -> dict[str, float]:
    """The numbers that the file claims of itself; anything else in their place is none."""
    try:
        claims = json.loads(metadata.get("claims", "{}"))
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in claims.items() if isinstance(v, (int, float))} if isinstance(claims, dict) else {}


def _run(run: Run, task: Task | None) -> list[Check]:
    outcome = run.record.outcome
    if outcome is None:
        raise InputError(f"{run.folder} is not finished, so it claims nothing yet; continue it with --resume")
    files = {run.onnx.name: run.onnx, run.rfy.name: run.rfy}
    checks = []
    for name, digest in outcome.sha256.items():
        found = sha256(files[name]) if files[name].is_file() else "missing"
        checks.append(_check(f"{name} is the file that was measured (SHA-256)", digest[:16], found[:16]))
    checks += _sizes(run)
    if run.record.original is not None:
        again = pack.read(run.rfy).SerializeToString()
        equal = _same_answers(run.onnx, again)
        checks.append(_check("model.rfy and model.onnx give the same answers, bit for bit", "yes", equal))
    if task is not None:
        checks += _answers(run, task)
    return checks


def _sizes(run: Run) -> list[Check]:
    outcome = run.record.outcome
    assert outcome is not None
    sizes, layers = outcome.measurement.sizes, outcome.layers
    found = pack.contents(run.rfy)
    total = outcome.graph_bytes + sum(layer.bytes_after for layer in layers)
    return [
        _check("bytes of model.rfy", f"{sizes.rfy:,}", f"{measure.file_bytes(run.rfy):,}"),
        _check("bytes of model.onnx", f"{sizes.onnx:,}", f"{measure.file_bytes(run.onnx):,}"),
        _check("the layers and the graph add up to model.rfy", f"{total:,}", f"{found.total:,}"),
    ]


def _same_answers(onnx: Path, packed: bytes) -> str:
    """On random inputs of the graph's own shapes."""
    import numpy as np

    from rarefy.runtime import session

    plain, unpacked = load(onnx), session(packed)
    if not plain.inputs:
        return "yes" if _outputs_equal(plain(), unpacked()) else "no"
    random = np.random.default_rng(0)
    feeds = {
        port.name: _random(random, [d if isinstance(d, int) else 2 for d in port.shape], port.dtype)
        for port in plain.inputs
    }
    return "yes" if _outputs_equal(plain(**feeds), unpacked(**feeds)) else "no"


def _random(random: Any, shape: list[int], dtype: Any) -> Any:
    import numpy as np

    kind = np.dtype(dtype)
    return random.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _outputs_equal(a: Any, b: Any) -> bool:
    import numpy as np

    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_outputs_equal(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _answers(run: Run, task: Task) -> list[Check]:
    assert run.record.outcome is not None
    claimed = run.record.outcome.measurement.quality
    if claimed is None or claimed.engine != "onnxruntime":
        return []
    _, before = measure.quality(measure.answer(load(run.original)), task, engine="onnxruntime")
    found, _ = measure.quality(measure.answer(load(run.rfy)), task, reference_labels=before, engine="onnxruntime")
    checks = _quality(found, claimed.value, claimed.examples)
    if claimed.agreement is not None and found.agreement is not None:
        holds = abs(found.agreement - claimed.agreement) <= TOLERANCE
        checks.append(
            Check(
                "same label as the original",
                f"{claimed.agreement:.4%}",
                f"{found.agreement:.4%}",
                holds,
            )
        )
    return checks


def _quality(found: Quality, value: float | None, examples: float | None) -> list[Check]:
    if value is None:
        return [Check(f"{found.metric}", "nothing", f"{found.value:.4%}", True)]
    if examples is not None and examples != found.examples:
        return [_check("examples judged", f"{examples:,}", f"{found.examples:,}")]
    close = abs(found.value - value) <= TOLERANCE
    return [Check(f"{found.metric} of model.rfy", f"{value:.4%}", f"{found.value:.4%}", close)]


def _check(claim: str, claimed: str, found: str) -> Check:
    return Check(claim, claimed, found, claimed == found)
