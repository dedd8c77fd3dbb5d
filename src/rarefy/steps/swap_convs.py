"""Light blocks in the place of convolutions."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.factoring import Geometry
from rarefy.factoring.positions import geometry
from rarefy.graph.modules import replaced
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.layers import Fire, Grouped, Light, Separable
from rarefy.settings import Settings
from rarefy.stand_in import hooked, read_by_code
from rarefy.step import Context, Plan, Step

KINDS: dict[str, type[Light]] = {kind.name: kind for kind in (Separable, Fire, Grouped)}


class Block(Settings):
    """The block for a layer, where it is another than that of the step."""

    block: Literal["separable", "fire", "shuffle"] | None = Field(None, description="another than that of the step")
    multiplier: int | None = Field(None, ge=1, le=64, description="of separable")
    squeeze: float | None = Field(None, gt=0, le=1, description="of fire")
    groups: int | None = Field(None, ge=2, le=1024, description="of shuffle")


class SwapConvs(Step):
    """Replaces convolutions by light blocks that come as near to them as such a block can; meant to be distilled then.

    `separable`: each channel by itself, then 1x1 (MobileNet). `fire`: 1x1 to few channels, then 1x1 and the kernel side
    by side (SqueezeNet). `shuffle`: the kernel within groups, a channel shuffle, 1x1 within groups (ShuffleNet). Their
    weights minimise ||W - W_block||^2 over the weight W that they replace: truncated SVDs of W rearranged. The blocks
    are as linear as the convolution: neither BatchNorm nor ReLU stands inside, so nothing disturbs that start, and what
    normalised the convolution's output normalises theirs. Left are convolutions of groups, of 1x1, of fewer inputs
    than `min_channels` (unless named in `layers`), and those whose block would not have both fewer weights and fewer
    multiply-accumulates.
    """

    gains: ClassVar[str] = (
        "bytes and multiply-accumulates, at an accuracy that only training after it brings back; time less than the "
        "counts say, since engines run depthwise and grouped convolutions less efficiently than dense ones"
    )
    paper: ClassVar[str] = (
        "Howard et al. 2017, MobileNets (arXiv:1704.04861); Iandola et al. 2016, SqueezeNet (arXiv:1602.07360); "
        "Zhang et al. 2018, ShuffleNet (arXiv:1707.01083); for the start Jaderberg, Vedaldi, Zisserman 2014"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"min_channels": 1}

    block: Literal["separable", "fire", "shuffle"] = Field("separable", description="the kind of block")
    multiplier: int = Field(1, ge=1, le=64, description="separable: kernels for each input channel")
    squeeze: float = Field(0.25, gt=0, le=1, description="fire: channels in the middle, as a share of the outputs")
    groups: int = Field(4, ge=2, le=1024, description="shuffle: groups of channels")
    min_channels: int = Field(4, ge=1, description="input channels that a convolution must have; 4 leaves the first")
    layers: dict[str, Block] = Field({}, description="glob -> a block of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The block for each convolution, what it costs, and how near it comes."""
        found, plan = surveyed("SwapConvs", model, self.layers, self.skip), Plan()
        reasons = {w.path: self._why_not(w) or self._why_not_block(w) for w in found}
        open_ = {w.path: w for w in found if reasons[w.path] is None}
        paths = {id(module): path for path, module in model.named_modules()}
        homes = {path: [paths[id(owner)] for owner, _ in w.owners] for path, w in open_.items()}
        seen = geometry(model, [home for several in homes.values() for home in several], context) if open_ else {}
        plan.leave = {path: reason for path, reason in reasons.items() if reason}
        read = read_by_code(model, seen, context)
        for path, weight in open_.items():
            if why := next((read[home] for home in homes[path] if home in read), None):
                plan.leave[path] = why
            elif missing := [home for home in homes[path] if home not in seen]:
                plan.leave[path] = f"the network does not call {', '.join(missing)}, but may use the weight directly"
            else:
                self._decide(plan, weight, [seen[home] for home in homes[path]])
        if not plan.do:
            raise StepError(_nothing(plan))
        return plan

    def _why_not(self, weight: Weight) -> str | None:
        conv, name = weight.module, weight.path.rpartition(".")[2]
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        if name == "bias" and type(conv) is nn.Conv2d:
            return f"a bias, {weight.tensor.numel()} values: stays as it is"
        if weight.chain:
            return f"stored as {encodings.describe(weight)} already: put SwapConvs before the step that did it"
        if reason := why_not(weight) or why_small(weight):
            return reason
        if any(is_parametrized(owner) for owner, _ in weight.owners):
            return "its layer's bias is encoded already: put SwapConvs before the step that did it"
        if name != "weight" or not all(type(owner) is nn.Conv2d for owner, _ in weight.owners):
            return f"part of {type(conv).__name__}, which is not a plain Conv2d"
        return next((why for o, _ in weight.owners if (why := self._why_not_conv(_conv(o), weight.path))), None)

    def _why_not_conv(self, conv: nn.Conv2d, path: str) -> str | None:
        if reason := hooked(conv):
            return reason
        if conv.groups > 1:
            return f"it has {conv.groups} groups already"
        if math.prod(conv.kernel_size) == 1:
            return "a 1x1 convolution has no kernel to take apart"
        if conv.in_channels < self.min_channels and self._own(path) is None:
            return f"{conv.in_channels} input channels, fewer than min_channels {self.min_channels}: name it in layers"
        return None

    def _why_not_block(self, weight: Weight) -> str | None:
        light, conv = self._light(weight.path), _conv(weight.module)
        if reason := next((why for o, _ in weight.owners if (why := light.why_not(_conv(o)))), None):
            return reason
        before, (inside, outside) = weight.tensor.numel(), light.cost(conv)
        if inside * math.prod(conv.stride) + outside >= before:
            return f"its block would not be lighter: {inside + outside:,} weights instead of {before:,}"
        return None

    def _own(self, path: str) -> Block | None:
        return next((block for glob, block in self.layers.items() if chosen(path, [glob])), None)

    def _light(self, path: str) -> Light:
        given = self._own(path) or Block()
        block = given.block or self.block
        if block == "separable":
            return Separable(given.multiplier or self.multiplier)
        return Fire(given.squeeze or self.squeeze) if block == "fire" else Grouped(given.groups or self.groups)

    def _decide(self, plan: Plan, weight: Weight, places: list[Geometry]) -> None:
        light, tensor = self._light(weight.path), weight.tensor.detach()
        before, (inside, outside) = tensor.numel(), light.cost(_conv(weight.module))
        macs = round(sum(before * place.outside for place in places))
        less = round(sum(inside * place.inside + outside * place.outside for place in places))
        error = float((light.fit(tensor, None).weight - tensor).norm() / tensor.norm().clamp(min=1e-30))
        plan.do[weight.path] = {
            "block": light.name,
            **asdict(light),
            "weights": [before, inside + outside],
            "macs": [macs, less],  # of one example
            "error": round(error, 4),  # relative, of the weights
        }
        plan.notes[weight.path] = (
            f"{light.name}: {before:,} -> {inside + outside:,} weights, {macs:,} -> {less:,} multiply-accumulates; "
            f"{error:.1%} away from the weights it replaces"
        )

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Put the planned blocks where the convolutions are; a weight that several share is shared by their blocks."""
        paths = {id(module): path for path, module in model.named_modules()}
        for weight in weights(model):
            if weight.path not in plan.do:
                continue
            light, first = _planned(plan.do[weight.path]), None
            for owner, _ in weight.owners:
                block = light.blank(_conv(owner)) if context.blank else light.filled(_conv(owner))
                first = first or block
                _share(block, first)
                model = replaced(model, paths[id(owner)], block)
        return model


def _planned(decision: dict[str, Any]) -> Light:
    kind = KINDS[decision["block"]]
    return kind(**{field.name: decision[field.name] for field in fields(kind)})


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


def _share(block: nn.Sequential, first: nn.Sequential) -> None:
    """All but the biases, which are the layers' own."""
    for module, other in zip(block.modules(), first.modules(), strict=True):
        if isinstance(module, nn.Conv2d) and isinstance(other, nn.Conv2d):
            module.weight = other.weight


def _nothing(plan: Plan) -> str:
    reasons = [f"{path}: {why}" for path, why in plan.leave.items() if path.endswith("weight")]
    shown = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
    return f"SwapConvs found no convolution that a light block could replace ({shown or 'the network has none'})"
