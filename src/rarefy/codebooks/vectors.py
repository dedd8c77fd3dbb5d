"""What both ways of sharing vectors do: one code vector at each place, or a sum of several."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from rarefy import encodings
from rarefy.codebooks import responses
from rarefy.codebooks.coding import code
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.numerics.subvectors import By, Subvectors
from rarefy.settings import Settings
from rarefy.step import Context, Plan, Step

_WIDEST = 8192  # inputs of a layer whose second moment is still kept: 256 MB
_ALONE = "it is not that of Linear or Conv2d layers of up to 8192 inputs that the network calls"


class Vectors(Settings):
    """The sizes of a layer; what is not given is as for all."""

    length: int | None = Field(None, ge=1, le=1024, description="numbers in a sub-vector, at most")
    bits: int | None = Field(None, ge=1, le=12, description="of a code: k = 2^bits code vectors in a book")


class VectorStep(Step):
    """Cuts weights into short vectors that share a few code vectors."""

    usual: ClassVar[dict[str, Any]] = {"length": 4, "bits": 2}

    length: int = Field(8, ge=1, le=1024, description="numbers in a sub-vector, at most")
    bits: int = Field(8, ge=1, le=12, description="of a code: k = 2^bits code vectors in a book")
    by: By = Field("channels", description="what a convolution's sub-vector holds: channels at a position, or kernels")
    objective: Literal["weight", "output"] = Field(
        "weight", description="whose error is least: the weights', or that of what layers answer to training examples"
    )
    examples: int = Field(512, ge=1, description="training examples for the objective output")
    layers: dict[str, Vectors] = Field({}, description="glob -> sizes of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @abstractmethod
    def _books(self, cut: Subvectors) -> tuple[int, int]:
        """Stages, and books at each."""

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The sub-vectors and the books of each layer."""
        plan, homes = Plan(), dict[str, list[str]]()
        for weight in surveyed(type(self).__name__, model, self.layers, self.skip):
            if reason := self._why_not(weight):
                plan.leave[weight.path] = reason
                continue
            cut, k = self._sizes(weight)
            stages, books = self._books(cut)
            plan.do[weight.path] = {"length": cut.length, "by": cut.by, "k": k, "stages": stages, "books": books}
            narrow = self.objective == "output" and weight.tensor[0].numel() <= _WIDEST
            homes[weight.path] = responses.layers(model, weight) if narrow else []
        if not plan.do:
            reasons = "; ".join(f"{path}: {why}" for path, why in list(plan.leave.items())[:5])
            raise StepError(f"{type(self).__name__} found no weight to share vectors of ({reasons})")
        reached = responses.calls(model, [p for home in homes.values() for p in home], context)
        for path, decision in plan.do.items():
            decision["output"] = any(home in reached for home in homes[path])
            plan.notes[path] = self._words(decision)
        return plan

    def _sizes(self, weight: Weight) -> tuple[Subvectors, int]:
        own = next((v for g, v in self.layers.items() if chosen(weight.path, [g])), Vectors())
        length, shape = own.length or self.length, tuple(weight.tensor.shape)
        few = len(shape) > 2 and shape[1] < length  # too few channels to fill a sub-vector
        return Subvectors.near(shape, length, "kernels" if few else self.by), 2 ** (own.bits or self.bits)

    def _why_not(self, weight: Weight) -> str | None:
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        if reason := why_not(weight) or why_small(weight):
            return reason
        if any(not isinstance(link, encodings.Half) for link in encodings.chain(weight)):
            done = f"stored as {encodings.describe(weight)} already"
            return f"{done}: put {type(self).__name__} before the step that did it"
        (cut, k), wide, count = self._sizes(weight), 16 if encodings.chain(weight) else 32, weight.tensor.numel()
        stages, books = self._books(cut)
        codes = len(weight.tensor) * cut.count * (k - 1).bit_length()
        if stages * (books * k * cut.length * wide + codes) >= count * wide:
            return f"books of {k} vectors of {cut.length} would be larger than its {count} values"
        return None

    def _words(self, decision: dict[str, Any]) -> str:
        stages, books, k, length = (decision[name] for name in ("stages", "books", "k", "length"))
        words = f"{f'{stages} x ' if stages > 1 else ''}{k} vectors of {length}{', at each place' if books > 1 else ''}"
        words += f" ({stages * (k - 1).bit_length() / length:.2f} bits a weight)"
        if self.objective == "weight":
            return words
        why = "for the output" if decision["output"] else f"for the weights: {_ALONE}"
        return f"{words}, {why}"

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Code each planned weight: for the output in the order in which the network calls its layers, each to make up
        for the errors of those before it."""
        found = {w.path: w for w in weights(model) if w.path in plan.do}
        homes = {path: responses.layers(model, w) for path, w in found.items() if plan.do[path]["output"]}
        calls, original = dict[str, int](), model
        if homes and not context.blank:
            calls = responses.calls(model, [p for home in homes.values() for p in home], context)
            original = encodings.copied(model)
        order = {home: i for i, home in enumerate(calls)}
        first = {path: min((order[h] for h in homes.get(path, ()) if h in order), default=-1) for path in found}
        for done, path in enumerate(sorted(found, key=lambda path: first[path])):
            called, seen = [home for home in homes.get(path, ()) if home in calls], None
            if called:
                count = sum(calls[home] for home in called)
                seen = responses.seen(original, model, called, count, context, self.examples)
            code(found[path], plan.do[path], seen, None if context.blank else context.seed)
            context.progress(type(self).__name__, done + 1, len(found))
        return model
