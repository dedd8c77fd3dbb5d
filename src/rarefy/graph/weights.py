"""The weights of a network, each once, by path; decoded where an encoding stores them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

RECURRENT = (nn.RNNBase,)


@dataclass(frozen=True)
class Weight:
    """One parameter of the network. Modules that share it are all among its owners."""

    path: str  # of the first owner, e.g. "features.0.weight"
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def module(self) -> nn.Module:
        """The (first) module that it belongs to."""
        return self.owners[0][0]

    @property
    def tensor(self) -> Tensor:
        """The weight as the network uses it: decoded."""
        module, name = self.owners[0]
        tensor = getattr(module, name)
        assert isinstance(tensor, Tensor)
        return tensor

    @property
    def values(self) -> nn.Parameter:
        """The parameter that training changes: the weight itself, or what its encoding stores."""
        module, name = self.owners[0]
        held = module.parametrizations[name].original if parametrize.is_parametrized(module, name) else None
        values = getattr(module, name) if held is None else held
        assert isinstance(values, nn.Parameter)
        return values

    @property
    def chain(self) -> tuple[nn.Module, ...]:
        """The parametrizations between `values` and `tensor`, innermost first."""
        module, name = self.owners[0]
        return tuple(module.parametrizations[name]) if parametrize.is_parametrized(module, name) else ()


def weights(model: nn.Module) -> list[Weight]:
    """Every parameter of `model` once, in the order of its modules."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module, name in _slots(model):
        key = id(Weight(path, ((module, name),)).values)
        owners.setdefault(key, []).append((path, module, name))
    return [Weight(group[0][0], tuple((m, n) for _, m, n in group)) for group in owners.values()]


def by_path(model: nn.Module) -> dict[str, Weight]:
    """The weights by every path that leads to them, shared ones by all of theirs."""
    modules = list(model.named_modules(remove_duplicate=False))
    owner = {(id(m), name): w for w in weights(model) for m, name in w.owners}
    return {
        f"{prefix}.{name}" if prefix else name: weight
        for prefix, module in modules
        for (key, name), weight in owner.items()
        if key == id(module)
    }


def _slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix.split("."):
            continue
        names = list(module._parameters)
        if parametrize.is_parametrized(module):
            names += list(module.parametrizations)
        for name in names:
            if module._parameters.get(name, True) is not None:
                yield f"{prefix}.{name}" if prefix else name, module, name


def chosen(path: str, globs: Iterable[str]) -> bool:
    """Whether a parameter's path, or its module's, matches one of the globs."""
    module = path.rpartition(".")[0]
    return any(fnmatch.fnmatchcase(path, g) or fnmatch.fnmatchcase(module, g) for g in globs)


def unmatched(globs: Iterable[str], found: Iterable[Weight]) -> list[str]:
    """The globs that match no parameter: misspelt ones."""
    paths = [w.path for w in found]
    return [g for g in globs if not any(chosen(p, [g]) for p in paths)]


def why_not(weight: Weight) -> str | None:
    """Why a weight cannot be stored in another way; None where it can."""
    if isinstance(weight.module, RECURRENT):
        return f"{type(weight.module).__name__} keeps its own flat copy of its weights"
    if not weight.values.is_floating_point():
        return f"stored as {weight.values.dtype}".replace("torch.", "")
    return None


def why_small(weight: Weight) -> str | None:
    """Why a weight is not worth a method for large weights: biases and scales are left."""
    if weight.tensor.ndim < 2:
        return f"one-dimensional (bias or normalisation), {weight.tensor.numel()} values"
    return None
