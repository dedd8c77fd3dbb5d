"""What a network is run on to find its channels, and to check that it does without some of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from rarefy.graph.channels import called

MOST = 16  # examples of a batch
WORTH = 2e9  # multiplications that a check may cost, beside those of two examples


def single(batch: Any) -> Iterator[Any]:
    """Examples of a batch, each a batch of one."""
    for i in range(min(_length(batch), MOST)):
        yield _part(batch, slice(i, i + 1))


def beside(batch: Any, count: int) -> Any:
    """The first examples of a batch, and a made-up one that differs in all that a network may look at: floats are
    disturbed, and zero from the middle on; what is true is drawn, and other numbers are drawn from the batch."""
    generator = torch.Generator().manual_seed(0)

    def more(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0:
            return tensor
        made_up = _made_up(tensor.detach().cpu(), generator).to(tensor.device)
        return torch.cat([tensor[:count], made_up])

    return tree_map_only(Tensor, more, batch)


def _made_up(values: Tensor, generator: torch.Generator) -> Tensor:
    """A further row."""
    one = values[-1:]
    if values.dtype == torch.bool:
        return torch.rand(one.shape, generator=generator) < 0.5
    if not values.is_floating_point():
        return values.flatten()[torch.randint(values.numel(), one.shape, generator=generator)]
    spread = float(values.float().std(correction=0)) or 1.0
    one = one + spread * torch.randn(one.shape, generator=generator).to(values.dtype)
    if one.ndim > 2:
        one[:, (one.shape[1] + 1) // 2 :] = 0  # as padding is
    return one


def _part(batch: Any, where: slice) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor[where] if tensor.ndim else tensor, batch)


def _length(batch: Any) -> int:
    return min((len(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim), default=1)


class Examples:
    """What a network is checked on: some of a batch and a made-up one, where it takes that, and examples that take
    other ways through it. What it answers to all of these alike does not depend on the example."""

    def __init__(self, taken: list[Any], batch: Any, macs: int) -> None:
        """taken: those that it was traced on. macs: multiplications of one."""
        self.first = taken[0]
        count = max(1, min(_length(batch), MOST - 1, int(WORTH / max(macs, 1))))
        self._run = [beside(batch, count), *taken[1:]]

    def outputs(self, model: nn.Module) -> list[Any]:
        """What the network answers to each."""
        return [called(model, inputs) for inputs in self._run]

    def settled(self, model: nn.Module) -> list[Any]:
        """The same at a first look; where the network fails on what was made up, without that from now on."""
        try:
            return self.outputs(model)
        except Exception:  # anything may happen in the user's code; with real examples, it is raised
            self._run[0] = self.first
            return self.outputs(model)
