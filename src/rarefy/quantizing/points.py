"""Where activations are rounded so that engines can run a network on integers.

A convolution runs on integers where its input, its weight and its output are rounded; sums, concatenations and means
in between where their inputs and output are. A value is rounded once, by the module that gives it, so that all who
read it see the same; where no module gives it (a function did), by the layers that read it. A ReLU after a layer is
taken into the rounding of the layer's output, whose integers then begin at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import nn

from rarefy.graph.flow import Flow, Step, Value
from rarefy.layers.rounding import Side

SAME = {
    *("max_pool1d", "max_pool2d", "boolean_dispatch", "adaptive_max_pool2d", "reshape", "view", "flatten", "squeeze"),
    *("unsqueeze", "permute", "transpose", "contiguous", "dropout", "chunk", "split", "getitem", "expand", "clone"),
}  # what comes out is some of what went in
BETWEEN = {
    "add",
    "iadd",
    "cat",
    "concat",
    "mul",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "mean",
}  # integers in, integers out

SUMS = {"add", "iadd", "cat", "concat"}

Place = tuple[str, Side]


@dataclass(frozen=True)
class Point:
    """One place, and the one whose range it has; `clip` are the bounds of an activation function taken in.

    silent: what comes there is rounded already, and only the range has to be known. addends: the places whose values
    are summed (or put side by side) to what is rounded here.
    """

    place: Place
    of: Place
    clip: tuple[float, float] | None = None
    silent: bool = False
    addends: tuple[Place, ...] = ()
    bits: int = 8


def points(model: nn.Module, seen: Flow, layers: list[str]) -> list[Point]:
    """The points that let the modules at `layers` run on integers."""
    return _Search(model, seen, layers).found()


class _Search:
    def __init__(self, model: nn.Module, seen: Flow, layers: list[str]) -> None:
        self.modules, self.seen, self.layers = dict(model.named_modules()), seen, layers
        self.placed: dict[Place, Point] = {}
        self.values: dict[Value, Place] = {}  # rounded by the module that gives it
        self.functional: dict[Value, Place] = {}  # rounded by its readers; the first of them
        self.taken: dict[Value, Value] = {}  # what an absorbed ReLU gives -> the layer's output
        self.own: dict[Value, Place] = {v: (path, "output") for path in layers for v in seen.outputs.get(path, [])}
        self.clips = {path: self._clip(path) for path in layers}

    def found(self) -> list[Point]:
        for path in self.layers:
            self._input(path)
            if not isinstance(self.modules[path], nn.Linear):
                for value in self.seen.outputs.get(path, []):
                    self._at(value)
        for _ in range(2):  # the second time, those whose inputs were placed by what comes later
            for step in self.seen.steps:
                self._between(step)
        for value, place in (self.functional | self.values).items():
            self.placed[place] = replace(self.placed[place], addends=self._addends(value))
        return list(self.placed.values())

    def _addends(self, value: Value) -> tuple[Place, ...]:
        step = self.seen.made_by.get(value)
        if step is not None and bounded(step):
            step = self.seen.made_by.get(step.inputs[0])
        if step is None or step.name not in SUMS:
            return ()
        roots = [self.root(v)[0] for v in step.inputs]
        return tuple(place for v in roots if (place := self.values.get(v) or self.functional.get(v)))

    def _clip(self, path: str) -> tuple[float, float] | None:
        """The bounds of the ReLU that follows every call of a layer, and nothing else does."""
        after = []
        for value in self.seen.outputs.get(path, []):
            uses = self.seen.uses.get(value, [])
            after.append(uses[0] if len(uses) == 1 and value not in self.seen.results else None)
        bounds = {None if step is None else bounded(step) for step in after}
        clip = bounds.pop() if len(bounds) == 1 else None
        if clip is not None:
            self.taken |= {s.outputs[0]: v for s, v in zip(after, self.seen.outputs[path], strict=True) if s}
        return clip

    def root(self, value: Value) -> tuple[Value, bool]:
        """The value that holds all that this one does, and whether something but a ReLU is between."""
        moved = False
        while True:
            if value in self.taken:
                value = self.taken[value]
                continue
            step = self.seen.made_by.get(value)
            if value in self.own or value in self.values or step is None or step.name not in SAME or not step.inputs:
                return value, moved
            value, moved = step.inputs[0], True

    def _at(self, value: Value) -> Place | None:
        """Round a value where it is given; None where no module can."""
        place = self.own.get(value) or self._giver(value)
        if place is None:
            return None
        self.values[value] = place
        self.placed.setdefault(place, Point(place, place, self.clips.get(place[0])))
        return place

    def _giver(self, value: Value) -> Place | None:
        for path in self.seen.givers.get(value, []):
            if path and self.seen.calls[path] == 1 and not isinstance(self.modules[path], nn.Sequential):
                return path, "output"
        return None

    def _input(self, path: str) -> None:
        place: Place = (path, "input")
        roots = [self.root(value) for value in self.seen.inputs.get(path, [])]
        if not roots:
            return
        if len({value for value, _ in roots}) > 1:  # one range for all of its calls, beside that of each value
            places = [self._at(value) for value, _ in roots]
            if None in places or any(moved for _, moved in roots):
                self.placed[place] = Point(place, place)
            return
        value, moved = roots[0]
        given = self._at(value)
        if given is None:
            of = self.functional.setdefault(value, place)
            self.placed[place] = Point(place, of)
        else:
            self.placed[place] = Point(place, given, silent=not moved)

    def _between(self, step: Step) -> None:
        """An operation that runs on integers if what it gives is rounded too."""
        if step.name not in BETWEEN or not step.inputs:
            return
        if all(self.root(value)[0] in self.values for value in step.inputs):
            uses = self.seen.uses.get(step.outputs[0], [])
            last = uses[0] if len(uses) == 1 and bounded(uses[0]) else step
            if last.outputs[0] not in self.seen.results and step.outputs[0] not in self.seen.results:
                self._at(last.outputs[0])


def bounded(step: Step) -> tuple[float, float] | None:
    """The bounds of an activation function that only clips, with 0 the lower; None for any other function."""

    def get(index: int, name: str, default: float) -> float:
        given = step.args[index] if len(step.args) > index else step.options.get(name, default)
        return default if given is None else float(given)

    if step.name == "relu":
        return 0.0, math.inf
    if step.name == "relu6":
        return 0.0, 6.0
    if step.name in ("hardtanh", "clamp", "clip", "clamp_min"):
        low = get(1, "min_val" if step.name == "hardtanh" else "min", -1.0)
        high = 1.0 if step.name == "hardtanh" else math.inf
        high = high if step.name == "clamp_min" else get(2, "max_val" if step.name == "hardtanh" else "max", high)
        return (0.0, high) if low == 0 else None
    return None
