"""A network run on a few examples with parts of it taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rarefy.graph.bypass import Finder, Unit, What, without
from rarefy.graph.calls import calls, tensors
from rarefy.graph.weights import Weight


class Trial:
    """Which units of `model` can be taken out, found by taking out each and running the rest, and why others stay.

    run: calls the network on a few examples, in the mode and with the gradients that are set. found: all its weights.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Any], what: What, found: list[Weight]) -> None:
        self.model, self.run, self.skipped = model, run, set[str]()
        made = calls(model, run)
        self.finder = Finder(model, made, what)
        self.form = _form(made[model][0].output)
        self.learns = self._stumbles() is None
        self.units = self.finder.units()
        self.holders = {m: u for u in self.units for p in u.paths for m in model.get_submodule(p).modules()}
        self.stays = {unit: f"without it {problem}" for unit in self.units if (problem := self.fails([unit]))}
        own = {self.unit(weight) for weight in found}
        self.stays |= {unit: "shares its parameters with what stays" for unit in self.units if unit not in own}

    @property
    def open(self) -> list[Unit]:
        """The units that may go."""
        return [unit for unit in self.units if unit not in self.stays]

    def fails(self, gone: list[Unit]) -> str | None:
        """What happens without these units; None where the network gives outputs of the same form, and can be trained
        if it could before."""
        try:
            with without(self.model, gone):
                form = _form(self.run())
                stumbles = self._stumbles() if self.learns else None
        except Exception as error:  # whatever other people's networks raise
            return f"the network does not run ({type(error).__name__}: {error})".replace("\n", " ")
        return stumbles if form == self.form else "the network gives outputs of another form"

    def _stumbles(self) -> str | None:
        """Why gradients cannot be found; None where they can."""
        free = [p for p in self.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            reached = [t for t in tensors(self.run()) if t.requires_grad]
            try:
                torch.autograd.grad([t.float().sum() for t in reached], free, allow_unused=True)
            except RuntimeError:
                return "the network cannot be trained: it overwrites what the gradients need, with an operator in place"
        return None

    def unit(self, weight: Weight) -> Unit | None:
        """The unit that holds the weight, in all places where it is used."""
        units = {self.holders.get(module) for module, _ in weight.owners}
        return units.pop() if len(units) == 1 else None

    def skip(self, given: list[Weight]) -> None:
        """Keep these weights, and all units that use them."""
        self.skipped = {weight.path for weight in given}
        units = {self.holders.get(module) for weight in given for module, _ in weight.owners}
        self.stays |= {unit: "skipped, as set" for unit in units if unit}

    def why_left(self, weight: Weight) -> str:
        """Why a weight is left."""
        if weight.path in self.skipped:
            return "skipped, as set"
        if unit := self.unit(weight):
            return self.stays[unit]
        if len({self.holders.get(module) for module, _ in weight.owners}) > 1:
            return "shared with what stays"
        if "." not in weight.path:
            return "belongs to the network itself"
        return self.finder.why_not(weight.module) or "belongs to no layer or block that can be taken out"

    def summary(self, found: list[Weight]) -> str:
        """Some of the reasons."""
        reasons = {self.why_left(weight): weight.path for weight in reversed(found)}
        return "; ".join(f"{path} {reason}" for reason, path in list(reasons.items())[::-1][:4])


def _form(output: Any) -> list[tuple[Any, ...]]:
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors(output)]
