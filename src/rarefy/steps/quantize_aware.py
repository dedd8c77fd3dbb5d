"""Integers by training: the rounding is part of the network while it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.graph.weights import Weight, chosen, surveyed, weights
from rarefy.numerics.observers import Method
from rarefy.quantizing import alignment, between, change, learning
from rarefy.quantizing.calibration import calibrated
from rarefy.quantizing.decision import bits_of, check_bits, check_some, decision, most_bits, why_unfit, words
from rarefy.quantizing.normalisation import absorbed
from rarefy.quantizing.points import Place, Point
from rarefy.step import Context, Plan
from rarefy.training_step import TrainingStep


class QuantizeAware(TrainingStep):
    """Rounds weights and activations to integers of few bits and trains the network through the rounding.

    It begins as `Quantize` ends: ranges of activations from training examples, for each channel of a weight the scale
    of least squared error. Then weights and activations are rounded in every forward pass, and the gradient passes
    straight through to the floats behind them, inside the range. With `learn_steps` the scales learn too, by
    d rounded / d scale = round(x / scale) - x / scale inside the range and its end beyond it (LSQ); at a rate that is
    relative to the scale, since at an absolute one those of 8 bits, which are small, run away.

    BatchNorm stays in the training, at first with the statistics of the batches, after the share `freeze` of it with
    those that it has gathered. In the end it is folded: since every channel has a scale of its own, that changes no
    integer of the weights. Then biases become integers too, and what is shipped is as `Quantize` makes it.

    Activations of fewer than 8 bits are 8-bit integers in the file, of which only the lower ones occur: no engine
    computes with fewer, so they gain nothing but a test of what a special chip would do. Weights of fewer are stored
    in 4 bits, in the pack in their entropy.
    """

    gains: ClassVar[str] = (
        "accuracy where Quantize loses it: few bits. Bytes and time are those of Quantize; activations of fewer than 8 "
        "bits run as 8-bit integers"
    )
    needs: ClassVar[str] = "nothing: QuantizeLinear and DequantizeLinear, which engines turn into integer kernels"
    paper: ClassVar[str] = (
        "Jacob et al. 2018 (arXiv:1712.05877); learned steps: Esser et al. 2020, Learned Step Size Quantization "
        "(arXiv:1902.08153)"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"epochs": 1}

    weights: int = Field(4, ge=2, le=8, description="bits of a weight")
    activations: int | None = Field(
        8, ge=2, le=8, description="bits of what layers read; null leaves activations float32"
    )
    ends: int = Field(8, ge=2, le=8, description="bits of the first and the last layer, and of what they read")
    learn_steps: bool = Field(True, description="scales are trained too (LSQ)")
    step_rate: float = Field(1.0, gt=0, le=100, description="learning rate of a scale, as a share of lr x scale")
    freeze: float = Field(0.9, ge=0, le=1, description="share of the training after which BatchNorm's statistics stand")
    observer: Method = Field("mse", description="how the ranges of activations are chosen at the start")
    examples: int = Field(128, ge=1, description="training examples to measure ranges on")
    reduce_range: bool | None = Field(
        None, description="at most 7 bits for weights, so that no 8-bit multiply-add saturates; by default on such CPUs"
    )
    layers: dict[str, int] = Field(
        {}, description="glob -> bits of these weights and of what their layers read; the first that matches counts"
    )
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The bits of every weight and place; the BatchNorms to fold."""
        found, plan = surveyed("QuantizeAware", model, self.layers, self.skip), Plan()
        check_bits("QuantizeAware", self.layers)
        for weight in found:
            self._decide(plan, weight)
        check_some("QuantizeAware", plan)
        super().plan(model, context)
        most, ends = most_bits(self.reduce_range, self.activations, context), between.ends(model, context)
        for path, made in plan.do.items():
            made["bits"] = min(most, bits_of(path, self.layers, self.ends if path in ends else self.weights))
            plan.notes[path] = words(made, "channel")
        if self.activations:
            usual = {p: bits_of(p, self.layers, self.ends if p in ends else self.activations) for p in plan.do}
            between.decide(plan, model, found, self.skip, context)
            between.narrow(plan, model, usual)
        return plan

    def _decide(self, plan: Plan, weight: Weight) -> None:
        reason = "skipped, as set" if chosen(weight.path, self.skip) else why_unfit(weight)
        made = (
            None
            if reason
            else decision(weight, bits_of(weight.path, self.layers, self.weights), "channel", symmetric=True)
        )
        if made is None:
            plan.leave[weight.path] = reason or "integers and their scales would be larger than its values"
        else:
            plan.do[weight.path] = made

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Calibrate, round, train; then fold and settle."""
        places = change.planned_points(plan)
        if context.blank:
            model = change.fold(model, plan)
            self._rounded(model, plan, places, context)
        else:
            norms = {norm: made["into"] for norm, made in plan.also.items() if "into" in made}
            given = {layer: norm for norm, layer in norms.items()}
            self._rounded(model, plan, [_moved(point, given) for point in places], context)
            self._learned(model, context)
            for norm, layer in norms.items():
                model = absorbed(model, norm, layer)
            _aligned(model, places)
        between.settle(model, plan, context.blank)
        return model

    def _rounded(self, model: nn.Module, plan: Plan, places: list[Point], context: Context) -> None:
        seen = None
        if places and not context.blank:
            seen = calibrated(model, places, (), context, self.examples)
        grids = change.grids(places, seen, self.observer, symmetric=False)
        for weight in weights(model):
            made = plan.do.get(weight.path, {})
            if "axis" in made:
                change.round_weight(model, weight, made, grids, {}, context.blank)
        change.round_activations(model, places, grids)

    def _learned(self, model: nn.Module, context: Context) -> None:
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]

        def before(done: float) -> None:
            for norm in norms:
                norm.train(done < self.freeze)

        starts = learning.released(model) if self.learn_steps else {}
        rates = {parameter: self.step_rate * float(start.mean()) for parameter, start in starts.items()}
        self._trained(model, context, before=before, after=learning.bounded(starts), rates=rates)
        learning.held(model)


def _aligned(model: nn.Module, places: list[Point]) -> None:
    """Move scales so that no sum is half-way between two integers. The integers of the weights stay."""
    links = [(weight, link) for weight in weights(model) if isinstance(link := encodings.find(weight, Affine), Affine)]
    integers = [link.store(weight.values.detach()) for weight, link in links]
    alignment.align(model, places)
    for (weight, link), stored in zip(links, integers, strict=True):
        weight.values.data.copy_(link.restored(stored))


def _moved(point: Point, given: dict[str, str]) -> Point:
    """Where it is while BatchNorm is not folded yet: after that."""

    def moved(place: Place) -> Place:
        path, side = place
        return (given.get(path, path), side) if side == "output" else place

    addends = tuple(moved(place) for place in point.addends)
    return replace(point, place=moved(point.place), of=moved(point.of), addends=addends)
