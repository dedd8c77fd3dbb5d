"""A task of one's own: two inputs, two outputs, its own loss and metric.

rarefy compress examples/own_task.py:network --data examples/own_task.py:Halves --recipe demo --out runs/halves

The network sees the upper and the lower half of a digit, says which digit it is, and estimates how much ink it took.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy import Images, Task
from rarefy.data import digits

BATCH = 32


class TwoHalves(nn.Module):
    """One branch for each half; two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = nn.Linear(32, 64), nn.Linear(32, 64)
        self.digit, self.ink = nn.Linear(128, 10), nn.Linear(128, 1)

    def forward(self, upper: Tensor, lower: Tensor) -> dict[str, Tensor]:
        both = torch.cat([self.upper(upper.flatten(1)), self.lower(lower.flatten(1))], 1).relu()
        return {"digit": self.digit(both), "ink": self.ink(both)}


class Batches:
    """One pass over the images at `order`: inputs by the names of `forward`'s arguments, and a target of any kind."""

    def __init__(self, images: Images, order: Tensor) -> None:
        self.pixels = torch.from_numpy(images.images)[order].float() / 255  # (n, 1, 8, 8)
        self.labels = torch.from_numpy(images.labels)[order]

    def __len__(self) -> int:
        return -(-len(self.labels) // BATCH)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for x, label in zip(self.pixels.split(BATCH), self.labels.split(BATCH), strict=True):
            yield {"upper": x[:, :, :4], "lower": x[:, :, 4:]}, {"digit": label, "ink": x.mean((1, 2, 3))}


class Halves(Task):
    """The four members that a task must have."""

    metric_name = "digits right"

    def __init__(self) -> None:
        self.split = digits()

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Batches:
        assert self.split.train is not None
        order = torch.randperm(len(self.split.train), generator=torch.Generator().manual_seed(seed))
        return Batches(self.split.train, order[rank::world])  # each process its own share

    def judge(self) -> Batches:
        return Batches(self.split.judge, torch.arange(len(self.split.judge)))

    def loss(self, output: Any, target: Any) -> Tensor:
        return F.cross_entropy(output["digit"], target["digit"]) + F.mse_loss(output["ink"][:, 0], target["ink"])

    def metric(self, output: Any, target: Any) -> Tensor:
        return (output["digit"].argmax(1) == target["digit"]).float()  # one score per example


def network() -> nn.Module:
    """The network, with weights that nobody trained yet."""
    return TwoHalves()
