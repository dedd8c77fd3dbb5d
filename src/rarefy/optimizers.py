"""Optimizers and learning rates by their settings; what an optimizer remembers, as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rarefy.training_step import TrainingStep


def make(
    model: nn.Module, settings: TrainingStep, rates: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """Weight decay is for weights: biases, normalisation and centroids (one dimension) are not drawn to zero.

    rates: parameters with a learning rate of their own, as a share of the others'; not drawn to zero either.
    """
    own = dict(rates or {})
    trainable = [p for p in model.parameters() if p.requires_grad and p not in own]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay, "share": 1.0},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0, "share": 1.0},
        *({"params": [p], "weight_decay": 0.0, "share": share} for p, share in own.items()),
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.lr, settings.momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, settings.lr, fused=True)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, by name."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}/{name}": torch.as_tensor(value)
        for i, kept in state.items()
        for name, value in kept.items()
        if value is not None
    }


def restore_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer back what `state_tensors` told."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def schedule(settings: TrainingStep, progress: float) -> float:
    """The share of `lr` at `progress` in 0..1."""
    if progress < settings.warmup:
        return (progress + 0.01 * settings.warmup) / (1.01 * settings.warmup)
    progress = (progress - settings.warmup) / (1 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "linear":
        return 1 - progress
    if settings.schedule == "step":
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
    return 1.0
