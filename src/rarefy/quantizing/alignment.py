"""Scales at which no sum lies half-way between two integers: see `rarefy.numerics.ties`."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import TopologicalSorter

from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.graph.weights import Weight, weights
from rarefy.numerics.ties import short, sum_scale, weight_scale
from rarefy.quantizing.points import Place, Point

Grid = tuple[Tensor, Tensor]  # scale, zero point
Grids = dict[Place, Grid]


def align(model: nn.Module, points: Sequence[Point]) -> None:
    """Move (in place) the scales of a network that rounds at `points`, once they are trained, by a thousandth or so.

    What Quantize makes is aligned already. Biases are to follow the scales afterwards.
    """
    grids: Grids = {}
    for point in points:
        module, side = model.get_submodule(point.place[0]), point.place[1]
        grids[point.place] = module.get_buffer(f"{side}_scale"), module.get_buffer(f"{side}_zero_point")
    align_activations(grids, points)
    for weight in weights(model):
        link = encodings.find(weight, Affine)
        if isinstance(link, Affine):
            align_weight(model, weight, link, grids)


def align_activations(grids: Grids, points: Sequence[Point]) -> None:
    """Move (in place) the scales of sums, and of what is summed."""
    addends = {point.place: point.addends for point in points if point.place == point.of}
    added = {place for places in addends.values() for place in places}
    for place in TopologicalSorter(addends).static_order():
        scale = grids[place][0]
        if addends[place]:
            scale.fill_(sum_scale(float(scale), [float(grids[addend][0]) for addend in addends[place]]))
        elif place in added:
            scale.fill_(short(float(scale)))


def align_weight(model: nn.Module, weight: Weight, link: Affine, grids: Grids) -> None:
    """Move (in place) the scales of a weight whose layer is rounded before and after, and has it for itself."""
    path = next(path for path, module in model.named_modules() if module is weight.module)
    given, rounded = grids.get((path, "input")), grids.get((path, "output"))
    if given and rounded and not link.group and link.axis in (0, None) and len(weight.owners) == 1 and link.bits <= 8:
        link.scale.copy_(weight_scale(link.scale, given[0].to(link.scale), rounded[0].to(link.scale)))
