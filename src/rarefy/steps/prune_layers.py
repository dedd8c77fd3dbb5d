"""Pruning of whole layers and residual blocks."""

from __future__ import annotations

import fnmatch
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from rarefy.budget import Budgeted, Target, examples, search
from rarefy.errors import StepError
from rarefy.graph.bypass import Unit, What, remove, without
from rarefy.graph.trial import Trial
from rarefy.graph.weights import Weight, chosen, surveyed
from rarefy.ranking import By, Ranking
from rarefy.step import Context, Plan
from rarefy.task import forward
from rarefy.train import evaluating


class PruneLayers(Budgeted):
    """Takes out the layers and blocks that matter least; the network becomes shallower.

    A candidate takes one tensor and gives one of the same shape: a residual block without a changed shortcut, a
    transformer layer, a convolution of equal width (with its BatchNorm). `nn.Identity` takes its place. It matters as
    much as the task's loss on training examples rises without it, L(f without b) - L(f) (by="loss"), or as much as it
    changes what passes, the mean of |b(x) - x| / max(|b(x)|, |x|) (by="similarity": one pass instead of one for each
    candidate). by="random" is the baseline that any score must beat. With `rescore`, what is left is scored again after
    each removal.

    `macs`, `parameters` and `latency` are shares of what the network cost when the recipe began: as few layers go as
    leave no more than that. Whole layers seldom meet it exactly; what they leave is said.

    A shallow student made from the network itself is this step, `PruneLayers(share=0.5)`, followed by training with
    the original network as its teacher.
    """

    gains: ClassVar[str] = (
        "time, memory and bytes alike: what is taken out is not computed; accuracy drops until it is trained again"
    )
    paper: ClassVar[str] = (
        "Veit, Wilber, Belongie 2016, Residual Networks Behave Like Ensembles (arXiv:1605.06431); by similarity: "
        "Men et al. 2024, ShortGPT (arXiv:2403.03853)"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"count": 1}
    amounts: ClassVar[tuple[str, ...]] = ("count", "share", "macs", "parameters", "latency")

    count: int | None = Field(None, ge=1, description="number of layers and blocks to take out")
    share: float | None = Field(None, gt=0, lt=1, description="share of the candidates to take out")
    by: By = Field("loss", description="what a layer or block is judged by")
    what: What = Field(
        "both", description="candidates: modules that hold several layers, single layers elsewhere, or both"
    )
    rescore: bool = Field(True, description="score what is left again after each removal")
    examples: int = Field(256, ge=1, description="training examples to judge by")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Which layers and blocks go, and what each of them costs."""
        globs = self._globs(model)
        found = surveyed("PruneLayers", model, (), globs)
        if not any("." in weight.path for weight in found):
            raise StepError(_NOTHING.format("the network holds no modules with parameters"))
        with evaluating(model):
            inputs = examples(model, context)
            network = Trial(model, lambda: forward(model, inputs), self.what, found)
            network.skip([weight for weight in found if chosen(weight.path, globs)])
            ranking = Ranking(model, network.open, context, self.by, self.rescore, self.examples)
            network.stays |= dict.fromkeys(ranking.unsteady, "not called once in every pass")
            if not ranking.left:
                raise StepError(_NOTHING.format(network.summary(found)))
            gone = self._gone(ranking, network, inputs, context)
        network.stays |= {unit: f"stays: {_worth(self.by, ranking.scores.get(unit))}" for unit in network.open}
        return self._written(network, found, gone, ranking)

    def _globs(self, model: nn.Module) -> list[str]:
        """The glob of a block stands for everything in it."""
        paths = [path for path, module in model.named_modules() if not module._parameters]
        blocks = {glob for glob in self.skip if any(fnmatch.fnmatchcase(path, glob) for path in paths)}
        return [f"{glob}.*" if glob in blocks else glob for glob in self.skip]

    def _gone(self, ranking: Ranking, network: Trial, inputs: Any, context: Context) -> list[Unit]:
        """The units that go, by the amount asked for."""
        if self.target is not None:
            gone = _reaching(self.target, ranking, inputs, context)
        else:
            gone = ranking.first(self._number(len(ranking.left)))
        if problem := network.fails(gone):
            names = ", ".join(unit.name for unit in gone)
            raise StepError(f"PruneLayers: without {names} together {problem}; name one of them in skip")
        return gone

    def _number(self, candidates: int) -> int:
        number = self.count if self.count is not None else round((self.share or 0.0) * candidates)
        if number > candidates:
            raise StepError(f"PruneLayers: count is {number}, and only {candidates} layers and blocks can be taken out")
        if number == 0:
            raise StepError(
                f"PruneLayers: a share of {self.share:g} is none of {candidates} layers and blocks; "
                "give a larger share, or count: 1"
            )
        return number

    def _written(self, network: Trial, found: list[Weight], gone: list[Unit], ranking: Ranking) -> Plan:
        plan = Plan()
        for weight in found:
            unit = network.unit(weight)
            if unit in gone:
                plan.do[weight.path] = {"removed": list(unit.paths), "listed": unit.listed}
                plan.notes[weight.path] = f"taken out with {unit.name}: {_worth(self.by, ranking.scores[unit])}"
            else:
                plan.leave[weight.path] = network.why_left(weight)
        return plan

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Take the planned modules out."""
        for unit in {Unit(tuple(d["removed"]), d["listed"]): None for d in plan.do.values()}:
            remove(model, unit)
        return model


def _reaching(target: Target, ranking: Ranking, inputs: Any, context: Context) -> list[Unit]:
    """The units that go first, as many as the target needs, then as near to it as whole units come."""
    everything = list(ranking.left)

    def left_of(gone: list[Unit]) -> float:
        with without(ranking.model, gone):
            return cost(ranking.model)

    def left_at(number: int) -> float:
        return left_of(everything if number == len(everything) else ranking.first(number))

    with target.costs(context.original or ranking.model, inputs) as cost:
        if context.original and left_of([]) <= target.share:
            context.warnings.append(f"PruneLayers takes nothing out: the network needs no more than {target} already")
            return []
        number, left = search(left_at, len(everything), target, "PruneLayers")
        gone = ranking.first(number)
        if not target.measured:
            saved = {unit: 1 - left_of([unit]) for unit in everything}
            nearer = _nearer(gone, saved, ranking.scores, target, left)
            gone, left = (nearer, near) if (near := left_of(nearer)) <= target.share else (gone, left)
    if not target.met(left):
        context.warnings.append(
            f"PruneLayers leaves {left:.1%} where at most {target} is asked for: whole layers and blocks come no nearer"
        )
    return gone


def _nearer(
    gone: list[Unit], saved: dict[Unit, float], scores: dict[Unit, float], target: Target, left: float
) -> list[Unit]:
    """Units put back, or exchanged for cheaper ones, as long as that comes nearer to the target; the most important
    for the least important, where there are several."""
    gone = list(gone)
    while True:
        cheaper = [None, *(unit for unit in saved if unit not in gone)] if not target.met(left) else [None]
        swaps = [(saved[g] - (saved[r] if r else 0.0), g, r) for g in gone for r in cheaper]
        swaps = [swap for swap in swaps if 1e-9 < swap[0] <= target.share - left]
        if not swaps:
            return gone
        more, back, new = max(swaps, key=lambda s: (round(s[0], 6), scores[s[1]] - (scores[s[2]] if s[2] else 0.0)))
        gone = [unit for unit in gone if unit != back] + ([new] if new else [])
        left += more


def _worth(by: By, score: float | None) -> str:
    """A score in words."""
    if score is None:
        return "the budget is met already"
    if by == "random":
        return "drawn by chance"
    return f"its removal costs {score:.4g} of loss" if by == "loss" else f"it changes what passes by {score:.1%}"


_NOTHING = (
    "PruneLayers found no layer or block that can be taken out: {}. It takes those that are called once in a pass "
    "with one tensor and give one of the same shape"
)
