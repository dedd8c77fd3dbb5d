"""One ONNX file: each weight in the form its encoding gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from rarefy import encodings
from rarefy.graph.weights import Weight

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.uint16: TensorProto.UINT16,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}


class ModelWriter:
    """Builds one file; the `Writer` that encodings write themselves to."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.nodes = graph, list[onnx.NodeProto]()
        self.name = ""
        self.written: dict[int, str] = {}  # a shared weight is written once
        self.same: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}

    def weight(self, name: str, weight: Weight) -> None:
        """Write a weight so that `name` is its decoded value."""
        if not self._new(name, id(weight.values)):
            return
        self.name, links = weight.path, encodings.chain(weight)
        start = len(self.nodes)
        result = self.tensor("" if not links else "values", encodings.stored(weight), encodings.narrow(weight))
        for link in links:
            result = link.write(result, self)
        if result != name:
            self._rename(result, name, start)

    def _rename(self, old: str, new: str, start: int) -> None:
        for node in self.nodes[start:]:
            node.output[0] = new if node.output[0] == old else node.output[0]
        for tensor in self.graph.initializer:
            if tensor.name == old:
                tensor.name = new
                self.parts[self.name] = [new if part == old else part for part in self.parts[self.name]]

    def buffer(self, name: str, value: Tensor, path: str) -> None:
        """Write a buffer, as it is. path: the first of the names that it has in the network."""
        if self._new(name, id(value)):
            self.name = path
            self._add(name, value)

    def _new(self, name: str, tensor: int) -> bool:
        """Whether the tensor of this id is not yet written, under another name."""
        first = self.written.setdefault(tensor, name)
        if first != name:
            self.same[name] = first
        return first == name

    def tensor(self, suffix: str, value: Tensor, dtype: str | None = None) -> str:
        """Store a tensor of the current weight."""
        return self._add(f"{self.name}.{suffix}" if suffix else self.name, value, dtype)

    def _add(self, name: str, value: Tensor, dtype: str | None = None) -> str:
        self.graph.initializer.append(tensor_proto(name, value, dtype))
        self.parts.setdefault(self.name, []).append(name)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator of the current weight."""
        if op == "Cast":
            attributes["to"] = TYPES[getattr(torch, attributes["to"])]
        output = f"{self.name}.{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def finish(self) -> None:
        """Put the decoding operators first and join the names of shared weights."""
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *rest])
        for node in nodes(self.graph):
            for i, name in enumerate(node.input):
                node.input[i] = self.same.get(name, name)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All operators, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def tensor_proto(name: str, value: Tensor, dtype: str | None = None) -> TensorProto:
    """A torch tensor as ONNX stores it; "uint4" and "int4" pack two values into a byte, the first in the low half."""
    value = value.detach().cpu().contiguous()
    if dtype in ("uint4", "int4"):
        flat = (torch.nn.functional.pad(value.flatten(), (0, value.numel() % 2)) & 15).to(torch.uint8).view(-1, 2)
        raw, kind = flat[:, 0] | flat[:, 1] << 4, TensorProto.UINT4 if dtype == "uint4" else TensorProto.INT4
    else:
        raw = value if dtype is None else value.to(getattr(torch, dtype))
        kind = TYPES[raw.dtype]
    data = raw.flatten().view(torch.uint8).numpy().tobytes() if raw.numel() else b""
    return TensorProto(name=name, data_type=kind, dims=list(value.shape), raw_data=data)
