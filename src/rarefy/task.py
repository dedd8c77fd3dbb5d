"""What a network is for: batches to train on, batches to judge on, a loss, a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = tuple[Any, Any]  # inputs (a tensor, a sequence, or a dict of them), target


class Batches(Protocol):
    """One pass over some examples: a `DataLoader` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Task(ABC):
    """Four members make a task; everything else has a default.

    A batch is `(inputs, target)`. `inputs` is a tensor (`model(x)`), a sequence (`model(*x)`) or a dict
    (`model(**x)`); the network's output goes to `loss` and `metric` as it comes: a tensor, a sequence, a dict.
    """

    metric_name: str = "score"
    classes: Sequence[str] = ()

    @abstractmethod
    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Batches:
        """One epoch of training batches, in an order that `seed` fixes; the share of `rank` among `world` processes."""

    @abstractmethod
    def judge(self) -> Batches:
        """The batches to judge on, always the same, never trained on."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The loss of a batch, a scalar."""

    @abstractmethod
    def metric(self, output: Any, target: Any) -> Tensor:
        """One score per example, higher is better; their mean is the metric. Shape (n,)."""

    def validation(self) -> Batches | None:
        """Batches held out of training to choose checkpoints by; None where there are none."""
        return None

    def chance(self) -> float | None:
        """The metric that guessing reaches; None where it is not known."""
        return None

    def describe(self) -> str:
        """One line for the records."""
        return type(self).__name__

    def metadata(self) -> dict[str, str]:
        """What a user of the shipped file has to know (classes, normalisation): goes into the file."""
        return {}


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call `model` on the inputs of a batch."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def labels(output: Any) -> Tensor | None:
    """The answer per example if the output is (or first holds) a matrix of scores, else None. Shape (n,)."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1:
        return output.argmax(1)
    return None


def scores(batches: Iterable[Batch], task: Task, answer: Any) -> tuple[Tensor, Tensor | None]:
    """Metric per example and label per example (or None) of `answer(inputs) -> output` over `batches`."""
    metric, answers = [], []
    for inputs, target in batches:
        output = answer(inputs)
        metric.append(task.metric(output, target).detach().float().cpu())
        answers.append(labels(output))
    found = [a.cpu() for a in answers if a is not None]
    return torch.cat(metric), torch.cat(found) if len(found) == len(answers) and found else None
