"""What ONNX Runtime makes of a stored weight."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from torch import nn

from rarefy.export.writer import ModelWriter
from rarefy.graph.weights import by_path


def decoded(module: nn.Module) -> tuple[np.ndarray, onnx.GraphProto]:
    """The parameter `weight` of a module, and the graph that holds it."""
    weight = by_path(module)["weight"]
    shape = list(weight.tensor.shape)
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("weight", TensorProto.FLOAT, shape)])
    writer = ModelWriter(graph)
    writer.weight("weight", weight)
    writer.finish()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0], graph
