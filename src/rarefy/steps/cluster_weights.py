"""Weight sharing: a codebook per layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.numerics.clustering import cluster
from rarefy.settings import Settings
from rarefy.step import Context, Plan, Step


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

    minimise  sum_i (w_i - c[a_i])^2  over centroids c and assignments a, in one dimension. `optimal` finds it (within
    a fraction of a per cent, in linear time); `linear`, `density` and `random` are the three initialisations of the
    paper, each followed by Lloyd's iterations. A pruned weight stays pruned: zero is then one of the k values.
    A `Finetune` afterwards trains the centroids.
    """

    gains: ClassVar[str] = (
        "bytes: log2 k bits per weight, less after entropy coding; not time: weights are looked up once, at loading"
    )
    paper: ClassVar[str] = "Han, Mao, Dally 2016, Deep Compression (arXiv:1510.00149)"
    usual: ClassVar[dict[str, Any]] = {"bits": 4}

    bits: int | None = Field(None, ge=1, le=16, description="k = 2^bits")
    k: int | None = Field(None, ge=2, le=65536, description="number of values, a pinned zero among them")
    init: Literal["optimal", "linear", "density", "random"] = "optimal"
    biases: bool = Field(False, description="also one-dimensional parameters, where a codebook pays")
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
        plan = Plan()
        for weight in surveyed("ClusterWeights", model, self.layers, self.skip):
            size = next((s for g, s in self.layers.items() if chosen(weight.path, [g])), self._general).count()
            reason = self._why_not(weight, size)
            if reason:
                plan.leave[weight.path] = reason
                continue
            zero = encodings.zeros(weight) is not None
            plan.do[weight.path] = {"k": size, "zero": zero}
            plan.notes[weight.path] = f"{size} shared values" + (", zero among them" if zero else "")
        if not plan.do:
            reasons = "; ".join(f"{p}: {why}" for p, why in list(plan.leave.items())[:5])
            raise StepError(f"ClusterWeights found no weight to share ({reasons})")
        return plan

    def _why_not(self, weight: Weight, k: int) -> str | None:
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        reason = why_not(weight) or (None if self.biases else why_small(weight))
        if reason:
            return reason
        if integers := encodings.find(weight, encodings.Affine):
            return f"{integers.describe()} already: put ClusterWeights before the step that made them"
        wide, count = 2 if encodings.find(weight, encodings.Half) else 4, _content(weight).numel()
        if k * wide + count * max(1, (k - 1).bit_length()) / 8 >= count * wide:
            return f"a codebook of {k} would be larger than its {count} values"
        return None

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Cluster each planned layer."""
        for done, weight in enumerate(found := weights(model)):
            if weight.path in plan.do:
                self._share(weight, **plan.do[weight.path], seed=context.seed)
            context.progress("ClusterWeights", done + 1, len(found))
        return model

    def _share(self, weight: Weight, k: int, zero: bool, seed: int) -> None:
        tensor = _content(weight).detach().cpu()
        result = cluster(tensor.numpy(), k, method=self.init, zero=zero, seed=seed)
        indices = torch.from_numpy(result.labels).view(tensor.shape)
        codebook, values = encodings.Codebook.of(indices, torch.from_numpy(result.centroids), zero)
        links = encodings.find(weight, encodings.Half), codebook, encodings.structure(weight)
        encodings.encode(weight, [link for link in links if link], values)


def _content(weight: Weight) -> Tensor:
    """What is shared: the weight itself, or the values that its structure is made of."""
    if not encodings.structure(weight):
        return weight.tensor
    values = weight.values.detach()
    for link in encodings.chain(weight):
        if not isinstance(link, encodings.Structured):
            values = link(values)
    return values
