"""A small network of the user's own, data for it, and the command line inside this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

NETWORK = '''
"""What a user may bring: networks and a task."""
import torch
from torch import nn
from rarefy import Task


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 4))


def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 4))


def raises():
    raise KeyError("no such thing")


def wants(argument):
    return nn.Linear(1, 1)


def number():
    return 7


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(3, 5)

    def forward(self, left, right):
        return {"sum": self.left(left) + self.right(right)}


class Regression(Task):
    metric_name = "closeness"

    def _batches(self, seed):
        draw = torch.Generator().manual_seed(seed)
        left, right = torch.randn(32, 6, generator=draw), torch.randn(32, 3, generator=draw)
        return [({"left": left, "right": right}, left[:, :5] + right.mean(1, keepdim=True))] * 4

    def train(self, *, seed, rank=0, world=1):
        return self._batches(seed)

    def judge(self):
        return self._batches(12345)

    def loss(self, output, target):
        return (output["sum"] - target).square().mean()

    def metric(self, output, target):
        return 1 / (1 + (output["sum"] - target).abs().mean(1))


def regression():
    return Regression()
'''

RECIPE = """
name: quick
steps:
  - Train: {epochs: 6, lr: 0.01}
  - PruneWeights: {sparsity: 0.5}
  - Finetune: {epochs: 2}
  - ClusterWeights: {bits: 3}
  - Half
"""


def images(seed: int, count: int = 40, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright quarter that says the class, one of four."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    pixels = draw.integers(0, 100, (count, size, size))
    half = size // 2
    for i, label in enumerate(labels):
        pixels[i, half * (label // 2) :, half * (label % 2) :][:half, :half] += 150
    return pixels.astype(np.uint8), labels


def lay_out(folder: Path) -> Path:
    """The files that a user may have: net.py, data.npz, quick.yaml."""
    (folder / "net.py").write_text(NETWORK)
    (folder / "quick.yaml").write_text(RECIPE)
    (x, y), (u, v) = images(0), images(1)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    return folder


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str


Rarefy = Callable[..., Said]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's files in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lay_out(tmp_path)


@pytest.fixture
def rarefy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rarefy:
    """`rarefy("compress", ...)` in this process."""
    from rarefy.cli import main

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["rarefy", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run for all tests; `finished` copies it."""
    from rarefy import loading
    from rarefy.recipe import Recipe

    folder = lay_out(tmp_path_factory.mktemp("finished"))
    task = loading.task(str(folder / "data.npz"), batch_size=8)
    network = loading.network(f"{folder}/net.py:linear")
    Recipe.load(folder / "quick.yaml").run(
        network.model, task, out=folder / "run", trained=False, name="net.py:linear", command="rarefy compress ..."
    )
    return folder


@pytest.fixture
def finished(_finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's files and the finished run of `quick.yaml` in `run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copytree(_finished, tmp_path, dirs_exist_ok=True)
    return tmp_path
