"""The ready-made task: images, or any arrays, with one label each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.data.images import Images
from rarefy.errors import DataError
from rarefy.task import Batch, Batches, Task


class Classification(Task):
    """Images (or any arrays) with one label each.

    train, judge: `Images`, or a pair `(inputs, labels)` of arrays or tensors. uint8 inputs are scaled to 0..1 and
    normalised by `mean` and `std` (per channel; the training set's own by default); float inputs are used as they are.
    holdout: share of the training examples kept back to choose checkpoints by.
    """

    metric_name = "accuracy"

    def __init__(
        self,
        train: Images | tuple[Any, Any] | None,
        judge: Images | tuple[Any, Any],
        *,
        batch_size: int = 128,
        holdout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "classification",
        seed: int = 0,
    ) -> None:
        judged = _examples(judge, "judge")
        trained = None if train is None else _examples(train, "train")
        source = judge if isinstance(judge, Images) else None
        self.classes = source.classes if source else _numbered(judged[1], trained)
        self.images = source  # for reports: the pictures that are judged
        self.batch_size, self.name = batch_size, name
        self._mean, self._std = _normalisation(train if train is not None else judge, mean, std)
        self._judge = judged
        self._train, self._held = _hold_out(trained, holdout, seed)
        self._check()

    def _check(self) -> None:
        if len(self._judge[1]) == 0:
            raise DataError("there are no images to judge on; give at least one")
        if self._train is not None and self._train[0].shape[1:] != self._judge[0].shape[1:]:
            raise DataError(
                f"training examples have shape {tuple(self._train[0].shape[1:])}, "
                f"judging examples {tuple(self._judge[0].shape[1:])}; they must be equal"
            )

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Batches:
        """Shuffled batches; with several processes, each takes its part of every global batch."""
        if self._train is None:
            raise DataError(
                f"{self.name} has no training examples, and this step trains; give data with a training part"
            )
        return _Shuffled(self, self._train, seed, rank, world)

    def judge(self) -> Batches:
        """The judging examples in their order."""
        return _Ordered(self, self._judge)

    def validation(self) -> Batches | None:
        """The held-out part of the training examples."""
        return None if self._held is None else _Ordered(self, self._held)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Cross entropy."""
        return self.smoothed_loss(output, target, 0.0)

    def smoothed_loss(self, output: Any, target: Any, smoothing: float) -> Tensor:
        """Cross entropy with label smoothing (Szegedy et al. 2016)."""
        return F.cross_entropy(_scores(output), target, label_smoothing=smoothing)

    def metric(self, output: Any, target: Any) -> Tensor:
        """1 where the answer is right, else 0."""
        right: Tensor = _scores(output).argmax(1) == target
        return right.float()

    def chance(self) -> float:
        """The share of the commonest class."""
        return float(torch.bincount(self._judge[1]).max() / len(self._judge[1]))

    def describe(self) -> str:
        """Data, counts and shape in one line."""
        n = 0 if self._train is None else len(self._train[1])
        held = "" if self._held is None else f", {len(self._held[1]):,} held out"
        shape = "x".join(str(s) for s in self._judge[0].shape[1:])
        return (
            f"{self.name}: {len(self.classes)} classes, {n:,} to train{held}, {len(self._judge[1]):,} to judge, "
            f"{shape}, batches of {self.batch_size}"
        )

    def metadata(self) -> dict[str, str]:
        """Class names, and how to turn 0..255 into the network's input."""
        meta = {"classes": "\n".join(self.classes)}
        if self._mean is not None and self._std is not None:
            meta["mean"] = " ".join(f"{255 * float(v):.6g}" for v in self._mean.flatten())
            meta["std"] = " ".join(f"{255 * float(v):.6g}" for v in self._std.flatten())
        return meta

    def prepare(self, inputs: Tensor) -> Tensor:
        """Stored examples to the network's input: uint8 (n, C, H, W) -> normalised float32."""
        if self._mean is None or inputs.dtype != torch.uint8:
            return inputs
        scaled: Tensor = inputs.float().mul_(self._scale).sub_(self._shift)
        return scaled

    @property
    def _scale(self) -> Tensor:
        assert self._std is not None
        return (255 * self._std).reciprocal()

    @property
    def _shift(self) -> Tensor:
        assert self._mean is not None
        assert self._std is not None
        return self._mean / self._std


class _Ordered:
    """All examples in their order."""

    def __init__(self, task: Classification, examples: tuple[Tensor, Tensor]) -> None:
        self.task, (self.inputs, self.labels) = task, examples

    def __len__(self) -> int:
        return -(-len(self.labels) // self.task.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        size = self.task.batch_size
        for start in range(0, len(self.labels), size):
            yield self.task.prepare(self.inputs[start : start + size]), self.labels[start : start + size]


class _Shuffled:
    """One epoch in random order. A last batch that is not full is left out: every step weighs the same."""

    def __init__(self, task: Classification, examples: tuple[Tensor, Tensor], seed: int, rank: int, world: int) -> None:
        self.task, (self.inputs, self.labels) = task, examples
        self.seed, self.rank, self.world = seed, rank, world
        self.batch = max(1, min(task.batch_size, len(self.labels) // world))

    def __len__(self) -> int:
        return len(self.labels) // (self.batch * self.world)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.seed))
        for start in range(len(self)):
            first = (start * self.world + self.rank) * self.batch
            chosen = order[first : first + self.batch]
            yield self.task.prepare(self.inputs[chosen]), self.labels[chosen]


def _scores(output: Any) -> Tensor:
    if isinstance(output, Mapping):
        output = next(iter(output.values()))
    elif isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"classification expects scores of shape (batch, classes) from the network, not {shape}; "
            "for other outputs write a Task of your own"
        )
    return output


def _examples(source: Images | tuple[Any, Any], what: str) -> tuple[Tensor, Tensor]:
    inputs, target = (source.images, source.labels) if isinstance(source, Images) else source
    x, y = torch.as_tensor(np.asarray(inputs)), torch.as_tensor(np.asarray(target)).long()
    if len(x) != len(y) or y.ndim != 1:
        raise DataError(f"{what}: expected as many labels as examples, one each; got {len(x)} and {tuple(y.shape)}")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise DataError(f"{what}: the inputs hold NaN or infinite values; clean them first")
    return x, y


def _numbered(judged: Tensor, trained: tuple[Tensor, Tensor] | None) -> tuple[str, ...]:
    found = [judged] if trained is None else [judged, trained[1]]
    top = max((int(y.max()) for y in found if len(y)), default=0)
    return tuple(str(i) for i in range(top + 1))


def _normalisation(
    source: Images | tuple[Any, Any], mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Tensor | None, Tensor | None]:
    if (mean is None) != (std is None):
        raise DataError("mean and std go together: give both or neither")
    if mean is None and isinstance(source, Images):
        mean, std = source.mean_std()
    if mean is None or std is None:
        return None, None
    channels = source.shape[0] if isinstance(source, Images) else np.shape(source[0])[1]
    if not len(mean) == len(std) == channels or not all(math.isfinite(v) for v in (*mean, *std)):
        raise DataError(
            f"mean and std need a finite number for each of the {channels} channel(s), not {list(mean)} and {list(std)}"
        )
    if min(std) <= 0:
        raise DataError(f"std must be above 0 in every channel, not {tuple(std)}: is a channel of the images constant?")
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)


def _hold_out(
    examples: tuple[Tensor, Tensor] | None, share: float, seed: int
) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None]:
    if not 0 <= share < 1:
        raise DataError(f"holdout is a share of the training examples in 0..1, not {share}")
    if examples is None or share == 0:
        return examples, None
    x, y = examples
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    cut = round(len(y) * share)
    held, rest = order[:cut], order[cut:]
    return (x[rest], y[rest]), (x[held], y[held])
