"""The command line with two processes (gloo) against one with the double batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from given import Rarefy
from rarefy.errors import ExportError
from rarefy.files import load_tensors
from rarefy.run import Run

QUICK = '''
"""The command line, without what takes long: tracing, and what the result costs to run."""
from unittest import mock

from rarefy import conduct, outcome
from rarefy.cli import main
from rarefy.errors import ExportError

with (
    mock.patch.object(outcome.Measurer, "_running_costs"),
    mock.patch.object(conduct, "Exporter", side_effect=ExportError("not traced here")),
):
    main()
'''
RECIPE = "steps: [{Train: {epochs: 2, lr: 0.01}}, {PruneWeights: {sparsity: 0.5}}, {Finetune: {epochs: 1}}, Half]"


COMPRESS = ("compress", "net.py:linear", "--data", "data.npz", "--recipe", "quick.yaml", "--json")


def with_two(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "quick.py", *COMPRESS, "--processes", "2", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )


@pytest.fixture
def quick(place: Path) -> Path:
    (place / "quick.py").write_text(QUICK)
    (place / "quick.yaml").write_text(RECIPE)
    return place


def test_the_same_network_as_one_with_the_double_batch(
    quick: Path, rarefy: Rarefy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = with_two("--batch-size", "4", "--out", "two")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["record"]["environment"]["processes"] == 2  # printed once
    monkeypatch.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: None)
    monkeypatch.setattr("rarefy.conduct.Exporter", mock.Mock(side_effect=ExportError("not traced here")))
    assert rarefy(*COMPRESS, "--batch-size", 8, "--out", "one").status == 0
    one, two = Run.open("one"), Run.open("two")
    assert {p.name for p in two.folder.rglob("*")} == {p.name for p in one.folder.rglob("*")}
    for step, (first, second) in enumerate(zip(one.record.steps, two.record.steps, strict=True)):
        tensors, others = (load_tensors(r.folder / s.tensors)[0] for r, s in ((one, first), (two, second)))
        if step < 2:  # then rounding may decide which weights are pruned
            torch.testing.assert_close(tensors, others, rtol=1e-3, atol=1e-4)
        assert [e.loss for e in second.curve] == pytest.approx([e.loss for e in first.curve], rel=1e-2)


def test_an_error_is_said_once(quick: Path) -> None:
    (quick / "quick.yaml").write_text("steps: [{Train: {epochs: 1}}, {PruneWeights: {sparsity: 0.5, skip: ['*']}}]")
    ended = with_two("--out", "two")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "PruneWeights found no weight to prune" in ended.stderr


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_a_process_that_was_left_alone_leaves_the_word_to_the_first(
    rarefy: Rarefy, monkeypatch: pytest.MonkeyPatch, rank: str, lines: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    closed = RuntimeError("[/torch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:7566.")
    monkeypatch.setattr("rarefy.inspection.table", mock.Mock(side_effect=closed))
    said = rarefy("methods")
    assert (said.status, said.err.count("\n")) == (1, lines)
