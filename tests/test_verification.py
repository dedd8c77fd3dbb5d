from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from rarefy import loading, pack, verify
from rarefy.errors import InputError
from rarefy.verification import _claims


def failing(path: str, **options: Any) -> list[str]:
    return [c.claim for c in verify(path, **options) if not c.holds]


def change(path: list[str | int], value: Any) -> None:
    record = json.loads(Path("run/run.json").read_text())
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    Path("run/run.json").write_text(json.dumps(record))


def test_what_was_claimed_holds(finished: Path) -> None:
    task = loading.task("data.npz")
    assert failing("run") == []
    assert failing("run", task=task) == []
    assert failing("run/model.rfy", task=task) == []
    assert len(verify("run", task)) > len(verify("run"))


@pytest.mark.parametrize(
    ("path", "value", "claim"),
    [
        (["outcome", "measurement", "sizes", "rfy"], 1, "bytes of model.rfy"),
        (["outcome", "measurement", "sizes", "onnx"], 1, "bytes of model.onnx"),
        (["outcome", "graph_bytes"], 1, "the layers and the graph add up to model.rfy"),
        (["outcome", "sha256", "model.rfy"], "0" * 64, "model.rfy is the file that was measured (SHA-256)"),
        (["outcome", "measurement", "quality", "value"], 0.5, "accuracy of model.rfy"),
        (["outcome", "measurement", "quality", "agreement"], 0.5, "same label as the original"),
        (["outcome", "measurement", "quality", "examples"], 41, "examples judged"),
    ],
)
def test_every_false_claim_is_found(finished: Path, path: list[str | int], value: Any, claim: str) -> None:
    change(path, value)
    assert failing("run", task=loading.task("data.npz")) == [claim]


def test_another_network_in_its_place_is_found(finished: Path) -> None:
    model = onnx.load("run/model.onnx")
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    tensor.raw_data = bytes(len(tensor.raw_data))
    pack.write(model, Path("run/model.rfy"))
    found = failing("run")
    assert "model.rfy is the file that was measured (SHA-256)" in found
    assert "model.rfy and model.onnx give the same answers, bit for bit" in found


def test_an_unfinished_run_claims_nothing(finished: Path) -> None:
    change(["outcome"], None)
    with pytest.raises(InputError, match="is not finished, so it claims nothing yet; continue it with --resume"):
        verify("run")


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", {}),
        ("[1]", {}),
        ("[" * 100_000, {}),
        ('{"accuracy": "high", "original_bytes": [1], "examples": null}', {}),
        ('{"accuracy": 0.5, "x": {}}', {"accuracy": 0.5}),
    ],
)
def test_claims_of_a_file_are_numbers(text: str, claims: dict[str, float]) -> None:
    assert _claims({"claims": text}) == claims
    assert _claims({}) == {}


def test_the_public_name_stays_the_function() -> None:
    import rarefy
    import rarefy.verification

    assert rarefy.verify is rarefy.verification.verify
