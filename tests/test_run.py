from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rarefy import loading
from rarefy.errors import RarefyError, RunError
from rarefy.run import Run, sha256


def test_what_is_in_it(finished: Path) -> None:
    run = Run.open("run")
    assert run.finished
    assert {p.name for p in Path("run").iterdir()} == {
        "run.json", "original.onnx", "model.onnx", "model.rfy", "report.html", "steps",
    }  # fmt: skip
    assert [s.name for s in run.record.steps] == ["Train", "PruneWeights", "Finetune", "ClusterWeights", "Half"]
    assert sorted(p.name for p in Path("run/steps").iterdir()) == [Path(s.tensors).name for s in run.record.steps]
    outcome = run.record.outcome
    assert outcome is not None
    assert outcome.measurement.sizes.rfy == run.rfy.stat().st_size
    assert outcome.graph_bytes + sum(layer.bytes_after for layer in outcome.layers) == run.rfy.stat().st_size
    assert outcome.sha256 == {"model.onnx": sha256(run.onnx), "model.rfy": sha256(run.rfy)}


def test_it_shows_itself(finished: Path) -> None:
    run = Run.open("run")
    text = str(run)
    assert text.startswith("net.py:linear, quick: ")
    assert "x smaller" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) <= 120
    page = run._repr_html_()
    assert page.count("<tr>") == 1 + len(run.measurements()) == 6
    run.record.name = "<script>"
    assert "<script>" not in run._repr_html_()


def test_an_unfinished_run_says_so(finished: Path) -> None:
    run = Run.open("run")
    run.record.outcome = None
    assert "not finished, 5 steps done; continue with resume" in run.summary()


def test_every_step_can_be_restored(finished: Path) -> None:
    run, model = Run.open("run"), loading.network("net.py:linear").model
    before = model[1].weight.detach().clone()
    zeros = [int((run.restore(model, step)[1].weight == 0).sum()) for step in range(6)]
    assert zeros == [0, 0, *[zeros[2]] * 4]
    assert zeros[2] >= 64 * 40 // 2
    assert len(run.restore(model)[1].weight.unique()) <= 8
    assert torch.equal(model[1].weight, before)
    with pytest.raises(RunError, match="has 5 finished steps; there is no step 6"):
        run.restore(model, 6)


def test_damaged_tensors_are_refused(finished: Path) -> None:
    path = Path("run") / Run.open("run").record.steps[-1].tensors
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="cannot be read as safetensors"):
        Run.open("run").restore(loading.network("net.py:linear").model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the record of a run"),
        ("[]", "is not the record of a run"),
        ("{}", "is not the record of a run"),
        ('{"format": 2}', "is not the record of a run"),
        ("[" * 100_000, "is not the record of a run"),
        ("\x00\xff", "is not the record of a run"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text, "latin-1")
    with pytest.raises(RunError, match=message):
        Run.open(tmp_path)


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: cannot read .*No such file"):
        Run.open(tmp_path / "nowhere")


def test_mutated_records_are_read_or_refused(finished: Path) -> None:
    whole, draw = Path("run/run.json").read_bytes(), random.Random(0)
    for _ in range(200):
        bad = bytearray(whole)
        bad[draw.randrange(len(bad))] = draw.choice(b'0"{}[],:x\x00\xff')
        Path("run/run.json").write_bytes(bad)
        try:
            str(Run.open("run"))
        except RarefyError as error:
            assert "run.json is not the record of a run" in str(error)  # noqa: PT017


def changed(path: list[str | int], value: Any) -> None:
    record = json.loads(Path("run/run.json").read_text())
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    Path("run/run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["steps", 3, "plan"], {"do": {"1.weight": {"k": "many", "zero": 1}}}),
        (["steps", 3, "plan"], {"does": 1}),
        (["steps", 1, "plan", "do"], {"1.weight": {}}),
        (["steps", 1, "plan", "do", "1.weight", "pruned"], 10**9),
        (["recipe"], {"steps": ["Halve"]}),
    ],
)
def test_a_record_whose_plans_cannot_be_is_refused(finished: Path, path: list[str | int], value: Any) -> None:
    changed(path, value)
    with pytest.raises(RarefyError):
        Run.open("run").restore(loading.network("net.py:linear").model)


def test_numbers_that_json_does_not_have(finished: Path) -> None:
    run = Run.open("run")
    original, curve = run.record.original, run.record.steps[0].curve
    assert original is not None
    assert original.quality is not None
    original.quality.value, curve[0].loss = math.nan, math.inf
    run.save()
    json.loads(Path("run/run.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    again = Run.open("run").record
    assert again.original is not None
    assert again.original.quality is not None
    assert math.isnan(again.original.quality.value)
    assert again.steps[0].curve[0].loss == math.inf
