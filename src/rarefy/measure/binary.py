"""The binary layers of a file one by one, beside a float32 and an INT8 layer of the same shape, on this machine.

Whether bits pay depends on the CPU: one that multiplies INT8 in units of their own (VNNI, AMX) leaves less to be won
than one that does not, and few channels leave nothing. So it is measured where the run was made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rarefy.measure.engine import opener
from rarefy.measure.files import inline, read
from rarefy.measure.latency import record, sample
from rarefy.measure.shapes import Shape, infer, known
from rarefy.records import BinaryTiming

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

DOMAIN = "rarefy"
MOST = 8  # shapes, those of most multiplications
OPSET, IR = 21, 10


class Layer(NamedTuple):
    """What the time of a binary layer depends on."""

    op: str
    x: Shape
    shape: Shape
    bits: int
    geometry: tuple[tuple[str, Any], ...]  # strides, dilations, padding

    @property
    def macs(self) -> int:
        """Multiplications of stride 1, which is enough to put layers in order."""
        return int(np.prod(self.x[2:])) * int(np.prod(self.shape)) * self.x[0]


def planes(node: NodeProto) -> int:
    """How many bits of its input a node's kernel counts; 0 where it is no binary layer."""
    if node.domain != DOMAIN or not node.op_type.startswith(("Binary", "LowBit")):
        return 0
    return int(_attributes(node).get("bits", 1))


def binary_layers(path: str | os.PathLike[str], *, seconds: float = 0.25) -> list[BinaryTiming]:
    """Time each shape of the file's binary layers, for `seconds`, at batch 1 on one thread."""
    model = read(path)
    return [_timed(layer, count, model, seconds) for layer, count in found(model)]


def found(model: ModelProto) -> list[tuple[Layer, int]]:
    """The different binary layers and how many there are, the largest first."""
    nodes = [node for node in model.graph.node if planes(node)]
    if not nodes:
        return []
    sizes = known(infer(inline(model))[0].graph)
    layers = Counter(_layer(node, sizes[node.input[0]]) for node in nodes if node.input[0] in sizes)
    return sorted(layers.items(), key=lambda entry: -entry[0].macs)[:MOST]


def _layer(node: NodeProto, x: Shape) -> Layer:
    values = _attributes(node)
    geometry = tuple((name, tuple(values[name])) for name in ("strides", "dilations", "padding") if name in values)
    return Layer(node.op_type, x, tuple(values["shape"]), planes(node), geometry)


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _timed(layer: Layer, count: int, of: ModelProto, seconds: float) -> BinaryTiming:
    import onnx

    with TemporaryDirectory() as folder:
        paths = []
        for name, model in _models(layer, of):
            paths.append(Path(folder, f"{name}.onnx"))
            onnx.save(model, paths[-1])
        times = sample([opener(path, batch=layer.x[0]) for path in paths], seconds, 16)
    this, float32, int8 = (times[:, :, i] for i in range(3))
    return BinaryTiming(
        shape=list(layer.shape),
        input=list(layer.x),
        bits=layer.bits,
        count=count,
        float32=record(this, float32, 1, layer.x[0]),
        int8=record(this, int8, 1, layer.x[0]),
    )


def _models(layer: Layer, of: ModelProto) -> Iterator[tuple[str, ModelProto]]:
    """The layer in bits (as the functions of the file have it), in float32 and in INT8, with numbers made up."""
    from onnx import helper

    rng, filters, size = np.random.default_rng(0), layer.shape[0], int(np.prod(layer.shape[1:]))
    ones = np.ones(filters, np.float32)
    arrays = {"w": rng.integers(0, 256, (filters, -(-size // 8)), np.uint8), "s": ones, "b": ones}
    arrays |= {"t": np.zeros(layer.shape[1], np.float32)} if layer.op.endswith("Threshold") else {}
    values = {**dict(layer.geometry), "shape": layer.shape}
    values |= {"bits": layer.bits, "steps": 1.0} if layer.op.startswith("LowBit") else {}
    values |= {"pad_value": 0.0} if layer.op.startswith("BinaryConv") else {}
    bits = _model([helper.make_node(layer.op, ["x", *arrays], ["y"], domain=DOMAIN, **values)], arrays, layer)
    del bits.opset_import[:]
    bits.opset_import.extend(of.opset_import)
    bits.functions.extend(of.functions)
    yield "bits", bits
    weight = rng.standard_normal(layer.shape).astype(np.float32)
    product, how = ("Conv", _standard(layer)) if len(layer.shape) == 4 else ("Gemm", {"transB": 1})
    yield "float32", _model([helper.make_node(product, ["x", "w", "b"], ["y"], **how)], {"w": weight, "b": ones}, layer)
    yield "int8", _int8(layer, np.clip(np.round(weight * 40), -127, 127).astype(np.int8))


def _int8(layer: Layer, weight: np.ndarray) -> ModelProto:
    """Unsigned inputs, signed weights, a scale for each filter of a convolution."""
    from onnx import helper

    kind, how = ("QLinearConv", _standard(layer)) if len(layer.shape) == 4 else ("QLinearMatMul", {})
    filters = len(weight) if how else 1
    arrays: dict[str, Any] = {"xs": np.float32(0.03), "xz": np.uint8(128), "ys": np.float32(0.5)}
    arrays |= {"w": weight if how else weight.T.copy(), "ws": np.full(filters, 0.01, np.float32)}
    arrays |= {"wz": np.zeros(filters, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node(kind, ["q", "xs", "xz", "w", "ws", "wz", "ys", "xz"], ["r"], **how),
        helper.make_node("DequantizeLinear", ["r", "ys", "xz"], ["y"]),
    ]
    return _model(nodes, arrays, layer)


def _standard(layer: Layer) -> dict[str, Any]:
    """The geometry as ONNX's convolutions have it."""
    values = dict(layer.geometry)
    pads = values.pop("padding")
    return {**values, "pads": [*pads[2:4], *pads[6:8]]}


def _model(nodes: list[NodeProto], arrays: Mapping[str, Any], layer: Layer) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(layer.x))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
