"""A run that makes a network binary: interrupted, and with two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rarefy import Recipe, Run, loading, train
from rarefy.files import load_tensors

RECIPE = """
steps:
  - Train: {epochs: 2, lr: 0.01}
  - Binarize: {keep: [], stochastic: true}
  - Finetune: {epochs: 3, lr: 0.01, precision: bfloat16}
"""
QUICK = '''
"""The command line, without what the result costs to run."""
from unittest import mock

from rarefy import outcome
from rarefy.cli import main

with mock.patch.object(outcome.Measurer, "_running_costs"):
    main()
'''


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (place / "quick.yaml").write_text(RECIPE)
    (place / "quick.py").write_text(QUICK)
    monkeypatch.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: None)
    return place


def compress(out: str, resume: bool = False) -> Run:
    network = loading.network("net.py:linear")
    task = loading.task("data.npz", batch_size=8)
    return Recipe.load("quick.yaml").run(network.model, task, out=out, trained=False, resume=resume)


def test_resumed_it_ends_with_the_same_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, epoch = compress("whole"), train._Training.epoch

    def dies(training: train._Training) -> None:
        if training.encoded and training.done == 2:
            raise Killed
        epoch(training)

    with monkeypatch.context() as patched:
        patched.setattr(train, "SAVE_EVERY", 0.0)
        patched.setattr(train._Training, "epoch", dies)
        with pytest.raises(Killed):
            compress("killed")
    run = compress("killed", resume=True)
    assert run.rfy.read_bytes() == expected.rfy.read_bytes()
    tensors = load_tensors(run.folder / run.record.steps[-1].tensors)[0]
    latent = tensors["1.parametrizations.weight.original"]  # in the folder, and in no file that is shipped
    assert latent.unique().numel() > 1000
    assert run.rfy.stat().st_size < latent.numel()


def test_two_processes_train_it(here: Path) -> None:
    words = ("compress", "net.py:linear", "--data", "data.npz", "--recipe", "quick.yaml", "--json", "--processes", "2")
    ended = subprocess.run(
        [sys.executable, "quick.py", *words, "--batch-size", "4", "--out", "two"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=180,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["record"]["environment"]["processes"] == 2
    record = Run.open("two").record
    assert all(torch.tensor(epoch.loss).isfinite() for step in record.steps for epoch in step.curve)
    tensors = load_tensors(Path("two") / record.steps[-1].tensors)[0]
    assert all(bool(t.isfinite().all()) for t in tensors.values())
