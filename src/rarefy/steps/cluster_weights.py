"""Weight sharing: a codebook per layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rarefy import encodings
from rarefy.codebooks import responses
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.numerics.clustering import cluster
from rarefy.settings import Settings
from rarefy.step import Context, Plan, Step

_OTHERS = "it is not that of Linear or Conv2d layers that the network calls"


class Size(Settings):
    """The size of a codebook: one of the two."""

    bits: int | None = Field(None, ge=1, le=16, description="k = 2^bits")
    k: int | None = Field(None, ge=2, le=65536, description="number of values, a pinned zero among them")

    @model_validator(mode="after")
    def _one(self) -> Size:
        if (self.bits is None) == (self.k is None):
            raise ValueError("give either bits or k")
        return self

    def count(self) -> int:
        """The number of values."""
        return self.k or 2 ** (self.bits or 0)


class ClusterWeights(Step):
    """Replaces the weights of each layer by k shared values and an index per weight.

    minimise  sum_i h_i (w_i - c[a_i])^2 + rate * -log2 p[a_i]  over centroids c and assignments a, in one dimension.
    h = 1, or for the objective `output` E[x^2] of the input that the weight is multiplied with, the diagonal of the
    layer's Hessian. Without a rate `optimal` finds it (within a fraction of a per cent, in linear time); `linear`,
    `density` and `random` are the three initialisations of the paper, each followed by Lloyd's iterations. With one,
    frequent values draw weights in, as an entropy-coded index costs what its frequency p says, and some of the k
    may be left without any. A pruned weight stays pruned: zero is then one of the k values. A `Finetune` afterwards
    trains the centroids.
    """

    gains: ClassVar[str] = (
        "bytes: log2 k bits per weight, less after entropy coding; not time: weights are looked up once, at loading"
    )
    paper: ClassVar[str] = (
        "Han, Mao, Dally 2016, Deep Compression (arXiv:1510.00149); Choi, El-Khamy, Lee 2017, Towards the Limit of "
        "Network Quantization, for Hessian weights and entropy (arXiv:1612.01543)"
    )
    usual: ClassVar[dict[str, Any]] = {"bits": 4}

    bits: int | None = Field(None, ge=1, le=16, description="k = 2^bits")
    k: int | None = Field(None, ge=2, le=65536, description="number of values, a pinned zero among them")
    init: Literal["optimal", "linear", "density", "random"] = "optimal"
    biases: bool = Field(False, description="also one-dimensional parameters, where a codebook pays")
    objective: Literal["weight", "output"] = Field(
        "weight", description="whose error is least: the weights', or that of what layers answer to training examples"
    )
    examples: int = Field(512, ge=1, description="training examples for the objective output")
    rate: float = Field(
        0.0,
        ge=0,
        le=10,
        description="what a bit per weight is worth, as a share of the layer's mean square; 0: nothing",
    )
    layers: dict[str, Size] = Field({}, description="glob -> a size of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @model_validator(mode="after")
    def _size_given(self) -> ClusterWeights:
        self._general  # noqa: B018  (checks that exactly one is given)
        return self

    @property
    def _general(self) -> Size:
        return Size(bits=self.bits, k=self.k)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The size of each layer's codebook."""
        plan, homes = Plan(), dict[str, list[str]]()
        for weight in surveyed("ClusterWeights", model, self.layers, self.skip):
            size = next((s for g, s in self.layers.items() if chosen(weight.path, [g])), self._general).count()
            reason = self._why_not(weight, size)
            if reason:
                plan.leave[weight.path] = reason
                continue
            zero = encodings.zeros(weight) is not None
            plan.do[weight.path] = {"k": size, "zero": zero}
            plan.notes[weight.path] = f"{size} shared values" + (", zero among them" if zero else "")
            if self.objective == "output" and not encodings.structure(weight):
                homes[weight.path] = responses.layers(model, weight)
        if not plan.do:
            reasons = "; ".join(f"{p}: {why}" for p, why in list(plan.leave.items())[:5])
            raise StepError(f"ClusterWeights found no weight to share ({reasons})")
        if self.objective == "output":
            reached = responses.calls(model, [p for home in homes.values() for p in home], context)
            for path, decision in plan.do.items():
                decision["inputs"] = [home for home in homes.get(path, ()) if home in reached]
                plan.notes[path] += ", for the output" if decision["inputs"] else f", for the weights: {_OTHERS}"
        return plan

    def _why_not(self, weight: Weight, k: int) -> str | None:
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        reason = why_not(weight) or (None if self.biases else why_small(weight))
        if reason:
            return reason
        if found := encodings.rounded(weight) or encodings.find(weight, encodings.ProductCodebook):
            return f"{found.describe()} already: put ClusterWeights before the step that made them"
        wide, count = 2 if encodings.find(weight, encodings.Half) else 4, _content(weight).numel()
        if k * wide + count * max(1, (k - 1).bit_length()) / 8 >= count * wide:
            return f"a codebook of {k} would be larger than its {count} values"
        return None

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Cluster each planned layer."""
        homes = {home for decision in plan.do.values() for home in decision.get("inputs", ())}
        squares = {} if context.blank else responses.mean_squares(model, homes, context, self.examples)
        for done, weight in enumerate(found := weights(model)):
            if weight.path in plan.do:
                decision = plan.do[weight.path]
                seen = [squares[home] for home in decision.get("inputs", ()) if home in squares]
                self._share(weight, decision["k"], decision["zero"], seen, context.seed)
            context.progress("ClusterWeights", done + 1, len(found))
        return model

    def _share(self, weight: Weight, k: int, zero: bool, seen: list[Tensor], seed: int) -> None:
        """seen: E[x^2] of the inputs of each layer that has the weight."""
        tensor = _content(weight).detach().cpu()
        importance = _spread(torch.stack(seen).mean(0), tensor).numpy() if seen else None
        result = cluster(tensor.numpy(), k, method=self.init, zero=zero, weights=importance, rate=self.rate, seed=seed)
        indices = torch.from_numpy(result.labels).view(tensor.shape)
        codebook, values = encodings.Codebook.of(indices, torch.from_numpy(result.centroids), zero)
        links = encodings.find(weight, encodings.Half), codebook, encodings.structure(weight)
        encodings.encode(weight, [link for link in links if link], values)


def _spread(squares: Tensor, weight: Tensor) -> Tensor:
    """(groups, features) -> the shape of the weight."""
    return squares.cpu().repeat_interleave(len(weight) // len(squares), 0).view(weight.shape)


def _content(weight: Weight) -> Tensor:
    """What is shared: the weight itself, or the values that its structure is made of."""
    if not encodings.structure(weight):
        return weight.tensor
    values = weight.values.detach()
    for link in encodings.chain(weight):
        if not isinstance(link, encodings.Structured):
            values = link(values)
    return values
