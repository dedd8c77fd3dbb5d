"""Carrying a decision out: fold, measure, round."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.errors import InputError, StepError
from rarefy.graph.weights import Weight
from rarefy.layers.rounding import attach
from rarefy.numerics.affine import parameters
from rarefy.numerics.observers import Method
from rarefy.quantizing.calibration import Seen, mean_error
from rarefy.quantizing.normalisation import folded
from rarefy.quantizing.points import Place, Point
from rarefy.step import Plan


def place_name(place: Place) -> str:
    """A place in a plan: "features.0:output"."""
    return ":".join(place)


def planned_points(plan: Plan) -> list[Point]:
    """The points that a plan holds."""
    return [
        Point(_place(name), _place(made["of"]), _clip(made["clip"]), made["silent"])
        for name, made in plan.also.items()
        if "of" in made
    ]


def point_data(point: Point) -> dict[str, Any]:
    """A point as plain data; an open bound is None."""
    clip = None if point.clip is None else [b if math.isfinite(b) else None for b in point.clip]
    return {"of": place_name(point.of), "clip": clip, "silent": point.silent}


def _clip(bounds: list[float | None] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = (math.inf if bound is None else bound for bound in bounds)
    return low, high


def _place(name: str) -> Place:
    path, _, side = name.rpartition(":")
    return path, "input" if side == "input" else "output"


def fold(model: nn.Module, plan: Plan) -> nn.Module:
    """Fold every BatchNorm that the plan names."""
    for path, made in plan.also.items():
        if "into" in made:
            model = folded(model, path, made["into"])
    return model


def round_weight(model: nn.Module, weight: Weight, made: dict[str, Any], seen: Seen | None, blank: bool) -> None:
    """Store a weight as integers, and give what that costs its layers on average to their biases, where that was
    measured. blank: only the structure counts."""
    tensor, form = weight.tensor.detach(), (made["bits"], made["axis"], made["group"])
    if blank:
        shape = Affine.scales(tensor.shape, *form[1:])
        link = Affine(torch.ones(shape), torch.zeros(shape), *form)
    else:
        link = Affine.of(tensor, *form, symmetric=made["symmetric"])
        if seen is not None:
            with torch.no_grad():
                _correct(model, weight, tensor - link(tensor), seen)
    masks = [old for old in encodings.chain(weight) if isinstance(old, encodings.Mask)]
    encodings.encode(weight, [*masks, link], tensor)


def _correct(model: nn.Module, weight: Weight, lost: Tensor, seen: Seen) -> None:
    paths = {id(module): path for path, module in model.named_modules()}
    for owner, name in weight.owners:
        bias, mean = owner._parameters.get("bias"), seen.means.get(paths[id(owner)])
        plain = not encodings.chain(weight) and not owner._forward_hooks and not owner._forward_pre_hooks
        if bias is not None and mean is not None and name == "weight" and plain:
            bias.add_(mean_error(owner, lost, mean))


def round_activations(
    model: nn.Module, points: list[Point], seen: Seen | None, observer: Method, symmetric: bool
) -> None:
    """Attach the rounding of every point, those of one range with the same two tensors."""
    ranges: dict[Place, tuple[Tensor, Tensor]] = {}
    for point in points:
        if point.of not in ranges:
            ranges[point.of] = _range(point.of, seen, observer, symmetric)
        attach(model.get_submodule(point.place[0]), point.place[1], *ranges[point.of], silent=point.silent)


def _range(place: Place, seen: Seen | None, observer: Method, symmetric: bool) -> tuple[Tensor, Tensor]:
    low, high = 0.0, 0.0
    if seen is not None:
        try:
            low, high = seen.ranges[place].range(observer, symmetric=symmetric)
        except InputError as error:
            raise StepError(
                f"Quantize: the calibration examples never reached {place[0]} ({error}); give others, or leave the "
                "layer with skip"
            ) from None
    scale, point = parameters(torch.tensor(low), torch.tensor(high), 8, symmetric=symmetric, signed=False)
    return scale, point.to(torch.uint8)


def round_bias(model: nn.Module, path: str, blank: bool) -> None:
    """Store the bias of the layer at `path` as the 32-bit integers that its products are summed in."""
    module = model.get_submodule(path)
    weight = Weight(f"{path}.bias", ((module, "bias"),))
    scale = torch.ones(weight.tensor.shape) if blank else _sums(module).expand(len(weight.tensor))
    encodings.encode(weight, [Affine(scale, torch.zeros(scale.shape), 32, 0)], module.bias)  # type: ignore[arg-type]


def snap_biases(model: nn.Module, paths: list[str]) -> None:
    """Put biases on the grid of the integers that an engine makes of them, so that sums are the same there."""
    for path in paths:
        module = model.get_submodule(path)
        bias = module._parameters.get("bias")
        if bias is not None:
            scale = _sums(module).double()
            bias.data.copy_((bias.data.double() / scale).round() * scale)


def _sums(module: nn.Module) -> Tensor:
    """The scale of a layer's sums of products: input x weight."""
    link = encodings.find(Weight("weight", ((module, "weight"),)), Affine)
    assert isinstance(link, Affine)
    return link.scale * module.get_buffer("input_scale").to(link.scale.device)
