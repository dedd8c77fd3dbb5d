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


def test_a_graph_without_integers_is_left_alone() -> None:
    model = graph("Relu", 0.1, 0)
    del model.graph.node[:2]
    model.graph.node[0].input[0] = "x"
    before = model.SerializeToString()
    tidied(model.graph)
    assert model.SerializeToString() == before
