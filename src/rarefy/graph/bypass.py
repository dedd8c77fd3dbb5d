"""Taking layers and blocks out of a network: which can be, and how.

What takes one tensor and gives one of the same shape and type can be replaced by `nn.Identity`. Where it is called with
more than that tensor (flags, an empty mask), which `nn.Identity` refuses, it can still leave the `nn.ModuleList` that
it is in; the paths of the others stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy.graph.calls import Call, tensors
from rarefy.graph.modules import replaced
from rarefy.graph.weights import weights

What = Literal["blocks", "layers", "both"]
Calls = dict[nn.Module, list[Call]]


@dataclass(frozen=True)
class Unit:
    """A layer or block that can be taken out: the paths of its modules, from its input to its output.

    More than one where a layer's BatchNorm stands beside it, whose statistics are those of the layer's output.
    """

    paths: tuple[str, ...]
    listed: bool = False  # leaves its list, rather than a place to be taken by nn.Identity

    @property
    def name(self) -> str:
        """The path that it is known by."""
        return self.paths[0]


def remove(model: nn.Module, unit: Unit) -> None:
    """Take a unit out of `model` (in place)."""
    for path in unit.paths:
        if unit.listed:
            parent, _, name = path.rpartition(".")
            del model.get_submodule(parent)._modules[name]
        else:
            replaced(model, path, nn.Identity())


@contextmanager
def without(model: nn.Module, units: Iterable[Unit]) -> Iterator[nn.Module]:
    """`model` with the units taken out, for a while."""
    children = [(module, dict(module._modules)) for module in model.modules()]
    try:
        for unit in units:
            remove(model, unit)
        yield model
    finally:
        for module, before in children:
            module._modules.clear()
            module._modules.update(before)


class Finder:
    """Finds what can be taken out of `model`, given the calls of one run of it.

    blocks: modules that hold several layers (of one that chains others, those inside it); layers: single ones. With
    "both", the layers inside a block that can be taken out whole are not looked at.
    """

    def __init__(self, model: nn.Module, calls: Calls, what: What) -> None:
        self.model, self.calls, self.what = model, calls, what
        self.paths = {module: path for path, module in model.named_modules()}
        self.heavy = {m for w in weights(model) if w.tensor.ndim >= 2 for m, _ in w.owners}
        last = next((m for m in reversed(calls) if m in self.heavy), None)
        self.ending = {m for m in model.modules() if last in set(m.modules())}
        self.outputs = {id(tensor) for call in calls.get(model, []) for tensor in tensors(call.output)}
        self.norms = {
            id(made[0].inputs[0]): m for m, made in calls.items() if isinstance(m, _BatchNorm) and len(made) == 1
        }

    def units(self) -> list[Unit]:
        """What can be taken out, in the order of the network's modules; no two share a module."""
        return [unit for child in _children(self.model) for unit in self._inside(child)]

    def _inside(self, module: nn.Module) -> list[Unit]:
        inner = [unit for child in _children(module) for unit in self._inside(child)]
        return inner if self.why_not(module) or self._is_chain(module, inner) else [self._unit(module)]

    def _is_chain(self, module: nn.Module, inner: list[Unit]) -> bool:
        """Whether a module only calls others in turn, as the stages of a network do: each takes what one has given.

        The parts of a residual block do not, and taken out they would leave `x + x`.
        """
        if isinstance(module, nn.Sequential):
            return bool(inner) and self._kind(module) == "blocks"
        ends = [(self._call(unit.paths[0]), self._call(unit.paths[-1])) for unit in inner]
        given = {id(last.output) for _, last in ends}
        return any(id(tensor) in given for first, _ in ends for tensor in first.tensors)

    def _call(self, path: str) -> Call:
        return self.calls[self.model.get_submodule(path)][0]

    def _unit(self, module: nn.Module) -> Unit:
        path = self.paths[module]
        if not self._takes_identity(module):
            return Unit((path,), listed=True)
        norm = None if _children(module) else self.norms.get(id(self.calls[module][0].output))
        return Unit((path,) if norm is None else (path, self.paths[norm]))

    def _kind(self, module: nn.Module) -> What | None:
        count = len(self.heavy.intersection(module.modules()))
        return None if count == 0 else "layers" if count == 1 else "blocks"

    def why_not(self, module: nn.Module) -> str | None:
        """Why a module cannot be taken out; None where it can."""
        made = self.calls.get(module, [])
        if len(made) != 1:
            return f"called {len(made)} times in one pass" if made else "not called as a module by the network"
        return self._why_not_passed(module, made[0]) or self._why_not_wanted(module)

    def _why_not_passed(self, module: nn.Module, call: Call) -> str | None:
        if len(call.tensors) != 1:
            return f"takes {len(call.tensors)} tensors"
        before, after = call.tensors[0], call.output
        if not isinstance(after, Tensor):
            return "gives something else than one tensor"
        if before.shape != after.shape:
            return f"changes the shape ({_shape(before)} -> {_shape(after)})"
        if before.dtype != after.dtype:
            return f"changes the type ({before.dtype} -> {after.dtype})".replace("torch.", "")
        if module in self.ending or id(after) in self.outputs:
            return "gives or holds the network's answer"
        if not self._takes_identity(module) and not self._in_one_list(module):
            more = [repr(x) for x in call.inputs if not isinstance(x, Tensor)] + list(call.named)
            return f"called with more than a tensor ({', '.join(more)})"
        return None

    def _why_not_wanted(self, module: nn.Module) -> str | None:
        kind = self._kind(module)
        if kind is None:
            return "a normalisation or scale, no layer by itself"
        if self.what not in ("both", kind):
            return f"one of the {kind}, and what is {self.what!r}"
        return None

    def _takes_identity(self, module: nn.Module) -> bool:
        call = self.calls[module][0]
        return len(call.inputs) == 1 and isinstance(call.inputs[0], Tensor) and not call.named

    def _in_one_list(self, module: nn.Module) -> bool:
        parents = [parent for parent in self.model.modules() for child in parent._modules.values() if child is module]
        return len(parents) == 1 and isinstance(parents[0], nn.ModuleList)


def _children(module: nn.Module) -> list[nn.Module]:
    """The modules inside, those that decode its weights left out."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def _shape(tensor: Tensor) -> str:
    """Of one example."""
    return "x".join(str(size) for size in tensor.shape[1:]) or "one number"
