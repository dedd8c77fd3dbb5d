"""The order in which layers and blocks are taken out: those first that matter least on training examples."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rarefy.graph.bypass import Unit, without
from rarefy.graph.calls import tensors
from rarefy.step import Context
from rarefy.task import Batch, forward

By = Literal["loss", "similarity", "random"]


class Ranking:
    """Units of `model` in the order in which they go, found as far as it is asked for.

    The network runs in the mode that it is in, and is left as it was. count: training examples to judge by, to whole
    batches, held in memory. rescore: what is left is scored again after each removal.
    """

    def __init__(
        self, model: nn.Module, units: list[Unit], context: Context, by: By, rescore: bool, count: int
    ) -> None:
        self.model, self.by, self.rescore, self.context = model, by, rescore, context
        self.batches = _some(context.task.train(seed=context.seed), count)
        self.generator = random.Random(context.seed)
        self.order: list[Unit] = []
        self.scores: dict[Unit, float] = {}
        passes = {unit: len(changes) for unit, changes in self._watched(units).items()}
        self.left = [unit for unit in units if passes[unit] == len(self.batches)]
        self.unsteady = {unit for unit in units if passes[unit] != len(self.batches)}  # not called once in each pass

    def first(self, count: int) -> list[Unit]:
        """The `count` units that go first."""
        while len(self.order) < count:
            if self.rescore or not self.order:
                with without(self.model, self.order):
                    self.scores |= self._scored()
            least = min(self.left, key=self.scores.__getitem__)
            self.left.remove(least)
            self.order.append(least)
        return self.order[:count]

    def _scored(self) -> dict[Unit, float]:
        if self.by == "random":
            return {unit: self.generator.random() for unit in self.left}
        if self.by == "similarity":
            return {u: float(torch.cat(changes).mean()) for u, changes in self._watched(self.left).items()}
        base, scores = self._loss(), {}
        for i, unit in enumerate(self.left):
            self.context.progress("scoring layers", i, len(self.left))
            with without(self.model, [unit]):
                rise = self._loss() - base
            scores[unit] = rise if math.isfinite(rise) else math.inf
        return scores

    def _loss(self) -> float:
        """Mean over the examples."""
        task, total, examples = self.context.task, 0.0, 0
        for inputs, target in self.batches:
            count = _length(inputs)
            total += count * float(task.loss(forward(self.model, inputs), target))
            examples += count
        return total / examples

    def _watched(self, units: list[Unit]) -> dict[Unit, list[Tensor]]:
        """By how much each unit changes each example, call by call."""
        changes: dict[Unit, list[Tensor]] = {unit: [] for unit in units}
        with _watching(self.model, changes):
            for inputs, _ in self.batches:
                forward(self.model, inputs)
        return changes


@contextmanager
def _watching(model: nn.Module, changes: Mapping[Unit, list[Tensor]]) -> Iterator[None]:
    handles = []
    for unit, found in changes.items():
        before, after = _hooks(found)
        first, last = model.get_submodule(unit.paths[0]), model.get_submodule(unit.paths[-1])
        handles.append(first.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(last.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(changes: list[Tensor]) -> tuple[Callable[..., None], Callable[..., None]]:
    held: list[Tensor] = []

    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        held[:] = [tensors((inputs, named))[0].clone()]  # a block may work in place

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        changes.append(change(held.pop(), output))

    return before, after


def change(x: Tensor, y: Tensor) -> Tensor:
    """|y - x| / max(|x|, |y|) of each example, 0 where both are zero. (n, ...) twice -> (n,), between 0 and 2."""
    x, y = x.reshape(len(x), -1).float(), y.reshape(len(y), -1).float()
    largest = torch.maximum(x.norm(dim=1), y.norm(dim=1))
    changed: Tensor = (y - x).norm(dim=1) / largest.clamp_min(torch.finfo(torch.float32).tiny)
    return changed


def _some(batches: Any, count: int) -> list[Batch]:
    """Whole batches of at least `count` examples together, or all there are."""
    found: list[Batch] = []
    for batch in batches:
        found.append(batch)
        count -= _length(batch[0])
        if count <= 0:
            break
    return found


def _length(inputs: Any) -> int:
    return len(tensors(inputs)[0])
