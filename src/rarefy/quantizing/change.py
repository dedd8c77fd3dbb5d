"""Carrying a decision out: fold, measure, round."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.errors import InputError, StepError
from rarefy.graph.normalisation import folded
from rarefy.graph.weights import Weight, by_path
from rarefy.layers.rounding import attach
from rarefy.numerics.affine import parameters
from rarefy.numerics.observers import Method
from rarefy.quantizing.calibration import Seen, mean_error
from rarefy.quantizing.points import Place, Point
from rarefy.step import Plan


def place_name(place: Place) -> str:
    """A place in a plan: "features.0:output"."""
    return ":".join(place)


def planned_points(plan: Plan) -> list[Point]:
    """The points that a plan holds."""
    return [
        Point(_place(name), _place(made["of"]), tuple(math.inf if b is None else b for b in made["clip"] or ()) or None)  # type: ignore[arg-type]
        for name, made in plan.also.items()
        if "of" in made
    ]


def point_data(point: Point) -> dict[str, Any]:
    """A point as plain data; an open bound is None."""
    clip = None if point.clip is None else [b if math.isfinite(b) else None for b in point.clip]
    return {"of": place_name(point.of), "clip": clip}


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
            bias += mean_error(owner, lost, mean)


def round_activations(
    model: nn.Module, points: list[Point], seen: Seen | None, observer: Method, symmetric: bool
) -> None:
    """Attach the rounding of every point, those of one range with the same two tensors."""
    ranges: dict[Place, tuple[Tensor, Tensor]] = {}
    for point in points:
        if point.of not in ranges:
            ranges[point.of] = _range(point.of, seen, observer, symmetric)
        attach(model.get_submodule(point.place[0]), point.place[1], *ranges[point.of])


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
    """Store the bias of a layer as the 32-bit integers that its products are summed in: scale input x weight."""
    weight = by_path(model)[path]
    module = weight.module
    link = encodings.find(by_path(model)[f"{path.rpartition('.')[0]}.weight".removeprefix(".")], Affine)
    assert isinstance(link, Affine)
    scale = torch.ones(weight.tensor.shape)
    if not blank:
        scale = scale.to(link.scale.device) * link.scale * module.get_buffer("input_scale").to(link.scale.device)
    encodings.encode(weight, [Affine(scale, torch.zeros(scale.shape), 32, 0)], weight.tensor)
