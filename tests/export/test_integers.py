"""What integers have done already goes out of the graph, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarefy.export.integers import tidied


def graph(op: str, scale: float, point: int, more: dict[str, Any] | None = None, **attributes: Any) -> onnx.ModelProto:
    tensors = {"scale": np.float32(scale), "point": np.uint8(point), **(more or {})}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
        helper.make_node(op, ["d", *(more or {})], ["e"], **attributes),
        helper.make_node("Neg", ["e"], ["y"]),
    ]
    shapes = {"x": [2, 3, None, None], "y": [2, None, None, None]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def tidy(model: onnx.ModelProto) -> list[str]:
    """The operators afterwards; the answer is the same."""
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32) * 9}
    answers = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, inputs)[0])
        tidied(model.graph)
    assert np.allclose(*answers, atol=1e-5)
    onnx.checker.check_model(model, full_check=True)
    return [node.op_type for node in model.graph.node][2:]


SIX = {"low": np.float32(0), "high": np.float32(6)}


@pytest.mark.parametrize(
    ("op", "scale", "point", "more", "left"),
    [
        ("Relu", 0.1, 0, None, ["Neg"]),
        ("Relu", 0.1, 3, None, ["Relu", "Neg"]),
        ("Clip", 6 / 255, 0, SIX, ["Neg"]),
        ("Clip", 6.1 / 255, 0, SIX, ["Clip", "Neg"]),
        ("Clip", 5 / 255, 1, SIX, ["Clip", "Neg"]),
        ("Sigmoid", 0.1, 0, None, ["Sigmoid", "Neg"]),
    ],
)
def test_clipping(op: str, scale: float, point: int, more: Any, left: list[str]) -> None:
    model = graph(op, scale, point, more)
    assert tidy(model) == left
    assert {t.name for t in model.graph.initializer} == {"scale", "point"} | (
        set(more or {}) if len(left) > 1 else set()
    )


@pytest.mark.parametrize(
    ("axes", "convolved", "left"),
    [
        ([-1, -2], True, "GlobalAveragePool"),
        ([-1, -2], False, "ReduceMean"),  # it could be any tensor
        ([-1], True, "ReduceMean"),
        ([1, 2], True, "ReduceMean"),
    ],
)
def test_means(axes: list[int], convolved: bool, left: str) -> None:
    model = graph("ReduceMean", 0.1, 100, {"axes": np.array(axes)}, keepdims=1)
    if convolved:
        weight = np.random.default_rng(1).normal(size=(3, 3, 1, 1)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
        model.graph.node.insert(0, helper.make_node("Conv", ["x", "weight"], ["c"]))
        model.graph.node[1].input[0] = "c"
    assert tidy(model)[-2:] == [left, "Neg"]


def _picture(channels: int, kernel: int, point: int = 0, group: int = 1, between: bool = False) -> onnx.ModelProto:
    """x as integers -> convolution with integer weights."""
    random = np.random.default_rng(3)
    weight = random.integers(-127, 128, (4, channels // group, kernel, kernel)).astype(np.int8)
    tensors = {
        "scale": np.float32(0.1),
        "point": np.uint8(3),
        "weight": weight,
        "scales": np.full(4, 0.1, np.float32),
        "points": np.full(4, point, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "points"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], group=group),
    ]
    if between:
        nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), *nodes]
        nodes[1].input[0] = "s"
    shapes = {"x": [2, channels, 12, 12], "y": [2, 4, 13 - kernel, 13 - kernel]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("settings", "padded"),
    [
        ({"channels": 3, "kernel": 3}, True),
        ({"channels": 1, "kernel": 3}, True),
        ({"channels": 6, "kernel": 5}, True),
        ({"channels": 4, "kernel": 3}, False),
        ({"channels": 1, "kernel": 5}, False),  # 75 products more for 25
        ({"channels": 3, "kernel": 11}, False),
        ({"channels": 3, "kernel": 3, "point": 2}, False),  # zeros are not 0
        ({"channels": 12, "kernel": 3, "group": 4}, False),
        ({"channels": 3, "kernel": 3, "between": True}, False),
    ],
    ids=str,
)
def test_channels_of_the_input_in_fours(settings: dict[str, Any], padded: bool) -> None:
    model = _picture(**settings)
    x = np.random.default_rng(0).normal(size=(2, settings["channels"], 12, 12)).astype(np.float32)
    answers = []
    for pads in (0, 2 * padded):
        assert sum(node.op_type == "Pad" for node in model.graph.node) == pads
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": x})[0])
        tidied(model.graph)
    assert np.array_equal(*answers)
    onnx.checker.check_model(model, full_check=True)
    held = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    assert held["weight"][1] == settings["channels"] // settings.get("group", 1)  # the file's own is as it was


def test_a_graph_without_integers_is_left_alone() -> None:
    model = graph("Relu", 0.1, 0)
    del model.graph.node[:2]
    model.graph.node[0].input[0] = "x"
    before = model.SerializeToString()
    tidied(model.graph)
    assert model.SerializeToString() == before
