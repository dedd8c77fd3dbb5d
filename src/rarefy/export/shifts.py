"""Constants for each channel, moved past each other until a binary layer takes them: shifts cost a pass each.

What is added between a binary layer and the next sign belongs to the layer's bias or to the sign's threshold, through
the sum with a shortcut too: (y + s) - c = (y - c) + s, and sign(p + a - t) = sign(p - (t - a)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from rarefy.export.values import Array, Values

if TYPE_CHECKING:
    from rarefy.export.binary_layers import Layer


def fold_shifts(graph: Values, layers: Sequence[Layer]) -> None:
    """Take into the layers (in place) what is subtracted after them and added before them."""
    for layer in layers:
        _subtracted_after(graph, layer)
    made, read = {layer.y: layer for layer in layers}, {layer.name: layer for layer in layers}
    for node in list(graph.graph.node):
        if node.op_type == "Add":
            _added_before(graph, node, made, read)


def _subtracted_after(graph: Values, layer: Layer) -> None:
    """y - c, or (y + shortcut) - c."""
    reader = graph.reader(layer.y)
    total = reader if reader is not None and reader.op_type == "Add" else None
    last = graph.reader(total.output[0]) if total is not None else reader
    if last is None or last.op_type != "Sub" or not layer.shiftable:
        return
    source, value = last.input[0], _column(graph, last.input[1], layer.shape)
    if value is None or source != (layer.y if total is None else total.output[0]):
        return
    layer.shift(-value, _stored(graph, last.input[1]))
    if total is None:
        graph.gone.add(last.output[0])
        layer.y = last.output[0]
        return
    graph.gone.add(source)
    inputs = list(total.input)
    last.op_type = "Add"
    del last.input[:]
    last.input.extend(inputs)
    for name in inputs:
        graph.read_by(name, total, last)


def _added_before(graph: Values, node: NodeProto, made: dict[str, Layer], read: dict[str, Layer]) -> None:
    """p + a, where all that read it are signs with thresholds, and sums with what a layer gives."""
    p, total = node.input[0], node.output[0]
    readers = graph.readers.get(total, [])
    if total in graph.results or len(readers) != graph.uses[total] or not readers:
        return
    layers = [read[r.output[0]] for r in readers if r.output[0] in read and r.op_type != "Add"]
    sums = [r for r in readers if r.op_type == "Add"]
    others = [made.get(next(name for name in [*r.input, ""] if name != total)) for r in sums]
    size = next((layer.shape[1] for layer in layers), 0)
    value = _column(graph, node.input[1], (size, 0, 0, 0))
    if value is None or len(layers) + len(sums) != len(readers):
        return
    if not all(_takes(graph, layer, total) for layer in layers):
        return
    if not all(o is not None and o.shiftable and graph.once(o.y) and o.shape[0] == size for o in others):
        return
    for layer in layers:
        threshold = graph.values(layer.threshold)
        assert threshold is not None
        graph.set(layer.threshold, (threshold - value).astype(np.float32))
        layer.x = p
    for other, reader in zip(others, sums, strict=True):
        assert other is not None
        other.shift(value, "")
        reader.input[list(reader.input).index(total)] = p
    graph.gone.add(total)
    graph.uses[p] += len(readers) - 1
    graph.readers[p] = [r for r in graph.readers[p] if r is not node] + readers


def _takes(graph: Values, layer: Layer, value: str) -> bool:
    plain = layer.x == value and not layer.how.bits and not layer.how.map
    return plain and graph.values(layer.threshold) is not None


def _column(graph: Values, name: str, shape: tuple[int, ...]) -> Array | None:
    """A constant with a value for each of the first of `shape`, spread over the channels of images."""
    maker, own = graph.makers.get(name), _stored(graph, name)
    value = graph.values(own) if own and graph.uses[name] == 1 and len(shape) == 4 else None
    if value is None or maker is None or value.shape != shape[:1] or maker.input[1] not in graph.tensors:
        return None
    sizes = numpy_helper.to_array(graph.tensors[maker.input[1]]).tolist()
    return value.astype(np.float64) if sizes in ([-1, 1, 1], [len(value), 1, 1]) else None


def _stored(graph: Values, name: str) -> str:
    """The tensor that a Reshape spreads."""
    maker = graph.makers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "Reshape" else ""


def quick_slopes(graph: Values) -> dict[str, list[NodeProto]]:
    """prelu(x) = max(x, slope x) for slopes up to 1, by result: engines are several times faster at it."""
    found = {}
    for node in graph.graph.node:
        slope = node.input[1] if node.op_type == "PRelu" else ""
        stored = graph.tensors.get(_stored(graph, slope) or slope)
        if stored is not None and bool((numpy_helper.to_array(stored) <= 1).all()):
            (y,), x = node.output, node.input[0]
            times = helper.make_node("Mul", [x, slope], [f"{y}.sloped"])
            found[y] = [times, helper.make_node("Max", [x, f"{y}.sloped"], [y])]
    return found
