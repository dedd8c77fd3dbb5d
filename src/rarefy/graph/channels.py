"""The channels of a network, in groups that can only be removed together, and what the network costs without some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy.graph.rules import RULES
from rarefy.graph.tracing import Trace, Tracer
from rarefy.graph.weights import chosen

Removed = np.ndarray  # bool, one per atom


@dataclass(frozen=True)
class Group:
    """Channels that appear in the same places: those of one layer, or of layers that are added to each other."""

    layers: tuple[str, ...]  # the weights that make them, by path
    atoms: np.ndarray  # one per channel
    width: int  # positions that each of them takes in such a weight


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter or buffer, and the atom of each of its positions; 0 always stays."""

    path: str
    dim: int
    kind: str
    atoms: np.ndarray


class Channels:
    """What a run of a network has shown of its channels."""

    def __init__(self, trace: Trace, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes, self.uses, self.reasons = shapes, trace.uses, trace.atoms.reasons()
        self._found = [(slot, trace.atoms.find(slot.labels.numpy().astype(np.int64))) for slot in trace.slots.values()]
        self.summed = [np.unique(trace.atoms.find(t.reshape(-1).numpy().astype(np.int64))) for t in trace.summed]
        self.count, self._opaque = len(trace.atoms), trace.opaque
        self._settle()

    def keep(self, atoms: Iterable[int], why: str) -> None:
        """These stay as well."""
        for atom in atoms:
            self.reasons.setdefault(int(atom), why)
        self._settle()

    def _settle(self) -> None:
        stays = np.zeros(self.count, bool)
        stays[[0, *self.reasons]] = True
        self.slots = [Slot(s.path, s.dim, s.kind, np.where(stays[a], 0, a)) for s, a in self._found]
        self.groups = self._groups()

    def _groups(self) -> list[Group]:
        """By the set of places: a random number per slot, combined by exclusive or, tells the sets apart."""
        random = np.random.default_rng(0).integers(1, 2**63, len(self.slots))
        places, made = np.zeros(self.count, np.int64), np.zeros(self.count, bool)
        for slot, number in zip(self.slots, random, strict=True):
            here = np.zeros(self.count, bool)
            here[slot.atoms] = True
            places[here] ^= number
            if slot.kind == "out":
                made |= here
        made[0] = False
        outs = [s for s in self.slots if s.kind == "out"]
        result = []
        for place in dict.fromkeys(places[made].tolist()):
            atoms = np.flatnonzero(made & (places == place))
            rows = {s.path: int((s.atoms == atoms[0]).sum()) for s in outs}
            layers = tuple(path for path, count in rows.items() if count)
            result.append(Group(layers, atoms, max(rows.values())))
        return result

    def none(self) -> Removed:
        """Nothing removed."""
        return np.zeros(self.count, bool)

    def kept(self, removed: Removed) -> dict[str, dict[int, np.ndarray]]:
        """path -> dimension -> the positions that stay, where some do not."""
        result: dict[str, dict[int, np.ndarray]] = {}
        for slot in self.slots:
            stays = ~removed[slot.atoms]
            if not stays.all():
                result.setdefault(slot.path, {})[slot.dim] = np.flatnonzero(stays)
        return result

    def macs(self, removed: Removed) -> int:
        """Multiplications by weights, over the examples of the run."""
        sizes = self._sizes(removed)
        return sum(use.positions * prod(sizes[use.path]) for use in self.uses)

    def parameters(self, removed: Removed, names: Iterable[str]) -> int:
        """Of the parameters in `names`."""
        sizes = self._sizes(removed)
        return sum(prod(sizes[name]) for name in names)

    def _sizes(self, removed: Removed) -> dict[str, list[int]]:
        sizes = {path: list(shape) for path, shape in self.shapes.items()}
        for slot in self.slots:
            sizes[slot.path][slot.dim] = int((~removed[slot.atoms]).sum())
        return sizes

    def why(self, path: str) -> str:
        """Why no channel of the weight at `path` can be removed."""
        if any(len(group.atoms) == 1 and path in group.layers for group in self.groups):
            return "its channels can only go all together: it has one, or splits and shuffles tie them"
        for slot, atoms in self._found:
            if slot.path == path and slot.kind != "in":
                return next((self.reasons[a] for a in atoms.tolist() if a in self.reasons), "")
        return self._opaque.get(path, "the network does not use it on the examples")


def traced(
    model: nn.Module, examples: Iterable[Any], whole: Mapping[str, str], skip: Iterable[str] = ()
) -> tuple[Channels, list[Any]]:
    """Run the plain network `model` on the first example, and on more while they use weights that those before did
    not: the network may decide by what it sees. Costs are those of the first.

    whole: parameters that cannot be cut, and why. skip: globs of layers whose own channels stay. Gives the channels,
    and the examples that used something new.
    """
    tracer, skip, taken = Tracer(model, RULES, whole), list(skip), list[Any]()
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    uses = tracer.trace.uses
    with torch.no_grad(), tracer.following(model):
        for inputs in examples:
            before, done = len(tracer.trace.slots), len(uses)
            output = called(model, inputs)
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor):
                    tracer.atoms.keep(tracer.labels(tensor), "it is an output of the network")
            if taken:
                uses[done:] = [replace(use, positions=0) for use in uses[done:]]
            if len(tracer.trace.slots) > before or not taken:
                taken.append(inputs)
            if matrices <= {path for path, _ in tracer.trace.slots} | tracer.trace.opaque.keys():
                break
    for slot in tracer.trace.slots.values():
        if slot.kind in ("out", "bare") and chosen(slot.path, skip):
            tracer.atoms.keep(slot.labels, "skipped, as set")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return Channels(tracer.trace, {name: tuple(t.shape) for name, t in tensors}), taken


def called(model: nn.Module, inputs: Any) -> Any:
    """The network's output for the inputs of a batch."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
