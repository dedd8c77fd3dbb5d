"""What every module of a network is called with, and gives, seen by running it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Call:
    """One call of a module. The tensors are those that the network passed on, not copies."""

    inputs: tuple[Any, ...]
    named: dict[str, Any]
    output: Any

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that came in, however deep."""
        return tensors((self.inputs, self.named))


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a value of any form, in its order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def calls(model: nn.Module, run: Callable[[], Any]) -> dict[nn.Module, list[Call]]:
    """Every call of every module of `model` during `run()`; modules in the order in which they first returned."""
    made: dict[nn.Module, list[Call]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        made.setdefault(module, []).append(Call(inputs, named, output))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return made
