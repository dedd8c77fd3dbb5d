"""The weights of a network, each once, by path; decoded where an encoding stores them."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.errors import ModelError, StepError

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
        values = _lists(module)[name].original if parametrize.is_parametrized(module, name) else getattr(module, name)
        assert isinstance(values, nn.Parameter)
        return values

    @property
    def chain(self) -> tuple[nn.Module, ...]:
        """The parametrizations between `values` and `tensor`, innermost first."""
        module, name = self.owners[0]
        return tuple(_lists(module)[name]) if parametrize.is_parametrized(module, name) else ()


def weights(model: nn.Module) -> list[Weight]:
    """Every parameter of `model` once, in the order of its modules."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module, name in _slots(model):
        key = id(Weight(path, ((module, name),)).values)
        owners.setdefault(key, []).append((path, module, name))
    return [Weight(group[0][0], tuple((m, n) for _, m, n in group)) for group in owners.values()]


def by_path(model: nn.Module) -> dict[str, Weight]:
    """The weights by every path that leads to them, shared ones by all of theirs."""
    owned: dict[int, list[tuple[str, Weight]]] = {}
    for weight in weights(model):
        for module, name in weight.owners:
            owned.setdefault(id(module), []).append((name, weight))
    return {
        f"{prefix}.{name}" if prefix else name: weight
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, weight in owned.get(id(module), [])
    }


def _slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix.split("."):
            continue
        for name in [*_parametrized(module, prefix), *module._parameters]:
            if module._parameters.get(name, True) is not None:
                yield f"{prefix}.{name}" if prefix else name, module, name


def _lists(module: nn.Module) -> dict[str, Any]:
    """The parametrizations of a module by the name of the tensor."""
    assert isinstance(module.parametrizations, nn.ModuleDict)
    return dict(module.parametrizations.items())


def _parametrized(module: nn.Module, prefix: str) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    lists = _lists(module)
    for name, links in lists.items():
        if not links.is_tensor:
            kinds = ", ".join(type(link).__name__ for link in links)
            raise ModelError(
                f"{prefix}.{name} is made of several tensors by {kinds}; bake it in first, with "
                "torch.nn.utils.parametrize.remove_parametrizations or rarefy.encodings.adopted(model)"
            )
    return list(lists)


def chosen(path: str, globs: Iterable[str]) -> bool:
    """Whether a parameter's path, or its module's, matches one of the globs."""
    module = path.rpartition(".")[0]
    return any(fnmatch.fnmatchcase(path, g) or fnmatch.fnmatchcase(module, g) for g in globs)


def unmatched(globs: Iterable[str], found: Iterable[Weight]) -> list[str]:
    """The globs that match no parameter: misspelt ones."""
    paths = [w.path for w in found]
    return [g for g in globs if not any(chosen(p, [g]) for p in paths)]


def surveyed(step: str, model: nn.Module, globs: Iterable[str], skip: Iterable[str]) -> list[Weight]:
    """The weights of `model`, for a step to plan with.

    Raises `StepError` for globs that match no parameter, and for NaN or infinite values in what `skip` does not leave.
    """
    found, skip = weights(model), list(skip)
    if missing := unmatched([*globs, *skip], found):
        paths = ", ".join(w.path for w in found[:8]) + (", ..." if len(found) > 8 else "")
        raise StepError(f"{step}: no parameter matches {', '.join(missing)}; the network has {paths}")
    broken = [w.path for w in found if not chosen(w.path, skip) and not _finite(w.values)]
    if broken:
        raise StepError(
            f"{step}: NaN or infinite values in {', '.join(broken[:8])}; train the network again with a lower rate, "
            "or name what is meant to be so in skip"
        )
    return found


def _finite(values: Tensor) -> bool:
    """Of a sum: one pass, and no second tensor."""
    return bool(values.isfinite().all()) if not math.isfinite(float(values.detach().sum())) else True


def why_not(weight: Weight) -> str | None:
    """Why a weight cannot be stored in another way; None where it can."""
    if isinstance(weight.module, RECURRENT):
        return f"{type(weight.module).__name__} keeps its own flat copy of its weights"
    if weight.values.dtype != torch.float32:
        remedy = ": give the network as model.float()" if weight.values.is_floating_point() else ""
        return f"stored as {weight.values.dtype}, not float32{remedy}".replace("torch.", "")
    if weight.values.numel() == 0:
        return "it is empty"
    return None


def why_small(weight: Weight) -> str | None:
    """Why a weight is not worth a method for large weights: biases and scales are left."""
    if weight.tensor.ndim < 2:
        return f"one-dimensional (bias or normalisation), {weight.tensor.numel()} values"
    return None
