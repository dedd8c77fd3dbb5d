"""Integers after training: weights, and what passes between the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from rarefy import encodings
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, surveyed, weights
from rarefy.numerics.observers import Method
from rarefy.quantizing import adaptive, between, change, equalisation, mixed
from rarefy.quantizing.calibration import calibrated
from rarefy.quantizing.decision import (
    INTEGER_LAYERS,
    bits_of,
    check_bits,
    check_some,
    decision,
    most_bits,
    why_unfit,
    words,
)
from rarefy.quantizing.mixed import Mixed
from rarefy.step import Context, Plan, Step


class Quantize(Step):
    """Rounds weights to integers of few bits and activations to 8 bits, without training.

    q = round(x / scale) + zero_point, saturated. BatchNorm is folded into the layer before it first; ranges come from
    one pass over training examples; each scale of a weight has the least squared error; what rounding a weight adds to
    its layer's outputs on average is taken out of the bias. Convolutions and matrix products then run on integers,
    and so do sums, concatenations and means between them. Scales are such that no sum lies half-way between two
    integers, so that every engine answers as torch does. Only the weights are rounded where `activations` is null.
    A `Finetune` afterwards trains through the rounding.

    `rounding: adaptive` is AdaRound (Nagel et al. 2020, arXiv:2004.10568), for 4 bits and fewer. `mixed` measures for
    every weight what rounding it alone does to the answers, and gives few bits where that is little.

    Ranges of activations: `mse` (least squared error), `percentile` (99.99 %), `entropy` (least divergence), `minmax`,
    `average` (moving average of the extremes). The first three leave out examples far beyond the usual ones.
    """

    gains: ClassVar[str] = (
        "a quarter of the bytes at 8 bits, less at fewer, and time: integer kernels run; weights alone gain bytes, no "
        "time, and 2 and 3 bits are 4 in the ONNX file, their entropy in the pack"
    )
    needs: ClassVar[str] = "nothing: QuantizeLinear and DequantizeLinear, which engines turn into integer kernels"
    paper: ClassVar[str] = (
        "Jacob et al. 2018 (arXiv:1712.05877); bias correction as in Nagel et al. 2019, Data-Free Quantization "
        "(arXiv:1906.04721)"
    )
    structural: ClassVar[bool] = True

    weights: int = Field(8, ge=2, le=8, description="bits of a weight")
    activations: Literal[8] | None = Field(8, description="bits of an activation; null leaves them float32")
    observer: Method = Field("mse", description="how the ranges of activations are chosen")
    per: Literal["channel", "tensor"] | int = Field(
        "channel", description="what of a weight shares a scale: a number is a group of inputs of a matrix"
    )
    symmetric: bool = Field(True, description="weights have no zero point; engines want it so for speed")
    symmetric_activations: bool = Field(
        False, description="the middle of an activation's integers is 0, or the least where it is never negative"
    )
    examples: int = Field(128, ge=1, description="training examples to measure ranges on")
    reduce_range: bool | None = Field(
        None, description="at most 7 bits for weights, so that no 8-bit multiply-add saturates; by default on such CPUs"
    )
    rounding: Literal["nearest", "adaptive"] = Field(
        "nearest", description="adaptive: up or down, so that a layer's outputs change least; takes minutes (AdaRound)"
    )
    equalise: bool = Field(
        False, description="layers in a row share their channels' ranges out first; for one scale per tensor"
    )
    mixed: Mixed | None = Field(
        None, description="bits chosen for each weight: {size: ...} or {max_drop: ...}; then `weights` does not count"
    )
    layers: dict[str, int] = Field({}, description="glob -> bits of these weights; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The bits of every weight; the BatchNorms to fold and the places to round."""
        found = surveyed("Quantize", model, self.layers, self.skip)
        check_bits("Quantize", self.layers)
        most = most_bits(self.reduce_range, self.activations, context)
        plan = self._planned(model, found, most, {}, context)
        return plan if self.mixed is None else self._mixed(model, found, most, plan, context, self.mixed)

    def _planned(
        self, model: nn.Module, found: list[Weight], most: int, bits: Mapping[str, int], context: Context
    ) -> Plan:
        """bits: of weights, by path, that the settings do not say."""
        plan = Plan()
        for weight in found:
            self._decide(plan, weight, most, bits.get(weight.path))
        check_some("Quantize", plan)
        if self.activations:
            between.decide(plan, model, found, self.skip, context)
        else:
            between.corrections(plan, model, context)
        if self.equalise:
            work = change.fold(twin(model), plan)
            pairs = equalisation.pairs(work, between.watched(work, context), _integers(plan))
            plan.also |= {f"{pair.first}:channels": equalisation.data(pair) for pair in pairs}
        return plan

    def _decide(self, plan: Plan, weight: Weight, most: int, bits: int | None) -> None:
        path = weight.path
        reason = "skipped, as set" if chosen(path, self.skip) else why_unfit(weight)
        if bits == mixed.FLOAT:
            reason = "kept in float32"
        bits = bits or bits_of(path, self.layers, self.weights)
        made = None if reason else decision(weight, min(bits, most), self.per, self.symmetric)
        if made is None:
            plan.leave[path] = reason or "integers and their scales would be larger than its values"
            return
        plan.do[path], plan.notes[path] = made, words(made, self.per)
        if self.rounding == "adaptive":
            if nearest := adaptive.why_not(weight):
                plan.notes[path] += f", to the nearest ({nearest})"
            else:
                made["rounding"] = "adaptive"
                plan.notes[path] += ", up or down by what the layer sees"

    def _mixed(
        self, model: nn.Module, found: list[Weight], most: int, plan: Plan, context: Context, settings: Mixed
    ) -> Plan:
        """The plan with bits chosen for all weights that `layers` does not name."""
        quiet = replace(context, warnings=[])
        free = sorted(path for path in _integers(plan) if not chosen(path, self.layers))
        bits = sorted({min(b, most) for b in settings.bits})
        work = change.fold(twin(model), plan)
        table = mixed.sensitivities(work, plan, free, bits, quiet, settings.examples)

        def made(bits: dict[str, int]) -> nn.Module:
            return self.apply(encodings.copied(model), self._planned(model, found, most, bits, quiet), quiet)

        best = table.chosen(settings, mixed.drops(model, made, context, self.examples))
        plan = self._planned(model, found, most, best, context)
        mixed.explain(plan, table, best, context)
        return plan

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Fold, equalise, calibrate, round."""
        model = change.fold(model, plan)
        found, places = weights(model), change.planned_points(plan)
        seen, norms = None, change.planned_corrections(plan)
        if not context.blank:
            equalisation.equalise(model, equalisation.planned(plan), context, self.examples)
            layers = [p.place[0] for p in places if isinstance(model.get_submodule(p.place[0]), INTEGER_LAYERS)]
            if places or norms:
                seen = calibrated(model, places, dict.fromkeys([*layers, *norms]), context, self.examples)
        grids = change.grids(places, seen, self.observer, self.symmetric_activations)
        bearers = change.bearers(model, seen, norms)
        adapted = [w.path.removesuffix("weight").rstrip(".") for w in found if "rounding" in plan.do.get(w.path, {})]
        moments = adaptive.moments(model, adapted, bearers, context, self.examples)
        for weight in found:
            made = plan.do.get(weight.path, {})
            if "axis" in made:
                known = next(moments) if "rounding" in made and not context.blank else None
                change.round_weight(model, weight, made, grids, bearers, context.blank, known)
        change.round_activations(model, places, grids)
        between.settle(model, plan, context.blank)
        return model


def _integers(plan: Plan) -> set[str]:
    """The weights that are rounded."""
    return {path for path, made in plan.do.items() if "axis" in made}
