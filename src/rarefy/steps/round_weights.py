"""Integers of as many bits as each weight is worth, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rarefy import budget, encodings
from rarefy.calibration import pieces
from rarefy.encodings import Grid
from rarefy.errors import StepError
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not
from rarefy.quantizing import between, change, fisher
from rarefy.quantizing.calibration import calibrated
from rarefy.quantizing.decision import check_some
from rarefy.quantizing.grids import Rounding
from rarefy.quantizing.matrices import Matrices
from rarefy.quantizing.search import coarsest
from rarefy.quantizing.trial import Trial, masks
from rarefy.settings import the_one
from rarefy.step import Context, Plan, Step
from rarefy.task import Task, forward
from rarefy.train import evaluating

HELD = 4  # every so many pieces of the examples, one is held out to measure the divergence on
SMALLEST = 16  # values of a vector that is worth a step
TOLERANCE = {"bits": 0.02, "size": 0.005, "divergence": 0.2}
LOOK = 32  # examples, whose mirror images show whether these are answered alike
START = 4.0  # bits, where the search for another target begins


class RoundWeights(Step):
    """Rounds weights to integers whose entropy is as low as a target allows, without training or labels.

    One number sets the rate of all weights: the step of a weight is that number over the square root of the Fisher
    information of its row and of what rounding its column costs, so that every weight adds the same to the divergence
    of the answers. Weights are rounded one column after another, and what a rounding breaks is repaired by the columns
    that follow (GPTQ), as far as that serves examples it was not fitted to. BatchNorm is folded first; the mean change
    of a layer's outputs is taken out of its bias. Biases are rounded by the same rule.

    The target: `bits`, the mean entropy of a weight; `size`, the bytes of the packed file; or `divergence`, that of
    the answers to examples held out (for scores of classes the Kullback-Leibler divergence in nats).
    """

    gains: ClassVar[str] = (
        "bytes of the pack: two to five bits per weight; the .onnx has 8-bit integers; not time: weights are computed "
        "once, at loading"
    )
    paper: ClassVar[str] = (
        "Frantar et al. 2023, GPTQ (arXiv:2210.17323), after Hassibi and Stork 1993, Optimal Brain Surgeon; bias "
        "correction: Nagel et al. 2019 (arXiv:1906.04721)"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"bits": 4}

    bits: float | None = Field(None, gt=0, le=8, description="mean entropy of the rounded weights, bits each")
    size: int | None = Field(None, gt=0, description="bytes of the packed file")
    divergence: float | None = Field(None, gt=0, description="of the answers, on examples held out")
    examples: int = Field(256, ge=1, description="training examples to measure on")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @model_validator(mode="after")
    def _one(self) -> RoundWeights:
        the_one(self, TOLERANCE)
        return self

    @property
    def target(self) -> tuple[str, float]:
        """Its name and value."""
        name = the_one(self, TOLERANCE)
        return name, getattr(self, name)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The weights to round, and the BatchNorms to fold."""
        found, plan = surveyed("RoundWeights", model, (), self.skip), Plan()
        for weight in found:
            if reason := "skipped, as set" if chosen(weight.path, self.skip) else why_unfit(weight):
                plan.leave[weight.path] = reason
            else:
                plan.do[weight.path] = _decision(Matrices.of(weight))
                plan.notes[weight.path] = "integers of as many bits as each is worth"
        check_some("RoundWeights", plan, "round")
        self._fold(plan, model, {w.path: w for w in found}, context)
        return plan

    def _fold(self, plan: Plan, model: nn.Module, found: dict[str, Weight], context: Context) -> None:
        work = twin(model)
        for norm, layer in between.foldings(plan, work, between.watched(work, context), self.skip, context).items():
            between.fold(plan, norm, layer)
            bias, rows = f"{layer}.bias", found[f"{layer}.weight"].tensor.shape[0]
            if bias not in found and rows >= SMALLEST and not chosen(bias, self.skip):
                plan.also[bias] = _decision(Matrices((rows,)))

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Fold, measure, round."""
        model = change.fold(model, plan)
        decisions = {**plan.do, **plan.also}
        found = [w for w in weights(model) if "bits" in decisions.get(w.path, {})]
        if context.blank:
            for weight in found:
                made = decisions[weight.path]
                columns = torch.zeros(made["columns"]) if made["columns"] else None
                grid = Grid(torch.zeros(made["rows"]), made["bits"], columns)
                encodings.encode(weight, [*masks(weight), grid], weight.tensor)
            return model
        cost = self._cost(model, context)
        bits = {path: made["bits"] for path, made in decisions.items() if "bits" in made}
        self._meet(self._trial(model, found, bits, context), cost, context)
        return model

    def _trial(self, model: nn.Module, found: list[Weight], bits: dict[str, int], context: Context) -> Trial:
        layouts = {w.path: Matrices.of(w) for w in found}
        seen = (inputs for inputs, held in self._pieces(context) if not held)
        mirror = fisher.symmetric(model, next(pieces(context, self.examples, LOOK)))
        measured, roundings = fisher.information(model, layouts, seen, context, mirror), dict[str, Rounding]()
        for weight in found:
            zeros, path = encodings.zeros(weight), weight.path
            keep, plain = None if zeros is None else ~zeros, weight.tensor.detach().clone()
            roundings[path] = Rounding.of(plain, layouts[path], bits[path], keep, measured.pop(path, None))
        trial = Trial(model, found, roundings)
        if layers := list(trial.correctable()):
            trial.means = calibrated(model, (), layers, context, self.examples).means
        return trial

    def _pieces(self, context: Context) -> Iterator[tuple[Any, bool]]:
        """The inputs, and whether they are held out."""
        for number, inputs in enumerate(pieces(context, self.examples, fisher.PIECE)):
            yield inputs, self.divergence is not None and number % HELD == HELD - 1

    def _cost(self, model: nn.Module, context: Context) -> Callable[[Trial], float]:
        if self.bits:
            return Trial.bits
        if self.size:
            metadata = {**context.task.metadata(), "claims": _claims(context.task)}
            packed = budget.packed(model, budget.examples(model, context), metadata)
            return lambda trial: float(packed(trial.model))
        with evaluating(model):
            wanted = [fisher.answers(forward(model, inputs)) for inputs, held in self._pieces(context) if held]
        if not wanted:
            raise StepError(
                f"RoundWeights: divergence needs at least {HELD * fisher.PIECE} examples, of which some are held out; "
                "give more, or set bits"
            )
        return lambda trial: self._divergence(trial.model, wanted, context)

    def _divergence(self, model: nn.Module, wanted: list[list[Tensor]], context: Context) -> float:
        with evaluating(model):
            found = [fisher.answers(forward(model, inputs)) for inputs, held in self._pieces(context) if held]
        return sum(map(fisher.divergence, found, wanted)) / len(wanted)

    def _meet(self, trial: Trial, cost: Callable[[Trial], float], context: Context) -> None:
        """Round at the coarsest step that meets the target. Raises `StepError` where none does."""
        looks = 0

        def at(logarithm: float) -> float:
            nonlocal looks
            looks += 1
            context.progress("RoundWeights", looks, looks + 1)
            trial.set(sign * logarithm)
            return cost(trial)

        name, target = self.target
        sign = -1 if name == "divergence" else 1
        best, reached = coarsest(at, target, TOLERANCE[name], sign * trial.start(self.bits or START))
        if not (1 - TOLERANCE[name]) * target <= reached <= target:
            words = f"{reached:.3g} is the nearest" if math.isfinite(reached) else "every rounding has more"
            raise StepError(f"RoundWeights cannot meet {name} {target:g}: {words}; ask for that, or skip fewer weights")
        trial.set(sign * best)


def why_unfit(weight: Weight) -> str | None:
    """Why a weight cannot be rounded; None where it can."""
    if reason := why_not(weight):
        return reason
    for link in encodings.chain(weight):
        if not isinstance(link, (encodings.Mask, encodings.Half)):
            return f"stored as {link.describe()} already: put RoundWeights before the step that did it, or leave it out"
    shape, count = weight.tensor.shape, weight.tensor.numel()
    layout = Matrices.of(weight) if shape else None
    if layout is None or (len(shape) == 1 and count < SMALLEST):
        return f"{count} values, which a step would hardly make smaller"
    rows = math.prod(layout.row_shape)
    if len(shape) > 1 and (rows < 2 or count + 2 * rows + 4 >= 4 * count):
        return f"{count} values in {rows} rows: integers and their steps would be hardly smaller"
    return None


def _claims(task: Task) -> str:
    """About as long as what a run writes into the file of what it has measured."""
    claims = {task.metric_name: math.pi / 4, "examples": 12345, "agreement": math.e / 3, "original_bytes": 98765432}
    return json.dumps(claims, separators=(",", ":"))


def _decision(layout: Matrices) -> dict[str, Any]:
    bits, columns = 16 if len(layout.shape) == 1 else 8, layout.column_shape
    return {"bits": bits, "rows": list(layout.row_shape), "columns": list(columns) if columns else None}
