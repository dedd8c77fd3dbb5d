"""Weights of one bit, and activations of one to four."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy import encodings
from rarefy.binarizing import advice
from rarefy.binarizing.inputs import Inputs, View, looked_at, viewed
from rarefy.binarizing.shortcuts import shortcuts, with_shortcut
from rarefy.encodings import FewLevels, Signs, Ternary
from rarefy.errors import StepError
from rarefy.graph.ends import between
from rarefy.graph.modules import replaced
from rarefy.graph.weights import Weight, by_path, chosen, surveyed
from rarefy.layers.binary import MOST_BITS, Activation, BinaryLayer, binarize, keep_called
from rarefy.layers.binary_units import ShiftedPReLU
from rarefy.numerics.binary import Gradient
from rarefy.stand_in import read_by_code
from rarefy.step import Context, Plan, Step

Kept = Literal["first", "last", "pointwise"]


class Binarize(Step):
    """Makes weights one bit and activations one to four, to be trained by the `Finetune` or `Distill` that follows.

    weight = alpha sign(w), with alpha = mean |w| of each filter, where w, the latent float weights, take the small
    changes of training: d sign(w) / d w = 1 within the clip, 0 beyond, and w is kept within it. The layer's input is
    sign(x) with the gradient of hard tanh. The latent weights are in the run's folder and in no file that is shipped.
    BatchNorm -> sign -> layer -> pool is the order that works; where a layer's input is never negative (after a
    ReLU), the place where its sign changes is learnt, from its mean on.

    Binary-weight networks: `activations: null`; BinaryConnect: also `scales: false`, perhaps `stochastic`. BinaryNet:
    `scales: false`. XNOR-Net: `input_scale: true`. DoReFa: `activations: 2`. Ternary weight networks: `weights:
    ternary, activations: null`. Bi-Real: `shortcuts`, `gradient: polynomial`. ReActNet: `thresholds`, `prelu`, and two
    stages, `Binarize: {weights: null}` and later `Binarize: {activations: null}` with a training after each.
    """

    gains: ClassVar[str] = (
        "1/32 of the bytes of a weight, and with binary activations time, in layers of many channels; much accuracy "
        "is lost until it is trained, and some for good"
    )
    needs: ClassVar[str] = (
        "nothing: functions of standard operators; for speed the kernels of rarefy, which `rarefy.load` brings along"
    )
    paper: ClassVar[str] = (
        "Courbariaux et al. 2015 (arXiv:1511.00363) and 2016 (arXiv:1602.02830), Rastegari et al. 2016 "
        "(arXiv:1603.05279), Zhou et al. 2016 (arXiv:1606.06160), Li et al. 2016 (arXiv:1605.04711), Liu et al. 2018 "
        "(arXiv:1808.00278) and 2020 (arXiv:2003.03488)"
    )
    structural: ClassVar[bool] = True

    weights: Literal["sign", "ternary"] | None = Field("sign", description="null leaves them float32")
    activations: Literal["sign"] | int | None = Field(
        "sign", description="sign: +1 or -1; 1 to 4: bits of levels from 0 up; null leaves them float32"
    )
    scales: bool = Field(
        True, description="multiply every filter by its mean magnitude; else its weights are +1 and -1"
    )
    stochastic: bool = Field(False, description="in training signs are drawn, the likelier the further from zero")
    balanced: bool = Field(False, description="signs of the weight less its filter's mean")
    clip: float | None = Field(
        1.0,
        gt=0,
        description="bound of the latent weights, in units of sqrt(3) times their root mean square; null: none",
    )
    gradient: Gradient = Field("hardtanh", description="of the activations' sign; polynomial: Bi-Real's, 2 - 2 |x|")
    input_scale: bool = Field(False, description="XNOR-Net's K: multiply by the mean |x| under the filter; costs time")
    thresholds: bool | None = Field(
        None, description="learn where each channel's sign changes; by default where the input is never negative"
    )
    prelu: bool = Field(False, description="after binary layers, nn.ReLU becomes a PReLU that shifts in and out")
    shortcuts: bool = Field(
        False,
        description="a real-valued shortcut around binary convolutions and their BatchNorm, where their block has none",
    )
    keep: tuple[Kept, ...] = Field(("first", "last", "pointwise"), description="layers that stay as they are")
    examples: int = Field(128, ge=1, description="training examples to look at the layers' inputs on")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @field_validator("activations", mode="before")
    @classmethod
    def _few(cls, given: object) -> object:
        if given in ("sign", None, *range(1, MOST_BITS + 1)) and not isinstance(given, bool):
            return given
        more = isinstance(given, int) and given > MOST_BITS
        why = ": each bit takes the time of a whole binary layer, beyond four Quantize is faster" if more else ""
        raise ValueError(f"should be sign, null or 1 to {MOST_BITS} bits{why}")

    @model_validator(mode="after")
    def _fitting(self) -> Binarize:
        signs = self.activations == "sign"
        wrong = {
            "weights and activations are both null: there is nothing to do": not (self.weights or self.activations),
            "stochastic and balanced are for weights: sign": (self.stochastic or self.balanced)
            and self.weights != "sign",
            "stochastic needs a clip, which its probabilities are counted in": self.stochastic and self.clip is None,
            "input_scale and thresholds are for activations: sign": (self.input_scale or self.thresholds) and not signs,
        }
        if found := next((words for words, holds in wrong.items() if holds), None):
            raise ValueError(found)
        return self

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """What every weight becomes, and what its layers' inputs become."""
        plan, left = Plan(), list[Weight]()
        for weight in surveyed("Binarize", model, (), self.skip):
            skipped = "skipped, as set" if chosen(weight.path, self.skip) else None
            if reason := skipped or advice.why_unfit(weight, self.activations is not None):
                plan.leave[weight.path] = reason
            else:
                left.append(weight)
        if left:
            self._look(plan, left, model, context)
        if not plan.do:
            large = sorted(plan.leave.items(), key=lambda entry: entry[1].startswith("one-dimensional"))
            reasons = "; ".join(f"{path}: {why}" for path, why in large[:6])
            raise StepError(f"Binarize found no layer to make binary ({reasons}); leave the step out, or change keep")
        return plan

    def _look(self, plan: Plan, left: list[Weight], model: nn.Module, context: Context) -> None:
        """Decide on those that nothing speaks against yet, by what the network shows when it runs."""
        view = viewed(model, context)
        kept = {w.path: next((y for m, _ in w.owners if (y := self._kept(view, m))), None) for w in left}
        plan.leave |= {path: why for path, why in kept.items() if why}
        left = [w for w in left if not kept[w.path]]
        relus = [p for p, m in view.modules.items() if self.prelu and type(m) is nn.ReLU and view.flow.calls[p] == 1]
        layers = [view.paths[id(m)] for w in left for m, _ in w.owners] if self.activations or self.shortcuts else []
        view.look(model, [*layers, *relus], context, self.examples)
        for weight in left:
            self._decide(plan, weight, view)
        done = {view.paths[id(m)]: w.path for w in left if w.path in plan.do for m, _ in w.owners}
        around = [*done, *(p for p, m in view.modules.items() if isinstance(m, _BatchNorm))] if self.shortcuts else []
        read = read_by_code(model, [*around, *relus], context)
        self._change_relus(plan, done, relus, view, read)
        made, without = shortcuts(done if self.shortcuts else (), view, read)
        plan.also |= made
        for path, why in without.items():
            _note(plan, done[path], why)

    def _change_relus(
        self, plan: Plan, done: dict[str, str], relus: list[str], view: View, read: dict[str, str]
    ) -> None:
        for path in relus:
            given = view.flow.inputs.get(path, [])
            if between(view.flow, list(done), view.layers).isdisjoint(given):
                continue
            before = [p for p in done if not between(view.flow, [p], view.layers).isdisjoint(given)]
            why = read.get(path)
            if any(isinstance(view.modules[p], nn.Linear) for p in before) and view.flow.sizes[given[0]] > 2:
                why = "its channels come last, and a PReLU has them in dimension 1"
            if why is None:
                plan.also[path] = {"prelu": view.inputs[path].channels}
            for weight in {done[p] for p in before if why}:
                _note(plan, weight, f"{path} stays as it is: {why}")

    def _kept(self, view: View, module: nn.Module) -> str | None:
        return advice.why_kept(view.paths[id(module)], module, self.keep, view.ends)

    def _decide(self, plan: Plan, weight: Weight, view: View) -> None:
        layers = {view.paths[id(m)]: m for m, _ in weight.owners}
        binary = any(isinstance(m, BinaryLayer) for m in layers.values())
        weights = None if encodings.chain(weight) else self.weights
        activations = None if binary else self.activations
        if weights is None and activations is None:
            plan.leave[weight.path] = f"{encodings.describe(weight)} already" + ", and so is its input" * binary
        elif activations is not None and not view.inputs.keys() >= layers.keys():
            plan.leave[weight.path] = "the examples do not reach it"
        elif activations is not None and self.input_scale and not isinstance(weight.module, nn.Conv2d):
            plan.leave[weight.path] = "input_scale is for convolutions, which it is not"
        else:
            positive = activations == "sign" and any(view.inputs[p].positive for p in layers)
            threshold = activations == "sign" and (positive if self.thresholds is None else self.thresholds)
            made = {"weights": weights, "activations": activations, "threshold": threshold}
            plan.do[weight.path] = made
            words = [*self._words(made, positive), *advice.notes(next(iter(layers)), view, weights, activations)]
            if weights and not self.scales:
                words += advice.unscaled(next(iter(layers)), view)
            plan.notes[weight.path] = "; ".join(words)

    def _words(self, made: dict[str, Any], positive: bool) -> Iterator[str]:
        if made["weights"]:
            yield ("1 bit" if made["weights"] == "sign" else "ternary") + ", a scale per filter" * self.scales
        if made["activations"] == "sign":
            yield "signs of its input" + ", with their scale" * self.input_scale
        elif made["activations"]:
            yield f"{made['activations']}-bit inputs"
        if made["threshold"]:
            yield "learnt thresholds" + ", as its input is never negative" * positive
        elif positive:
            yield "its input is never negative, so all its signs are +1: leave thresholds to the default"

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Activations, weights, then what is built around them."""
        found, paths = by_path(model), {id(module): path for path, module in model.named_modules()}
        owners = {path: [m for m, _ in found[path].owners] for path in plan.do}
        inputs = [paths[id(m)] for path, made in plan.do.items() if made["activations"] for m in owners[path]]
        stats = {} if context.blank or not inputs else looked_at(model, inputs, context, self.examples)
        for path, made in plan.do.items():
            for layer in owners[path] if made["activations"] else ():
                self._activate(layer, made, stats.get(paths[id(layer)]))
            if made["weights"]:
                self._encode(found[path], made["weights"], context.blank)
        keep_called(model)
        for path, made in plan.also.items():
            if "prelu" in made:
                model = replaced(model, path, ShiftedPReLU(made["prelu"]))
            else:
                model = with_shortcut(model, path, **made)
        return model

    def _activate(self, layer: nn.Module, made: dict[str, Any], seen: Inputs | None) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        signs, device = made["activations"] == "sign", layer.weight.device
        bits = 0 if signs else made["activations"]
        channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        threshold: Tensor | None = None
        if made["threshold"]:
            threshold = torch.zeros(channels) if seen is None or not seen.positive else seen.means
        steps = None if signs else torch.tensor(1.0 if seen is None else seen.steps(bits))
        how = Activation(bits, self.gradient, self.input_scale)
        binarize(
            layer, how, None if threshold is None else threshold.to(device), None if steps is None else steps.to(device)
        )

    def _encode(self, weight: Weight, kind: str, blank: bool) -> None:
        tensor, shape = weight.tensor.detach(), tuple(weight.tensor.shape)
        link: FewLevels = Ternary(shape, self.scales)
        if kind == "sign":
            link = Signs(shape, self.scales, stochastic=self.stochastic, balanced=self.balanced)
        encodings.encode(weight, [link if blank else link.fit(tensor, self.clip)], tensor)


def _note(plan: Plan, weight: str, words: str) -> None:
    if words not in plan.notes[weight]:  # several layers may share the weight
        plan.notes[weight] += f"; {words}"
