"""The state of a training on disk: tensors by group, and some JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import optimizers
from rarefy.files import load_tensors, model_tensors, restore, save_tensors


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, best: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write all that a training goes on from."""
    groups = {"model": model_tensors(model), "best": best, "optimizer": optimizers.state_tensors(optimizer)}
    tensors = {f"{group}/{n}": t for group, named in groups.items() for n, t in named.items()}
    save_tensors(path, tensors, state)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Put the network and the optimizer (in place) back to what was saved; gives the best tensors and the JSON."""
    tensors, state = load_tensors(path)

    def group(name: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{name}/"): t for n, t in tensors.items() if n.startswith(f"{name}/")}

    restore(model, group("model"), str(path))
    optimizers.restore_state(optimizer, group("optimizer"))
    return group("best"), state
