"""Getting and replacing the modules of a network by path."""

from __future__ import annotations

import copy

from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy whose modules are its own and whose tensors are those of `model`: to be replaced, never to be changed."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def replaced(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put `new` (in place) where the module at `path` is, and everywhere else where that same module is used.

    Its mode (training or not) is taken over. Gives the network: `new` itself where `path` is "", the whole of it.
    """
    old = model.get_submodule(path)
    new.train(old.training)
    if old is model:
        return new
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
    return model
