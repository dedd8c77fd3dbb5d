"""Carrying a decision out: fold, measure, round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
from rarefy.quantizing.adaptive import adapted
from rarefy.quantizing.alignment import Grid, Grids, align_activations, align_weight
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
        Point(
            place=_place(name),
            of=_place(made["of"]),
            clip=_clip(made["clip"]),
            silent=made["silent"],
            addends=tuple(map(_place, made["addends"])),
            bits=made["bits"],
        )
        for name, made in plan.also.items()
        if "of" in made
    ]


def point_data(point: Point) -> dict[str, Any]:
    """A point as plain data; an open bound is None."""
    clip = None if point.clip is None else [b if math.isfinite(b) else None for b in point.clip]
    addends = list(map(place_name, point.addends))
    return {"of": place_name(point.of), "clip": clip, "silent": point.silent, "addends": addends, "bits": point.bits}


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


def planned_corrections(plan: Plan) -> dict[str, str | None]:
    """The layers whose outputs' means are restored, and the BatchNorms that do it for layers without a bias."""
    return {made["corrects"]: made["norm"] for made in plan.also.values() if "corrects" in made}


@dataclass(frozen=True)
class Bearer:
    """What takes over the mean change of a layer's outputs when its weight is rounded."""

    tensor: Tensor  # the bias, or the running mean of the BatchNorm that follows
    sign: int
    mean: Tensor  # of the layer's input


def bearers(model: nn.Module, seen: Seen | None, norms: dict[str, str | None]) -> dict[str, Bearer]:
    """Those of the layers whose inputs were measured. norms: for layers without a bias, the BatchNorm that follows."""
    found = {}
    for path, mean in seen.means.items() if seen else ():
        layer, norm = model.get_submodule(path), norms.get(path)
        bias = layer._parameters.get("bias")
        if layer._forward_hooks or layer._forward_pre_hooks:
            continue
        if bias is not None:
            found[path] = Bearer(bias, 1, mean)
        elif norm is not None:
            found[path] = Bearer(model.get_buffer(f"{norm}.running_mean"), -1, mean)
    return found


def round_weight(
    model: nn.Module,
    weight: Weight,
    made: dict[str, Any],
    grids: Grids,
    bearers: Mapping[str, Bearer],
    blank: bool,
    moments: Tensor | None = None,
) -> None:
    """Store a weight as integers, and give what that costs its layers on average to what takes it over. blank: only the
    structure counts. moments: of the layer's inputs, to round up or down by."""
    tensor, form = weight.tensor.detach(), (made["bits"], made["axis"], made["group"])
    values = tensor
    if blank:
        shape = Affine.scales(tensor.shape, *form[1:])
        link = Affine(torch.ones(shape), torch.zeros(shape), *form)
    else:
        link = Affine.of(tensor, *form, symmetric=made["symmetric"])
        align_weight(model, weight, link, grids)
        if moments is not None:
            values = adapted(weight.module, tensor, link, moments)
        with torch.no_grad():
            _correct(model, weight, tensor - link(values), bearers)
    masks = [old for old in encodings.chain(weight) if isinstance(old, encodings.Mask)]
    encodings.encode(weight, [*masks, link], values)


def _correct(model: nn.Module, weight: Weight, lost: Tensor, bearers: Mapping[str, Bearer]) -> None:
    paths = {id(module): path for path, module in model.named_modules()} if bearers else {}
    for owner, name in weight.owners:
        bearer = bearers.get(paths.get(id(owner), "")) if name == "weight" else None
        if bearer is not None and not encodings.chain(weight):
            bearer.tensor.add_(mean_error(owner, lost, bearer.mean), alpha=bearer.sign)


def grids(points: list[Point], seen: Seen | None, observer: Method, symmetric: bool) -> Grids:
    """The scale and zero point of every place. Places of one range have the same two tensors."""
    own = {point.place: point for point in points if point.place == point.of}
    found: Grids = {place: _range(point, seen, observer, symmetric) for place, point in own.items()}
    align_activations(found, points)
    return {point.place: found[point.of] for point in points}


def round_activations(model: nn.Module, points: list[Point], grids: Grids) -> None:
    """Attach the rounding of every point."""
    for point in points:
        module, side = model.get_submodule(point.place[0]), point.place[1]
        attach(module, side, *grids[point.place], bits=point.bits, silent=point.silent)


def _range(point: Point, seen: Seen | None, observer: Method, symmetric: bool) -> Grid:
    low, high = 0.0, 0.0
    if seen is not None:
        observed = seen.ranges[point.place]
        symmetric = symmetric and observed.low < 0  # else half of the integers would stand for nothing
        try:
            low, high = observed.range(observer, point.bits, symmetric=symmetric)
        except InputError as error:
            raise StepError(
                f"calibration never reached {point.place[0]} ({error}); give other training examples, or leave the "
                "layer with skip"
            ) from None
    scale, zero = parameters(torch.tensor(low), torch.tensor(high), point.bits, symmetric=symmetric, signed=False)
    return scale, zero.to(torch.uint8)
