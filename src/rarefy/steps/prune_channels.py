"""Structural pruning: channels and neurons that are really removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from rarefy import budget, encodings
from rarefy.errors import StepError
from rarefy.graph.channels import Channels, Removed, traced
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.pruning.choice import Choice
from rarefy.pruning.cut import cut
from rarefy.pruning.removal import Removal, checked, fold, folded
from rarefy.pruning.scores import Score, scored
from rarefy.step import Context, Plan


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
        None, ge=1, le=1024, description="channels kept are a multiple; by default of 8 where 32 or more are kept"
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
        channels, inputs = _followed(plain, context, _whole(found), self.skip)
        while channels.groups:
            removed = self._chosen(plain, channels, context, inputs)
            if not removed.any():
                raise StepError(
                    "PruneChannels would remove nothing: no layer is wide enough for this amount and alignment; give "
                    "a larger amount or align: 1"
                )
            if removal := checked(plain, channels, removed, inputs):
                return _plan(found, channels, removal)
        reasons = Counter(channels.why(w.path) for w in found if not why_small(w))
        why = reasons.most_common(1)[0][0]
        raise StepError(f"PruneChannels found no channel that can be removed: {why}")

    def _chosen(self, plain: nn.Module, channels: Channels, context: Context, inputs: Any) -> Removed:
        divided = self.scope == "global" and self.threshold is None
        scores = scored(plain, channels, self.score, context, divided=divided, examples=self.examples)
        choice = Choice(channels, scores, self.scope, self.align, self.most, self._own(channels))
        if self.threshold is not None:
            return choice.removed(choice.below(self.threshold))
        if self.ratio is not None and self.scope == "layer":
            return choice.removed(choice.counts(round(self.ratio * choice.levels)))
        if self.target is None:
            return choice.removed(choice.reach(choice.share, 1 - (self.ratio or 0.0)))
        return _for_target(self.target, plain, channels, choice, context, inputs)

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
        kept = {p: _dims(decision["keep"]) for p, decision in {**plan.do, **plan.also}.items() if "keep" in decision}
        cut(model, kept)
        fold(model, {path: torch.tensor(d["fold"]) for path, d in plan.do.items() if "fold" in d})
        return model


def _plain(model: nn.Module) -> nn.Module:
    """The network in eval mode with its weights decoded: itself, where it is that."""
    if any(module.training for module in model.modules()) or any(weight.chain for weight in weights(model)):
        return encodings.decoded(twin(model)).eval()
    return model


def _followed(plain: nn.Module, context: Context, whole: dict[str, str], skip: tuple[str, ...]) -> tuple[Channels, Any]:
    """The channels of the network, and the inputs that it was run on: one example, or two where it wants a batch."""
    try:
        inputs = tree_map_only(Tensor, lambda tensor: tensor[:1], budget.few(context))
        return traced(plain, inputs, whole, skip), inputs
    except Exception:  # whatever its code does with one example; with two, it runs or the error says why
        inputs = budget.examples(plain, context)
        return traced(plain, inputs, whole, skip), inputs


def _whole(found: list[Weight]) -> dict[str, str]:
    """Weights in an encoding whose rows and columns cannot be removed."""
    links = {w.path: [link for link in encodings.chain(w) if not link.cuttable] for w in found}
    return {
        path: f"it is a {kinds[0].describe()}, which has no rows to remove: put PruneChannels before that step"
        for path, kinds in links.items()
        if kinds
    }


def _for_target(
    target: budget.Target, plain: nn.Module, channels: Channels, choice: Choice, context: Context, inputs: Any
) -> Removed:
    original = _plain(context.original or plain)
    if target.measured:
        with target.costs(original, inputs) as cost:

            def timed(level: int) -> float:
                narrow = twin(plain)
                cut(narrow, channels.kept(choice.removed(choice.counts(level))))
                return cost(narrow)

            level, _ = budget.search(timed, choice.levels, target, "PruneChannels")
            return choice.removed(choice.counts(level))
    share = _counted(target.kind, plain, original, channels, inputs)
    removed = choice.removed(choice.reach(share, target.share))
    if abs(share(removed) - target.share) > budget.TOLERANCE:
        least = share(choice.removed(choice.counts(choice.levels)))
        raise StepError(
            f"PruneChannels cannot leave {target}: the nearest that whole channels allow is {share(removed):.1%}, "
            f"the least {least:.1%}; ask for one of these, lower align or skip less"
        )
    return removed


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
    plan, paths, words = Plan(), {weight.path for weight in found}, lru_cache(maxsize=None)(_ranges)
    for path, dims in channels.kept(removal.removed).items():
        keep = {str(dim): words(positions.tobytes()) for dim, positions in dims.items()}
        if path in paths:
            plan.do[path] = {"keep": keep}
            shape = channels.shapes[path]
            plan.notes[path] = ", ".join(f"{shape[d]} -> {len(p)} along dimension {d}" for d, p in dims.items())
        else:
            plan.also[path] = {"keep": keep}
    for path, amount in folded(removal.constants, channels.kept(removal.removed)).items():
        plan.do[path]["fold"] = amount.float().tolist()
        plan.notes[path] += ", takes over the constants of what was removed"
    for weight in found:
        if weight.path not in plan.do:
            plan.leave[weight.path] = _reason(weight, channels)
    return plan


def _reason(weight: Weight, channels: Channels) -> str:
    free = [g for g in channels.groups if len(g.atoms) > 1 and weight.path in g.layers]
    return "none of its channels was chosen" if free else channels.why(weight.path)


def _ranges(held: bytes) -> str:
    """Rising positions, as bytes, as text: "0-3,5,7-8"."""
    positions = np.frombuffer(held, np.intp)
    apart = np.diff(positions) != 1
    first, last = positions[np.r_[True, apart]].tolist(), positions[np.r_[apart, True]].tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


def _dims(keep: dict[str, str]) -> dict[int, np.ndarray]:
    """The positions written by `_ranges`, by dimension."""
    return {int(dim): _positions(text) for dim, text in keep.items()}


@lru_cache(maxsize=256)  # a layer, its normalisation and the next layer have the same
def _positions(text: str) -> np.ndarray:
    parts = [part.split("-") for part in text.split(",")]
    return np.concatenate([np.arange(int(part[0]), int(part[-1]) + 1) for part in parts])
