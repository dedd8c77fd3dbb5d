"""Weights of a bare ONNX file, counted as the operators get them: decoded.

A codebook's indices are looked up, integers are dequantized; so a shared or quantized weight has the elements
of the plain one, and its zeros are zeros of the network. Codebooks, scales and zero points are not weights.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import InputError
from rarefy.measure.files import constants, inline

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

# operator -> positions of constants that are not weights: scales, running statistics, sizes
_NOT_WEIGHTS = {
    "QuantizeLinear": {1, 2},
    "DequantizeLinear": {1, 2},
    "QLinearConv": {1, 4, 6},
    "QLinearMatMul": {1, 4, 6},
    "BatchNormalization": {3, 4},
    "Resize": {1, 2},
}
# (operator, position of an integer weight) -> position of its zero point
_INTEGER = {
    ("QLinearConv", 3): 5,
    ("QLinearMatMul", 3): 5,
    ("ConvInteger", 1): 3,
    ("MatMulInteger", 1): 3,
}


def parameters(model: ModelProto) -> tuple[int, int]:
    """(elements, non-zero elements) of the graph's weights.

    Weights are the constants of one dimension or more that meet what depends on the inputs: floating ones,
    and the integers of integer products. What is inside If, Loop and Scan is not counted.
    """
    plain = inline(model)
    known, folded = constants(plain.graph)
    live = [node for node in plain.graph.node if not known.issuperset(node.output)]
    values = _decoded(plain, folded, {name for node in live for name in node.input} & known)
    zeros = {name: zero for node in live for name, zero in _weights(node, values)}
    nonzero = (np.count_nonzero(values[name] != zero) for name, zero in zeros.items())
    return sum(values[name].size for name in zeros), int(sum(nonzero))


def _weights(node: NodeProto, values: dict[str, Array]) -> list[tuple[str, Array]]:
    """The weights of a node, each with the value that means zero in it."""
    found = []
    for position, name in enumerate(node.input):
        if name not in values or values[name].ndim == 0 or position in _NOT_WEIGHTS.get(node.op_type, ()):
            continue
        point = _INTEGER.get((node.op_type, position))
        if point is not None:
            given = node.input[point] if point < len(node.input) else ""
            found.append((name, _aligned(values[given], values[name]) if given else np.zeros(())))
        elif _floating(values[name]):
            found.append((name, np.zeros((), values[name].dtype)))
    return found


def _aligned(zero_point: Array, weight: Array) -> Array:
    """Zero points per channel, to broadcast: the first dimension of a convolution, the last of a product."""
    return zero_point.reshape(-1, *[1] * (weight.ndim - 1)) if weight.ndim > 2 else zero_point


def _decoded(model: ModelProto, folded: Sequence[NodeProto], wanted: Set[str]) -> dict[str, Array]:
    """The values of the wanted constants, the stored and the computed ones."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in wanted}
    computed = sorted({name for node in folded for name in node.output} & wanted)
    if computed:
        used = {name for node in folded for name in node.input}
        stored = [tensor for tensor in graph.initializer if tensor.name in used]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in computed]
        decoder = onnx.helper.make_graph(folded, "decoder", [], outputs, stored)
        part = onnx.helper.make_model(decoder, opset_imports=model.opset_import, ir_version=model.ir_version)
        try:
            arrays: Any = ReferenceEvaluator(part).run(None, {})
            values |= zip(computed, arrays, strict=True)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
            raise InputError(f"the stored weights cannot be decoded: {error}") from error
    return values


def _floating(value: Array) -> bool:
    return value.dtype.kind == "f" or "float" in value.dtype.name  # bfloat16 comes as an extension type
