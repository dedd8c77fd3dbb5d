"""Integers after training: weights, and what passes between the layers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from rarefy import budget, encodings
from rarefy.errors import StepError
from rarefy.graph.flow import Flow, flow
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, surveyed, weights
from rarefy.numerics.observers import Method
from rarefy.quantizing import change
from rarefy.quantizing.calibration import calibrated
from rarefy.quantizing.decision import INTEGER_LAYERS, decision, saturates, why_unfit, words
from rarefy.quantizing.normalisation import foldable, folded
from rarefy.quantizing.points import points
from rarefy.step import Context, Plan, Step
from rarefy.task import forward
from rarefy.train import evaluating


class Quantize(Step):
    """Rounds weights to integers of few bits and activations to 8 bits, without training.

    q = round(x / scale) + zero_point, saturated. BatchNorm is folded into the layer before it first; ranges come from
    one pass over training examples; each scale of a weight has the least squared error; what rounding a weight adds to
    its layer's outputs on average is taken out of the bias. Convolutions and matrix products then run on integers,
    and so do sums, concatenations and means between them. Only the weights are rounded where `activations` is null.
    A `Finetune` afterwards trains through the rounding.

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
    symmetric_activations: bool = Field(False, description="the middle of an activation's integers is 0")
    examples: int = Field(128, ge=1, description="training examples to measure ranges on")
    reduce_range: bool | None = Field(
        None, description="at most 7 bits for weights, so that no 8-bit multiply-add saturates; by default on such CPUs"
    )
    layers: dict[str, int] = Field({}, description="glob -> bits of these weights; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The bits of every weight; the BatchNorms to fold and the places to round."""
        found, plan = surveyed("Quantize", model, self.layers, self.skip), Plan()
        if wrong := [f"{glob}: {bits}" for glob, bits in self.layers.items() if not 2 <= bits <= 8]:
            raise StepError(f"Quantize: layers: 2 to 8 bits can be stored, not {wrong[0]}")
        most = self._most(context)
        for weight in found:
            self._decide(plan, weight, most)
        if not plan.do:
            reasons = "; ".join(f"{path}: {why}" for path, why in list(plan.leave.items())[:5])
            raise StepError(f"Quantize found no weight to quantize ({reasons}); leave it out")
        if self.activations:
            self._between(plan, model, found, context)
        return plan

    def _most(self, context: Context) -> int:
        reduce = self.reduce_range
        if reduce is None and self.activations and saturates():
            reduce = True
            context.warnings.append(
                "weights have at most 7 bits: this CPU's 8-bit multiply-add saturates (reduce_range: false keeps 8)"
            )
        return 7 if reduce and self.activations else 8

    def _decide(self, plan: Plan, weight: Weight, most: int) -> None:
        path = weight.path
        reason = "skipped, as set" if chosen(path, self.skip) else why_unfit(weight)
        bits = next((b for glob, b in self.layers.items() if chosen(path, [glob])), self.weights)
        made = None if reason else decision(weight, min(bits, most), self.per, self.symmetric)
        if made is None:
            plan.leave[path] = reason or "integers and their scales would be larger than its values"
        else:
            plan.do[path], plan.notes[path] = made, words(made, self.per)

    def _between(self, plan: Plan, model: nn.Module, found: list[Weight], context: Context) -> None:
        """Everything about activations, found out on a copy."""
        work = twin(model)
        seen = _run(work, context)
        owners = {id(m): w.path for w in weights(work) for m, name in w.owners if name == "weight"}
        names = {path: owners[id(m)] for path, m in work.named_modules() if id(m) in owners}
        for norm, layer in foldable(work, seen).items():
            if names[layer] in plan.do and not chosen(f"{norm}.weight", self.skip):
                _fold(plan, norm, layer)
                work = folded(work, norm, layer)
        encodings.decoded(work)
        modules = dict(work.named_modules())
        layers = [p for p, weight in names.items() if weight in plan.do and isinstance(modules[p], INTEGER_LAYERS)]
        seen = _run(work, context)
        layers = [path for path in layers if path in seen.inputs]
        plan.also |= {change.place_name(p.place): change.point_data(p) for p in points(work, seen, layers)}
        for path in layers:
            self._bias(plan, path, plan.do[names[path]], {w.path: w for w in found})

    def _bias(self, plan: Plan, path: str, made: dict[str, Any], found: dict[str, Weight]) -> None:
        """A layer whose output stays float32 runs on integers if its bias is integers too."""
        bias = f"{path}.bias".removeprefix(".")
        rounded = f"{path}:input" in plan.also and f"{path}:output" not in plan.also
        plain = bias in found and not chosen(bias, self.skip) and not found[bias].chain and len(found[bias].owners) == 1
        if rounded and plain and not made["group"] and made["axis"] in (0, None):
            plan.leave.pop(bias)
            plan.do[bias], plan.notes[bias] = {"bits": 32}, "32-bit integers, scale of input x weight"

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Fold, calibrate, round."""
        model = change.fold(model, plan)
        found, places = weights(model), change.planned_points(plan)
        seen = None
        if not context.blank and places:
            layers = [p.place[0] for p in places if isinstance(model.get_submodule(p.place[0]), INTEGER_LAYERS)]
            seen = calibrated(model, places, dict.fromkeys(layers), context, self.examples)
        for weight in found:
            made = plan.do.get(weight.path, {})
            if "axis" in made:
                change.round_weight(model, weight, made, seen, context.blank)
        change.round_activations(model, places, seen, self.observer, self.symmetric_activations)
        biases = [path.rpartition(".")[0] for path, made in plan.do.items() if made.get("bits") == 32]
        for path in biases:
            change.round_bias(model, path, context.blank)
        if not context.blank:
            change.snap_biases(model, [path for path in self._summed(model, plan) if path not in biases])
        return model

    def _summed(self, model: nn.Module, plan: Plan) -> list[str]:
        """The layers that engines add an integer bias in."""
        scaled = {
            id(m) for w in weights(model) if plan.do.get(w.path, {}).get("axis", 1) in (0, None) for m, _ in w.owners
        }
        grouped = {id(m) for w in weights(model) if plan.do.get(w.path, {}).get("group") for m, _ in w.owners}
        places = [name.rpartition(":")[0] for name in plan.also if name.endswith(":input")]
        modules = {path: model.get_submodule(path) for path in places}
        return [p for p, m in modules.items() if id(m) in scaled - grouped and isinstance(m, INTEGER_LAYERS)]


def _run(model: nn.Module, context: Context) -> Flow:
    inputs = budget.examples(model, context)
    with evaluating(model):
        return flow(model, lambda: forward(model, inputs))


def _fold(plan: Plan, norm: str, layer: str) -> None:
    plan.also[norm] = {"into": layer}
    for path in (f"{norm}.weight", f"{norm}.bias"):
        if plan.leave.pop(path, None):
            plan.do[path], plan.notes[path] = {"into": layer}, f"folded into {layer}"
    if plan.leave.pop(f"{layer}.bias", None):
        plan.do[f"{layer}.bias"], plan.notes[f"{layer}.bias"] = {"takes": norm}, f"takes over the shift of {norm}"
