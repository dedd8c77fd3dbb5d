"""Pruning of single weights by their magnitude."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.numerics.sparsity import lowest, lowest_in_groups
from rarefy.settings import Settings, the_one
from rarefy.step import Context, Plan, Step

PATTERN = Field(
    None,
    pattern=r"^[1-9]\d?:[1-9]\d?$",
    description="N:M, such as 2:4: of every M consecutive inputs of an output N stay",
)
_LAYERS: dict[type, int] = {nn.Linear: 1, _ConvNd: 1, _ConvTransposeNd: 0, nn.MultiheadAttention: 1}  # their inputs
AMOUNTS = ("sparsity", "threshold", "deviations", "pattern")


class Amount(Settings):
    """How much of a layer to prune: one of the four."""

    sparsity: float | None = Field(None, ge=0, lt=1, description="share of the weights that become zero")
    threshold: float | None = Field(None, gt=0, description="weights of a magnitude below this become zero")
    deviations: float | None = Field(
        None, gt=0, description="threshold in standard deviations of the layer's weights that are not zero"
    )

    pattern: str | None = PATTERN

    @model_validator(mode="after")
    def _one(self) -> Amount:
        the_one(self, AMOUNTS)
        if self.pattern and self.kept >= self.group:
            raise ValueError(f"pattern {self.pattern} prunes nothing: N of N:M is how many of M stay, and less than M")
        return self

    @property
    def kept(self) -> int:
        """N of the pattern N:M."""
        return int((self.pattern or "0:0").partition(":")[0])

    @property
    def group(self) -> int:
        """M of the pattern N:M."""
        return int((self.pattern or "0:0").partition(":")[2])


class PruneWeights(Step):
    """Sets the weights that matter least to zero, where they stay; training goes on around them.

    A weight's score is its magnitude (`random`: the baseline that any score must beat). With `scope="layer"` every
    layer loses the same share, with "global" one threshold is found over all layers. Weights pruned before count and
    stay pruned, also where a layer has more of them than is asked for, so a `Repeat` with rising sparsity prunes and
    retrains in turns. One weight of a layer is always kept.

    With a pattern N:M, N of every M consecutive inputs (channels, of a convolution) of each output stay: those of the
    highest score, fewer where more were pruned before (Zhou et al. 2021, Learning N:M, arXiv:2102.04010). Layers whose
    inputs are no multiple of M are left.
    """

    gains: ClassVar[str] = (
        "bytes of the pack (a zero costs what its frequency says); not time: dense kernels multiply by zero as well. "
        "2:4 is faster only on sparse tensor cores (NVIDIA, from Ampere on) through the libraries that use them, and "
        "in no CPU kernel of ONNX Runtime"
    )
    paper: ClassVar[str] = "Han, Pool, Tran, Dally 2015, Learning both Weights and Connections (arXiv:1506.02626)"
    usual: ClassVar[dict[str, Any]] = {"sparsity": 0.5}

    sparsity: float | None = Field(None, ge=0, lt=1, description="share of the weights that become zero")
    threshold: float | None = Field(None, gt=0, description="weights of a magnitude below this become zero")
    deviations: float | None = Field(
        None, gt=0, description="threshold in standard deviations of the layer's weights that are not zero"
    )
    pattern: str | None = PATTERN
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
        return Amount(**{name: getattr(self, name) for name in AMOUNTS})

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """How many weights each layer loses."""
        plan, open_ = Plan(), []
        for weight in surveyed("PruneWeights", model, self.layers, self.skip):
            reason = "skipped, as set" if chosen(weight.path, self.skip) else why_not(weight) or why_small(weight)
            if reason := reason or _why_structured(weight) or _why_no_groups(weight, self._amount(weight)):
                plan.leave[weight.path] = reason
            else:
                open_.append(weight)
        if not open_:
            raise StepError(
                "PruneWeights found no weight to prune: all parameters are skipped, one-dimensional, not floats"
                + (f", or do not fit the pattern {self.pattern}" if self.pattern else "")
            )
        for weight, count in zip(open_, self._counts(open_, context.seed), strict=True):
            total, pattern = weight.tensor.numel(), self._amount(weight).pattern
            plan.do[weight.path] = {"pruned": count, "of": total, **({"pattern": pattern} if pattern else {})}
            plan.notes[weight.path] = f"pruned {count:,} of {total:,} ({count / total:.1%})" + (
                f", at most {pattern} of the inputs stay" if pattern else ""
            )
        return plan

    def _amount(self, weight: Weight) -> Amount:
        return next((a for g, a in self.layers.items() if chosen(weight.path, [g])), self._general)

    def _counts(self, open_: list[Weight], seed: int) -> list[int]:
        own = [self._amount(w) for w in open_]
        counts = [
            int(self._pattern_places(w, amount, seed).sum()) if amount.pattern else _count(w.tensor, amount)
            for w, amount in zip(open_, own, strict=True)
        ]
        if self.scope == "global":
            pool = [i for i, weight in enumerate(open_) if not chosen(weight.path, self.layers)]
            shares = _global_counts([self._scores(open_[i], seed) for i in pool], self.sparsity or 0.0)
            for i, count in zip(pool, shares, strict=True):
                counts[i] = count
        return [max(min(c, w.tensor.numel() - 1), _held(w)) for c, w in zip(counts, open_, strict=True)]

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Prune the planned number of lowest scores in each layer."""
        for weight in weights(model):
            decision = plan.do.get(weight.path)
            if decision is None:
                continue
            if "pattern" in decision:
                places = self._pattern_places(weight, Amount(pattern=decision["pattern"]), context.seed)
            else:
                places = lowest(self._scores(weight, context.seed), decision["pruned"]).view(weight.tensor.shape)
            _prune(weight, places)
        return model

    def _pattern_places(self, weight: Weight, amount: Amount, seed: int) -> Tensor:
        """The lowest scores of every group, and what was pruned before."""
        scores = self._scores(weight, seed).view(weight.tensor.shape)
        places = lowest_in_groups(scores, amount.group - amount.kept, amount.group, _input_dim(weight) or 0)
        return places | (scores < 0)

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


def _input_dim(weight: Weight) -> int | None:
    """The dimension of a weight that its layer's inputs are counted along; None where that is not known."""
    dims = {next((_LAYERS[kind] for kind in type(m).__mro__ if kind in _LAYERS), None) for m, _ in weight.owners}
    known = dims - {None}
    return known.pop() if len(known) == 1 else None


def _why_structured(weight: Weight) -> str | None:
    if found := encodings.rounded(weight) or encodings.find(weight, encodings.ProductCodebook):
        return f"{found.describe()} already: put PruneWeights before the step that made them"
    structure = encodings.structure(weight)
    return f"{structure.describe()} have no single weights: put PruneWeights elsewhere" if structure else None


def _why_no_groups(weight: Weight, amount: Amount) -> str | None:
    if amount.pattern is None:
        return None
    dim = _input_dim(weight)
    if dim is None:
        return (
            f"the pattern {amount.pattern} is along inputs, and those of {type(weight.module).__name__} are not known"
        )
    inputs = weight.tensor.shape[dim]
    return f"its {inputs} inputs are no multiple of {amount.group}" if inputs % amount.group else None


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
    low = lowest(torch.cat([s.cpu() for s in scores]), round(sparsity * total))
    return [int(part.sum()) for part in torch.split(low, [s.numel() for s in scores])]


def _prune(weight: Weight, positions: Tensor) -> None:
    links = encodings.chain(weight)
    codebook = encodings.find(weight, encodings.Codebook)
    if isinstance(codebook, encodings.Codebook):
        new = [codebook.pruned(positions) if link is codebook else link for link in links]
    else:
        kept = [link for link in links if not isinstance(link, encodings.Mask)]
        new = [*kept, encodings.Mask(~positions)]
    encodings.encode(weight, new, weight.values)
