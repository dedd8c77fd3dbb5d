"""From the traced graph's nodes for binary layers to what runs: functions of one bit per weight, with all folded in
that is constant for each channel.

BatchNorm after a binary layer becomes part of its scale and bias, and so does the next layer's threshold; BatchNorm
before a sign becomes a threshold. Both are exact but for the rounding of the float arithmetic that they save.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper

from rarefy import encodings
from rarefy.export import binary
from rarefy.export.shifts import fold_shifts, quick_slopes
from rarefy.export.values import Array, Values
from rarefy.graph.weights import Weight
from rarefy.kernels import Convolution, pack_bits, unpack_bits
from rarefy.numerics.binary import threshold

SYMBOL = "Layer"  # the operator that rarefy.layers.binary is traced as
FUSED = {"Conv", "Gemm", "MatMul"}  # engines take a BatchNorm into these themselves


def placed(proto: onnx.ModelProto, found: Mapping[str, Weight], parts: dict[str, list[str]]) -> None:
    """Replace (in place) every layer node; `parts` loses what is folded away.

    found: the weights of the network by all their paths. parts: parameter -> names of the tensors that it is stored in.
    """
    graph = Values(proto.graph)
    layers = [Layer(node, graph, found) for node in proto.graph.node if _is_layer(node)]
    if not layers:
        return
    for layer in layers:
        layer.fold_after({other.name: other for other in layers})
    fold_shifts(graph, layers)
    for layer in layers:
        layer.fold_before()
    graph.replace(quick_slopes(graph) | {layer.name: layer.written() for layer in layers})
    for name in [name for name, held in parts.items() if not graph.kept(held)]:
        del parts[name]
    binary.declare(proto)


def _is_layer(node: NodeProto) -> bool:
    return node.domain == binary.DOMAIN and node.op_type == SYMBOL


class Layer:
    """One layer node: y = scale * sum(weight * activation(x - threshold)) + bias."""

    def __init__(self, node: NodeProto, graph: Values, found: Mapping[str, Weight]) -> None:
        self.graph = graph
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = dict(zip([name.decode() for name in said["have"]], node.input[1:], strict=True))
        self.x, self.y, self.name = node.input[0], node.output[0], node.output[0]
        self.shape = tuple(said["shape"])
        self.weight, self.threshold = given["weight"], given.get("threshold", "")
        steps = numpy_helper.to_array(graph.tensors[given["steps"]]) if "steps" in given else 1.0
        self.how = _how(said, float(steps))
        self.scale, self.scale_name = np.full(self.shape[0], 1 / self.how.steps), ""
        self.bias, self.bias_name = np.zeros(self.shape[0]), ""
        self.packed = self.alone = self.lent = False  # lent: its scale is that of other layers too
        self._stored(found.get(self.weight))
        own = graph.values(given["bias"]) if "bias" in given else None
        if own is not None:
            self.bias, self.bias_name = own.astype(np.float64), given["bias"]
        self.extra = given["bias"] if "bias" in given and own is None else ""  # a bias that is no constant of its own

    def _stored(self, weight: Weight | None) -> None:
        """Where the bits and the scales are, if they are what is stored."""
        links = encodings.chain(weight) if weight else ()
        if weight is None or len(links) != 1 or not isinstance(links[0], encodings.Signs):
            return
        self.alone = self.graph.once(self.weight)
        self.packed, self.weight = True, f"{weight.path}.values"
        if links[0].scaled:
            self.lent = not self.alone
            self.scale_name = f"{weight.path}.scale"
            self.scale *= links[0].scale.detach().cpu().double().numpy()

    def fold_after(self, layers: Mapping[str, Layer]) -> None:
        """Take in the BatchNorm that alone reads the result, and the threshold of the layer that alone reads that."""
        reader = self.graph.reader(self.y)
        norm = self.graph.norm(reader)
        if reader is None or norm is None or not self.shiftable or self.lent:
            return
        gamma, beta, mean, deviation = norm
        factor = gamma / deviation
        self.scale, self.bias = self.scale * factor, (self.bias - mean) * factor + beta
        self.scale_name, self.bias_name = self.scale_name or reader.input[1], reader.input[2]
        self.y = reader.output[0]
        self.graph.gone.add(self.y)
        read = self.graph.reader(self.y)
        after = None if read is None else layers.get(read.output[0])
        shift = self.graph.values(after.threshold) if after is not None else None
        if after is not None and shift is not None and not after.how.map:
            self.bias -= shift
            after.threshold = ""

    @property
    def shiftable(self) -> bool:
        """Whether its bias is its own."""
        return not self.extra

    def shift(self, value: Array, name: str) -> None:
        """Add to the bias; `name` is a tensor that it can be stored in from now on."""
        self.bias = self.bias + value
        self.bias_name = self.bias_name or name

    def fold_before(self) -> None:
        """Take a BatchNorm that gives only this layer its input, and no layer can take in, as the threshold."""
        before = self.graph.makers.get(self.x) if self.graph.once(self.x) else None
        norm = self.graph.norm(before)
        shift = self.graph.values(self.threshold) if self.threshold else np.zeros(self.shape[1])
        if before is None or norm is None or shift is None or self.how.bits or self.how.map:
            return
        maker = self.graph.makers.get(before.input[0])
        if self.x in self.graph.gone or (maker is not None and maker.op_type in FUSED):
            return
        gamma, beta, mean, deviation = (torch.from_numpy(value) for value in norm)
        place, flip = (
            t.numpy() for t in threshold(gamma, beta - torch.from_numpy(shift.astype(np.float64)), mean, deviation)
        )
        if flip.any() and not self.alone:
            return
        if flip.any():
            self._flip(flip)
        self.graph.set(before.input[2], place)
        self.graph.gone.add(self.x)
        self.x, self.threshold = before.input[0], before.input[2]

    def _flip(self, channels: Array) -> None:
        """Change the sign of the weights that meet these channels."""
        bits = numpy_helper.to_array(self.graph.tensors[self.weight])
        weight = unpack_bits(bits, self.shape)
        weight[:, channels] *= -1
        self.graph.set(self.weight, pack_bits(weight))

    def written(self) -> list[NodeProto]:
        """The nodes that run."""
        made, x, threshold = list[NodeProto](), self.x, self.threshold
        if threshold and not binary.takes_threshold(self.how, packed=self.packed):
            axes = self._constant(made, "axes", [1, 2] if len(self.shape) == 4 else [0])
            t, x = f"{self.name}.threshold", f"{self.name}.shifted"
            made.append(helper.make_node("Unsqueeze", [self.threshold, axes], [t]))
            made.append(helper.make_node("Sub", [self.x, t], [x]))
            threshold = ""
        scale = self._scale(made)
        bias = self.extra or self._vector(made, "bias", self.bias, self.bias_name)
        inputs = (x, self.weight, scale, bias)
        made.append(binary.node(*inputs, self.y, self.shape, self.how, packed=self.packed, threshold=threshold))
        return made

    def _scale(self, made: list[NodeProto]) -> str:
        if not self.lent:
            return self._vector(made, "scale", self.scale, self.scale_name)
        if self.how.steps == 1:
            return self.scale_name
        factor = self._vector(made, "factor", np.full(self.shape[0], 1 / self.how.steps), "")
        made.append(helper.make_node("Mul", [self.scale_name, factor], [f"{self.name}.scale"]))
        return f"{self.name}.scale"

    def _vector(self, made: list[NodeProto], suffix: str, value: Array, name: str) -> str:
        """A value for each filter: the stored tensor of that name, or one number for all."""
        if name:
            self.graph.set(name, value.astype(np.float32))
            return name
        one, size = numpy_helper.from_array(value[:1].astype(np.float32)), self._constant(made, suffix, [len(value)])
        made.append(helper.make_node("ConstantOfShape", [size], [f"{self.name}.{suffix}"], value=one))
        return f"{self.name}.{suffix}"

    def _constant(self, made: list[NodeProto], suffix: str, value: list[int]) -> str:
        name = f"{self.name}.{suffix}_shape"
        made.append(helper.make_node("Constant", [], [name], value_ints=value))
        return name


def _how(said: Mapping[str, Any], steps: float) -> Convolution:
    if "strides" not in said:
        return Convolution(bits=said["bits"], steps=steps)
    (sh, sw), (dh, dw), (top, left, bottom, right) = said["strides"], said["dilations"], said["padding"]
    return Convolution((sh, sw), (top, left, bottom, right), (dh, dw), 0, said["bits"], steps, bool(said["map"]))
