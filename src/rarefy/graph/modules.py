"""Getting and replacing the modules of a network by path."""

from __future__ import annotations

from torch import nn


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
