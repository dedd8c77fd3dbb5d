"""What layers see while the network before them is being changed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.calibration import POSITIONS, Hook, batches, hooked, mapped, unfolded
from rarefy.errors import StepError
from rarefy.graph.weights import Weight
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating


@dataclass
class Seen:
    """moment: E[x' x'^T] of what a layer sees now; gap: E[(x - x') x'^T], x what it saw in the original network. Both
    (groups, features, features), over `count` values of x."""

    moment: Tensor
    gap: Tensor
    count: int = 0

    def add(self, before: Tensor, now: Tensor) -> None:
        """x and x': (groups, n, features). float32 stays accurate, as each batch enters with its share."""
        total = self.count + now.shape[1]
        for mean, x in ((self.moment, now), (self.gap, before - now)):
            mean.baddbmm_(x.mT, now, beta=self.count / total, alpha=1 / total)
        self.count = total


class _EnoughError(Exception):
    """The rest of the network need not run."""


def layers(model: nn.Module, weight: Weight) -> list[str]:
    """The Linear and Conv2d layers that multiply their inputs with `weight`; none where anything else uses it."""
    owners = {id(module) for module, _ in weight.owners}
    known = all(type(module) in (nn.Linear, nn.Conv2d) and name == "weight" for module, name in weight.owners)
    return [path for path, module in model.named_modules() if id(module) in owners] if known else []


def calls(model: nn.Module, paths: Iterable[str], context: Context) -> dict[str, int]:
    """How often two examples make the network call each layer, in the order of the first calls; only those called.

    Raises `StepError` where the task has no training examples.
    """
    found: dict[str, int] = {}
    if not (paths := list(paths)):
        return found

    def look(path: str) -> Hook:
        def hook(_module: nn.Module, _x: Tensor, _output: Tensor) -> None:
            found[path] = found.get(path, 0) + 1

        return hook

    with hooked(model, {path: look(path) for path in paths}), evaluating(model):
        few = next(batches(context, 2), None)
        if few is None:
            raise StepError("the objective output needs training examples, and the task has not one batch; give some")
        _run(model, few)
    return found


def seen(
    original: nn.Module, model: nn.Module, paths: list[str], count: int, context: Context, examples: int
) -> Seen | None:
    """What the layers at `paths`, which share their weight and are called `count` times in all, see of the training
    examples in both networks; None where a batch does not reach them. Memory does not grow with `examples`."""
    tapes: tuple[list[Tensor], list[Tensor]] = ([], [])
    result: Seen | None = None

    def look(tape: list[Tensor]) -> dict[str, Hook]:
        draw = torch.Generator().manual_seed(context.seed)  # the same positions in both

        def hook(module: nn.Module, x: Tensor, _output: Tensor) -> None:
            tape.append(unfolded(module, x, POSITIONS, draw))
            if len(tape) == count:
                raise _EnoughError

        return dict.fromkeys(paths, hook)

    with (
        hooked(original, look(tapes[0])),
        hooked(model, look(tapes[1])),
        evaluating(original),
        evaluating(model),
        parametrize.cached(),
    ):
        for inputs in batches(context, examples):
            for network, tape in zip((original, model), tapes, strict=True):
                tape.clear()
                with suppress(_EnoughError):
                    _run(network, inputs)
            for before, now in zip(*tapes, strict=False):
                if result is None:
                    n = now.shape[2]
                    result = Seen(now.new_zeros(len(now), n, n), now.new_zeros(len(now), n, n))
                result.add(before, now)
    if result is not None:
        _check(paths[0], result.moment, result.gap)
    return result


def mean_squares(model: nn.Module, paths: Iterable[str], context: Context, examples: int) -> dict[str, Tensor]:
    """E[x^2] of each input of the layers at `paths`, over all their calls: (groups, features) for each path that a
    batch reaches."""
    sums: dict[str, tuple[Tensor, int]] = {}
    if not (paths := list(paths)):
        return {}

    def look(path: str) -> Hook:
        draw = torch.Generator().manual_seed(context.seed)

        def hook(module: nn.Module, x: Tensor, _output: Tensor) -> None:
            squares = unfolded(module, x, POSITIONS, draw).square()
            total, count = sums.get(path, (torch.zeros(()), 0))
            sums[path] = total.to(squares.device) + squares.sum(1, dtype=torch.float64), count + squares.shape[1]

        return hook

    with hooked(model, {path: look(path) for path in paths}), evaluating(model):
        for inputs in batches(context, examples):
            _run(model, inputs)
    for path, (total, _) in sums.items():
        _check(path, total)
    return {path: (total / max(count, 1)).float() for path, (total, count) in sums.items()}


def _check(path: str, *moments: Tensor) -> None:
    if not all(moment.isfinite().all() for moment in moments):
        raise StepError(
            f"{path} sees NaN, infinite or enormous values on training examples; look for broken examples and whether "
            "the network still answers, or set objective to weight"
        )


def _run(model: nn.Module, inputs: object) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    forward(model, mapped(inputs, lambda tensor: tensor.to(device)))
