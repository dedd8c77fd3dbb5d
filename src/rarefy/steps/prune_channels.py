"""Structural pruning: channels and neurons that are really removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy import budget, encodings
from rarefy.errors import StepError
from rarefy.graph.channels import Channels, Removed, traced
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.pruning.choice import USUAL, Choice
from rarefy.pruning.cut import cut
from rarefy.pruning.examples import Examples, single
from rarefy.pruning.positions import dims, ranges
from rarefy.pruning.removal import Removal, checked, fold, folded
from rarefy.pruning.scores import Score, scored
from rarefy.step import Context, Plan

ABOUT = 0.05  # of all channels: what a share of them may miss for a better alignment


class PruneChannels(budget.Budgeted):
    """Removes whole channels and neurons, so that the layers are narrower: less to store, and less to compute.

    What depends on a channel goes with it: the columns of the layers after it, normalisation, the other addends of a
    sum. Which these are is found by running the network once and following every channel through it, also through
    reshapes, concatenations and shuffles. The result is exact: the network answers as if the filters had been zeroed
    (compared before anything is cut). What a zeroed filter still passes on, by its bias or the shift of its BatchNorm,
    goes into the bias of the next layer, or is zeroed too where that layer pads its input with zeros.

    Scores (the least go first; of channels that are tied, the mean counts): `l1`, `l2` of the filter;
    `geometric-median` (distance to the other filters); `batchnorm` (its scale); `taylor` (what the loss changes by, on
    training examples); `outgoing` (norm of the weights that the next layers have for it); `random`, the baseline.
    For `scope="global"` norms are divided by the layer's mean. `macs`, `parameters` and `latency` are shares of what
    the network cost when the recipe began, so a `Repeat` may ramp them.
    """

    gains: ClassVar[str] = "bytes, multiplications and time: smaller ordinary layers"
    paper: ClassVar[str] = (
        "Li et al. 2017, Pruning Filters for Efficient ConvNets (arXiv:1608.08710); dependencies as in Fang et al. "
        "2023, DepGraph (arXiv:2301.12900)"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    amounts: ClassVar[tuple[str, ...]] = ("ratio", "macs", "parameters", "latency", "threshold")

    ratio: float | None = Field(None, gt=0, lt=1, description="share of the removable channels that goes")
    threshold: float | None = Field(None, gt=0, description="channels of a lower score (undivided) go")
    score: Score = "l2"
    scope: Literal["layer", "global"] = Field("layer", description="one share per layer, or one threshold over all")
    align: int | None = Field(
        None, ge=1, le=1024, description="channels kept are a multiple; by default of 8, or of less where that misses"
    )
    most: float = Field(0.95, gt=0, le=1, description="largest share of a layer that goes; one channel always stays")
    examples: int = Field(256, ge=1, description="training examples for the score taylor")
    layers: dict[str, float] = Field({}, description="glob -> the ratio of these layers; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of layers whose own channels stay")

    @model_validator(mode="after")
    def _layers_keep_some(self) -> PruneChannels:
        if wrong := [f"{glob}: {share:g}" for glob, share in self.layers.items() if not 0 <= share < 1]:
            raise ValueError(f"layers: a ratio is at least 0 and under 1 (1 would empty the layer), not {wrong[0]}")
        return self

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The positions of every tensor that stay."""
        found = surveyed("PruneChannels", model, self.layers, self.skip)
        if all(why_not(w) or why_small(w) for w in found):
            raise StepError("PruneChannels found no layer with channels: no convolution or matrix of float32 numbers")
        plain = _plain(model)
        channels, examples = _followed(plain, context, _whole(found), self.skip)
        while channels.groups:
            removed = self._chosen(plain, channels, context, examples.first)
            if not removed.any():
                raise StepError(
                    "PruneChannels would remove nothing: no layer is wide enough for this amount and alignment; give "
                    "a larger amount or align: 1"
                )
            if removal := checked(plain, channels, removed, examples):
                context.warnings += _spoilt(found, channels, removal)
                return _plan(found, channels, removal)
        reasons = Counter(channels.why(w.path) for w in found if not why_small(w))
        why = reasons.most_common(1)[0][0]
        raise StepError(f"PruneChannels found no channel that can be removed: {why}")

    def _chosen(self, plain: nn.Module, channels: Channels, context: Context, inputs: Any) -> Removed:
        divided = self.scope == "global" and self.threshold is None
        scores = scored(plain, channels, self.score, context, divided=divided, examples=self.examples)
        own, strict = self._own(channels), self.align is not None
        aligned = [
            Choice(channels, scores, self.scope, align, self.most, own, strict)
            for align in (self.align and [self.align]) or USUAL
        ]
        if self.threshold is not None:
            return aligned[0].removed(aligned[0].below(self.threshold))
        if self.target is not None:
            return _for_target(self.target, plain, channels, aligned, context, inputs)
        if strict and self.scope == "layer":
            return aligned[0].removed(aligned[0].counts(round((self.ratio or 0.0) * aligned[0].levels)))
        return _nearest(aligned, aligned[0].share, 1 - (self.ratio or 0.0), ABOUT)

    def _own(self, channels: Channels) -> dict[int, float]:
        """Group -> the ratio set for one of its layers."""
        own = {}
        for place, group in enumerate(channels.groups):
            shares = [s for glob, s in self.layers.items() if any(chosen(path, [glob]) for path in group.layers)]
            if shares:
                own[place] = shares[0]
        return own

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Cut, and fold the shifts of what was removed into the next layers."""
        kept = {p: dims(decision["keep"]) for p, decision in {**plan.do, **plan.also}.items() if "keep" in decision}
        cut(model, kept)
        fold(model, {path: torch.tensor(d["fold"]) for path, d in plan.do.items() if "fold" in d})
        return model


def _plain(model: nn.Module) -> nn.Module:
    """The network in eval mode with its weights decoded: itself, where it is that."""
    if any(module.training for module in model.modules()) or any(weight.chain for weight in weights(model)):
        return encodings.decoded(twin(model)).eval()
    return model


def _followed(
    plain: nn.Module, context: Context, whole: dict[str, str], skip: tuple[str, ...]
) -> tuple[Channels, Examples]:
    """The channels of the network, and what it was run on: single examples, or two where it wants a batch."""
    batch = budget.few(context)
    try:
        channels, taken = traced(plain, single(batch), whole, skip)
    except Exception:  # whatever its code does with one example; with two, it runs or the error says why
        channels, taken = traced(plain, [budget.examples(plain, context)], whole, skip)
    return channels, Examples(taken, batch, channels.macs(channels.none()))


def _whole(found: list[Weight]) -> dict[str, str]:
    """Weights in an encoding whose rows and columns cannot be removed."""
    links = {w.path: [link for link in encodings.chain(w) if not link.cuttable] for w in found}
    return {
        path: f"it is a {kinds[0].describe()}, which has no rows to remove: put PruneChannels before that step"
        for path, kinds in links.items()
        if kinds
    }


def _for_target(
    target: budget.Target, plain: nn.Module, channels: Channels, aligned: list[Choice], context: Context, inputs: Any
) -> Removed:
    original, choice = _plain(context.original or plain), aligned[0]
    if target.measured:
        with target.costs(original, inputs) as cost:

            def timed(level: int) -> float:
                narrow = twin(plain)
                cut(narrow, channels.kept(choice.removed(choice.counts(level))))
                return cost(narrow)

            level, _ = budget.search(timed, choice.levels, target, "PruneChannels")
            return choice.removed(choice.counts(level))
    share = _counted(target.kind, plain, original, channels, inputs)
    slack = budget.TOLERANCE * target.share
    removed = _nearest(aligned, share, target.share, slack)
    if abs(share(removed) - target.share) > slack:
        finest = aligned[-1]
        least = share(finest.removed(finest.counts(finest.levels)))
        raise StepError(
            f"PruneChannels cannot leave {target}: the nearest that whole channels allow is {share(removed):.1%}, "
            f"the least {least:.1%}; ask for one of these, lower align or skip less"
        )
    return removed


def _nearest(aligned: list[Choice], cost: Callable[[Removed], float], share: float, slack: float) -> Removed:
    """By the coarsest alignment that comes as near as `slack`, or the one that comes nearest."""
    found: list[Removed] = []
    for choice in aligned:
        found.append(choice.removed(choice.reach(cost, share, slack)))
        if abs(cost(found[-1]) - share) <= slack:
            return found[-1]
    return min(found, key=lambda removed: abs(cost(removed) - share))


def _counted(
    kind: budget.Kind, plain: nn.Module, original: nn.Module, channels: Channels, inputs: Any
) -> Callable[[Removed], float]:
    """What is left of the cost of `original` when channels of `plain` are removed."""
    nothing = channels.none()
    if kind == "parameters":
        names = [weight.path for weight in weights(plain)]
        total = budget.parameters(original)
        return lambda removed: channels.parameters(removed, names) / total
    batch = len(next(t for t in tree_leaves(inputs) if isinstance(t, Tensor)))
    total = batch * budget.macs(original, inputs)
    others = batch * budget.macs(plain, inputs) - channels.macs(nothing)  # such as products in attention
    return lambda removed: (channels.macs(removed) + others) / total


def _plan(found: list[Weight], channels: Channels, removal: Removal) -> Plan:
    plan, paths, words = Plan(), {weight.path for weight in found}, lru_cache(maxsize=None)(ranges)
    for path, where in channels.kept(removal.removed).items():
        keep = {str(dim): words(positions.tobytes()) for dim, positions in where.items()}
        if path in paths:
            plan.do[path] = {"keep": keep}
            shape = channels.shapes[path]
            plan.notes[path] = ", ".join(f"{shape[d]} -> {len(p)} along dimension {d}" for d, p in where.items())
        else:
            plan.also[path] = {"keep": keep}
    for path, amount in folded(removal.constants, channels.kept(removal.removed)).items():
        plan.do[path]["fold"] = amount.float().tolist()
        plan.notes[path] += ", takes over the constants of what was removed"
    for weight in found:
        if weight.path not in plan.do:
            plan.leave[weight.path] = _reason(weight, channels)
    return plan


def _spoilt(found: list[Weight], channels: Channels, removal: Removal) -> list[str]:
    """A warning where columns go from under a pattern of zeros in groups of columns."""
    columns = {path for path, where in channels.kept(removal.removed).items() if 1 in where}
    masks = [(w.path, encodings.find(w, encodings.Mask)) for w in found if w.path in columns]
    paths = [path for path, mask in masks if isinstance(mask, encodings.Mask) and mask.pattern()]
    return [f"PruneChannels breaks the N:M pattern of {', '.join(paths)}: put PruneWeights after it"] if paths else []


def _reason(weight: Weight, channels: Channels) -> str:
    free = [g for g in channels.groups if len(g.atoms) > 1 and weight.path in g.layers]
    return "none of its channels was chosen" if free else channels.why(weight.path)
