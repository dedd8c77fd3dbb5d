"""How much each channel matters: the scores of the rows that make it, or of the columns that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rarefy.errors import StepError
from rarefy.graph.channels import Channels
from rarefy.numerics import importance
from rarefy.step import Context
from rarefy.task import forward

Score = Literal["l1", "l2", "geometric-median", "batchnorm", "taylor", "outgoing", "random"]
Measure = Callable[[Tensor, int], Tensor]  # a weight and its dimension -> one score per position
NORMS: dict[Score, Measure] = {
    "l1": importance.l1,
    "l2": importance.l2,
    "geometric-median": importance.geometric_median,
    "outgoing": importance.l2,
}
KINDS: dict[Score, str] = {"outgoing": "in", "batchnorm": "scale"}  # of slots; else the rows that make a channel


def scored(
    model: nn.Module, channels: Channels, score: Score, context: Context, *, divided: bool, examples: int
) -> np.ndarray:
    """One score per atom: the mean over the places where it appears. Channels without such a place score infinity.

    divided: by the mean of the channel's group, so that layers of other sizes can be compared (norms only).
    """
    if score == "random":
        return np.random.default_rng(context.seed).random(channels.count)
    sums, counts = np.zeros(channels.count), np.zeros(channels.count)
    losses = _losses(model, channels, context, examples) if score == "taylor" else None
    parameters = dict(model.named_parameters())
    for slot in channels.slots:
        if slot.kind != KINDS.get(score, "out") or slot.path not in parameters:
            continue
        weight = parameters[slot.path]
        rows = losses[slot.path] if losses else NORMS.get(score, _scale)(weight, slot.dim)
        atoms = np.tile(slot.atoms, len(rows) // len(slot.atoms))
        sums += np.bincount(atoms, rows.cpu().numpy(), channels.count)
        counts += np.bincount(atoms, minlength=channels.count)
    scores: np.ndarray = np.divide(sums, counts, out=np.full(channels.count, np.inf), where=counts > 0)
    if not any(np.isfinite(scores[g.atoms]).any() for g in channels.groups):
        raise StepError(f"PruneChannels: no channel has what the score {score!r} looks at; choose another score")
    if divided and score in NORMS:
        for group in channels.groups:
            known = scores[group.atoms][np.isfinite(scores[group.atoms])]
            scores[group.atoms] /= max(known.mean(), 1e-30) if len(known) else 1
    return scores


def _scale(weight: Tensor, _dim: int) -> Tensor:
    return weight.detach().abs()


def _losses(model: nn.Module, channels: Channels, context: Context, examples: int) -> dict[str, Tensor]:
    """Weight -> what the loss loses by each row, squared and summed over training batches."""
    slots = [s for s in channels.slots if s.kind == "out"]
    parameters, losses = dict(model.named_parameters()), dict[str, Tensor]()
    device, seen = next(iter(parameters.values())).device, 0
    wanted = [parameters[s.path] for s in slots]
    with torch.enable_grad(), _learning(wanted):
        for inputs, target in context.task.train(seed=context.seed):
            inputs, target = _to(inputs, device), _to(target, device)
            loss = context.task.loss(forward(model, inputs), target)
            gradients = _gradients(loss, wanted)
            for slot, weight, gradient in zip(slots, wanted, gradients, strict=True):
                rows = importance.taylor(weight, torch.zeros_like(weight) if gradient is None else gradient, slot.dim)
                losses[slot.path] = losses.get(slot.path, 0) + rows
            seen += len(next(iter(_leaves(inputs))))
            if seen >= examples:
                break
    return losses


@contextmanager
def _learning(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Frozen ones have gradients meanwhile."""
    frozen = [p for p in parameters if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_()
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _gradients(loss: Tensor, wanted: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, wanted, allow_unused=True)
    except RuntimeError as error:
        raise StepError(
            "PruneChannels: the score 'taylor' needs gradients, which this network does not give, often because it "
            f"overwrites what they need, in place ({str(error).splitlines()[0]}); choose another score"
        ) from error


def _leaves(tree: object) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _to(tree: object, device: torch.device) -> object:
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(device), tree)
