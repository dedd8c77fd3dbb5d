"""Models that the pack's tests share."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def codebook_model(*, hidden: int = 400, levels: int = 16) -> onnx.ModelProto:
    """Two dense layers whose weights are `Gather(codebook, indices)`, with long names and comments."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def coded(name: str, shape: tuple[int, ...]) -> str:
        indices = np.where(rng.random(shape) < 0.9, 0, rng.integers(1, levels, shape)).astype(np.uint8)
        index = constant(f"{name}.indices", indices)
        codebook = constant(f"{name}.codebook", rng.normal(size=levels).astype(np.float32))
        nodes.append(helper.make_node("Cast", [index], [f"{name}.int"], to=TensorProto.INT32))
        nodes.append(helper.make_node("Gather", [codebook, f"{name}.int"], [name], doc_string="looked up"))
        return name

    first, second = coded("layers.0.weight", (64, hidden)), coded("layers.2.weight", (hidden, 10))
    bias = constant("layers.0.bias", rng.normal(size=hidden).astype(np.float32))
    shape = constant("shape", np.array([-1, 64], np.int64))
    nodes += [
        helper.make_node("Reshape", ["image", shape], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", first, bias], ["hidden"], name="layers.0"),
        helper.make_node("Relu", ["hidden"], ["active"], name="layers.1"),
        helper.make_node("MatMul", ["active", second], ["scores"], name="layers.2"),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        weights,
        doc_string="a comment",
        value_info=[helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 64])],
    )
    model = helper.make_model(graph, producer_name="tests", ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {"classes": "zero one two"})
    return model


@pytest.fixture(scope="session")
def model() -> onnx.ModelProto:
    return codebook_model()
