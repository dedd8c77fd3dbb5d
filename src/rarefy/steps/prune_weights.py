"""Pruning of single weights by their magnitude."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.settings import Settings
from rarefy.step import Context, Plan, Step


class Amount(Settings):
    """How much of a layer to prune: one of the three."""

    sparsity: float | None = Field(None, ge=0, lt=1, description="share of the weights that become zero")
    threshold: float | None = Field(None, gt=0, description="weights of a magnitude below this become zero")
    deviations: float | None = Field(
        None, gt=0, description="threshold in standard deviations of the layer's weights that are not zero"
    )

    @model_validator(mode="after")
    def _one(self) -> Amount:
        given = [n for n in ("sparsity", "threshold", "deviations") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of sparsity, threshold, deviations, not {' and '.join(given) or 'none'}"
            )
        return self


class PruneWeights(Step):
    """Sets the weights that matter least to zero, where they stay; training goes on around them.

    A weight's score is its magnitude (`random`: the baseline that any score must beat). With `scope="layer"` every
    layer loses the same share, with "global" one threshold is found over all layers. Weights pruned before count and
    stay pruned, also where a layer has more of them than is asked for, so a `Repeat` with rising sparsity prunes and
    retrains in turns. One weight of a layer is always kept.
    """

    gains: ClassVar[str] = (
        "bytes of the pack (a zero costs what its frequency says); not time: dense kernels multiply by zero as well"
    )
    paper: ClassVar[str] = "Han, Pool, Tran, Dally 2015, Learning both Weights and Connections (arXiv:1506.02626)"
    usual: ClassVar[dict[str, Any]] = {"sparsity": 0.5}

    sparsity: float | None = Field(None, ge=0, lt=1, description="share of the weights that become zero")
    threshold: float | None = Field(None, gt=0, description="weights of a magnitude below this become zero")
    deviations: float | None = Field(
        None, gt=0, description="threshold in standard deviations of the layer's weights that are not zero"
    )
    scope: Literal["layer", "global"] = Field("layer", description="one share per layer, or one over all")
    score: Literal["magnitude", "random"] = "magnitude"
    layers: dict[str, Amount] = Field({}, description="glob -> an amount of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @model_validator(mode="after")
    def _amount_given(self) -> PruneWeights:
        self._general  # noqa: B018  (checks that exactly one is given)
        if self.scope == "global" and self.sparsity is None:
            raise ValueError("scope 'global' finds the threshold for a sparsity: give sparsity")
        return self

    @property
    def _general(self) -> Amount:
        return Amount(sparsity=self.sparsity, threshold=self.threshold, deviations=self.deviations)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """How many weights each layer loses."""
        plan, open_ = Plan(), []
        for weight in surveyed("PruneWeights", model, self.layers, self.skip):
            reason = "skipped, as set" if chosen(weight.path, self.skip) else why_not(weight) or why_small(weight)
            if reason:
                plan.leave[weight.path] = reason
            else:
                open_.append(weight)
        if not open_:
            raise StepError(
                "PruneWeights found no weight to prune: all parameters are skipped, one-dimensional or not floats"
            )
        for weight, count in zip(open_, self._counts(open_, context.seed), strict=True):
            total = weight.tensor.numel()
            plan.do[weight.path] = {"pruned": count, "of": total}
            plan.notes[weight.path] = f"pruned {count:,} of {total:,} ({count / total:.1%})"
        return plan

    def _counts(self, open_: list[Weight], seed: int) -> list[int]:
        own = [next((a for g, a in self.layers.items() if chosen(w.path, [g])), None) for w in open_]
        counts = [_count(w.tensor, amount or self._general) for w, amount in zip(open_, own, strict=True)]
        if self.scope == "global":
            pool = [i for i, amount in enumerate(own) if amount is None]
            shares = _global_counts([self._scores(open_[i], seed) for i in pool], self.sparsity or 0.0)
            for i, count in zip(pool, shares, strict=True):
                counts[i] = count
        return [max(min(c, w.tensor.numel() - 1), _held(w)) for c, w in zip(counts, open_, strict=True)]

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Prune the planned number of lowest scores in each layer."""
        for weight in weights(model):
            if weight.path in plan.do:
                lowest = _lowest(self._scores(weight, context.seed), plan.do[weight.path]["pruned"])
                _prune(weight, lowest.view(weight.tensor.shape))
        return model

    def _scores(self, weight: Weight, seed: int) -> Tensor:
        scores = weight.tensor.detach().abs().flatten()
        if self.score == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = torch.rand(scores.numel(), generator=generator).to(scores.device)
        held = encodings.zeros(weight)
        return scores if held is None else torch.where(held.flatten(), -1.0, scores)  # what is pruned stays pruned


def _held(weight: Weight) -> int:
    held = encodings.zeros(weight)
    return 0 if held is None else int(held.sum())


def _count(tensor: Tensor, amount: Amount) -> int:
    if amount.sparsity is not None:
        return round(amount.sparsity * tensor.numel())
    magnitude = tensor.detach().abs()
    limit = amount.threshold
    if limit is None:
        alive = tensor.detach()[tensor != 0]
        limit = (amount.deviations or 0.0) * float(alive.double().std()) if alive.numel() > 1 else 0.0
    return int((magnitude < limit).sum())


def _global_counts(scores: list[Tensor], sparsity: float) -> list[int]:
    """How many of each layer are among the `sparsity` lowest scores of all; ties go to the first layers."""
    total = sum(s.numel() for s in scores)
    lowest = _lowest(torch.cat([s.cpu() for s in scores]), round(sparsity * total))
    return [int(part.sum()) for part in torch.split(lowest, [s.numel() for s in scores])]


def _lowest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest scores are, exactly as many; ties go to the first. O(n)."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = scores.kthvalue(count).values
    below = scores < limit
    ties = (scores == limit).nonzero().flatten()[: count - int(below.sum())]
    below[ties] = True
    return below


def _prune(weight: Weight, positions: Tensor) -> None:
    links = encodings.chain(weight)
    codebook = encodings.find(weight, encodings.Codebook)
    if isinstance(codebook, encodings.Codebook):
        new = [codebook.pruned(positions) if link is codebook else link for link in links]
    else:
        kept = [link for link in links if not isinstance(link, encodings.Mask)]
        new = [*kept, encodings.Mask(~positions)]
    encodings.encode(weight, new, weight.values)
