"""Multiply-accumulates of one example, read off the ONNX graph.

One for each multiplication of the definition of a convolution, a matrix product or a recurrent cell, zeros
included: an engine for dense numbers does them all. Element-wise operators, biases, pooling and normalisation
are not counted, nor is what the engine computes once when it loads the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from rarefy.measure.binary import planes
from rarefy.measure.files import STANDARD, constants, inline
from rarefy.measure.shapes import Shape, infer, known

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


class Operation(NamedTuple):
    """One operator that multiplies and accumulates."""

    name: str  # of the node
    op: str
    macs: int | None  # of one example; None where a shape is open or the number of repetitions depends on the data
    weights: int  # elements of its constant operands, read once for each inference
    bits: int  # width of its operands: 8 for integers, 1 for those of binary layers, else 32
    planes: int = 1  # of a binary layer's input, each of which is multiplied


def macs(model: ModelProto) -> int | None:
    """Multiply-accumulates of one example; None where they depend on the data, or are not known."""
    counts = [operation.macs for operation in operations(model)]
    return None if None in counts else sum(count for count in counts if count is not None)


def operations(model: ModelProto) -> list[Operation]:
    """The operators that multiply and accumulate, in the graph's order.

    Local functions are expanded. Of an If, the branch with more multiply-accumulates is counted; what is in
    the body of a Loop or Scan, and operators outside the ONNX standard, have `macs` None.
    """
    whole = inline(model)
    plain, batch = infer(whole)
    found = _of_graph(plain.graph, {}, constants(whole.graph)[0])
    # the first dimension of a network with recurrent cells can be the steps instead
    examples = 1 if any(o.op in _RECURRENT for o in found) else batch
    found = _in_bits(found, model, plain.graph)
    return [o if o.macs is None else o._replace(macs=o.macs // examples) for o in found]


def _in_bits(found: list[Operation], model: ModelProto, plain: GraphProto) -> list[Operation]:
    """With the width of what binary layers multiply: the bodies of their functions have +1 and -1 as floats."""
    made_by = {name: node for node in plain.node for name in node.output}
    counted = {}
    for layer in (node for node in model.graph.node if planes(node)):
        node = made_by.get(layer.output[0])
        while node is not None and node.op_type not in COUNTERS:  # what follows the sums: scales, map, bias
            node = made_by.get(node.input[0])
        if node is not None:
            counted[node.name or node.output[0]] = planes(layer)
    return [o._replace(bits=1, planes=counted[o.name]) if o.name in counted else o for o in found]


def _of_graph(graph: GraphProto, around: Mapping[str, Shape], constant: Set[str]) -> list[Operation]:
    shapes = {**around, **known(graph)}
    constant = constants(graph, constant)[0]
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: list[Operation] = []
    for node in graph.node:
        if set(node.output) <= constant:
            continue
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if bodies:
            found += _of_bodies(node, [_of_graph(body, shapes, constant) for body in bodies])
        elif node.domain not in STANDARD:
            found.append(Operation(node.name, f"{node.domain}.{node.op_type}", None, 0, 32))
        elif node.op_type in COUNTERS:
            found.append(_operation(node, shapes, constant, dequantized))
    return found


def _of_bodies(node: NodeProto, bodies: list[list[Operation]]) -> list[Operation]:
    if node.op_type == "If":
        return max(bodies, key=lambda body: sum(operation.macs or 0 for operation in body))
    return [operation._replace(macs=None) for body in bodies for operation in body]


def _operation(node: NodeProto, shapes: Mapping[str, Shape], constant: Set[str], dequantized: Set[str]) -> Operation:
    count, *positions = COUNTERS[node.op_type]
    operands = [node.input[i] for i in positions if i < len(node.input) and node.input[i]]
    sizes = [shapes.get(name) for name in operands]
    output = next((shapes[name] for name in node.output if name in shapes), None)
    complete = [size for size in sizes if size is not None]
    counted = None if output is None or len(complete) < len(sizes) else count(node, complete, output)
    paired = zip(operands, sizes, strict=True)
    weights = sum(math.prod(size) for name, size in paired if size and name in constant)
    narrow = node.op_type in _INTEGER or set(operands) <= dequantized
    return Operation(node.name or node.output[0], node.op_type, counted, weights, 8 if narrow else 32)


def _convolution(_: NodeProto, operands: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(operands[1][1:])  # the weight is (out, in / groups, *kernel)


def _transposed(_: NodeProto, operands: Sequence[Shape], __: Shape) -> int:
    return math.prod(operands[0]) * math.prod(operands[1][1:])  # the weight is (in, out / groups, *kernel)


def _product(_: NodeProto, operands: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * operands[0][-1]


def _gemm(node: NodeProto, operands: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * operands[0][0 if _integer(node, "transA") else 1]


def _recurrent(_: NodeProto, operands: Sequence[Shape], __: Shape) -> int:
    steps, batch, _width = operands[0]  # or (batch, steps, width): the product is the same
    weights = sum(math.prod(weight) for weight in operands[1:])  # (directions, gates * hidden, ...)
    return steps * batch * weights


def _attention(node: NodeProto, operands: Sequence[Shape], _: Shape) -> int:
    """Q K^T and its product with V, of (batch, heads, length, size) or (batch, length, heads * size)."""
    query, key, value, *past = operands
    length = key[-2] + sum(size[-2] for size in past)
    if len(query) == 4:
        return math.prod(query[:3]) * length * (query[3] + value[3])
    share = _integer(node, "q_num_heads") / _integer(node, "kv_num_heads")  # heads that use one value
    return math.prod(query[:2]) * length * (query[2] + round(value[2] * share))


def _einsum(node: NodeProto, operands: Sequence[Shape], _: Shape) -> int | None:
    """The product of all the indices' sizes; a single operand is only rearranged or summed."""
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    if len(operands) < 2:
        return 0
    if "." in equation or len(operands) > 2:  # the order in which more are multiplied is the engine's
        return None
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        sizes |= {index: max(size, sizes.get(index, 1)) for index, size in zip(term, operand, strict=True)}
    return math.prod(sizes.values())


def _integer(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


_Counter = Callable[["NodeProto", Sequence[Shape], Shape], int | None]

_INTEGER = {"ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"}
_RECURRENT = {"RNN", "GRU", "LSTM"}

# operator -> how it is counted, then the positions of the inputs that it multiplies
COUNTERS: dict[str, tuple[_Counter, *tuple[int, ...]]] = {
    "Conv": (_convolution, 0, 1),
    "DeformConv": (_convolution, 0, 1),
    "ConvInteger": (_convolution, 0, 1),
    "QLinearConv": (_convolution, 0, 3),
    "ConvTranspose": (_transposed, 0, 1),
    "MatMul": (_product, 0, 1),
    "MatMulInteger": (_product, 0, 1),
    "QLinearMatMul": (_product, 0, 3),
    "Gemm": (_gemm, 0, 1),
    "Einsum": (_einsum, *range(8)),
    "RNN": (_recurrent, 0, 1, 2),
    "GRU": (_recurrent, 0, 1, 2),
    "LSTM": (_recurrent, 0, 1, 2),
    "Attention": (_attention, 0, 1, 2, 4),
}
