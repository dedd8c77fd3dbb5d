"""The values of a graph that is being rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, numpy_helper

from rarefy.export.writer import nodes

Array = npt.NDArray[Any]


class Values:
    """Who makes and who reads each value of a graph, and its constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.results = {value.name for value in graph.output}
        self.uses = Counter(name for node in nodes(graph) for name in node.input)
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.gone: set[str] = set()  # results of operators that are folded into others

    def once(self, name: str) -> bool:
        """Whether one operator reads the value, and nobody else."""
        return self.uses[name] == 1 and name not in self.results and name in self.readers

    def reader(self, name: str) -> NodeProto | None:
        """The only operator that reads the value."""
        return self.readers[name][0] if self.once(name) else None

    def read_by(self, name: str, old: NodeProto, new: NodeProto) -> None:
        """Another operator reads the value in the place of one."""
        self.readers[name] = [new if node is old else node for node in self.readers[name]]

    def values(self, name: str) -> Array | None:
        """A constant that one operator reads."""
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors and self.uses[name] == 1 else None

    def set(self, name: str, value: Array) -> None:
        """Change a constant."""
        self.tensors[name].CopyFrom(numpy_helper.from_array(value, name))

    def norm(self, node: NodeProto | None) -> tuple[Array, Array, Array, Array] | None:
        """Scale, shift, mean and deviation of a BatchNorm that no other node shares, in float64."""
        if node is None or node.op_type != "BatchNormalization":
            return None
        found = [self.values(name) for name in node.input[1:]]
        if any(value is None or value.dtype != np.float32 for value in found):
            return None
        gamma, beta, mean, variance = (np.array(value, np.float64) for value in found)
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        return gamma, beta, mean, np.sqrt(variance + epsilon)

    def replace(self, written: Mapping[str, list[NodeProto]]) -> None:
        """Put lists of nodes in the place of those with these results, and leave out what nobody reads any more."""
        results = [(node, node.output[0]) for node in self.graph.node]
        made = [n for old, name in results for n in written.get(name, [] if name in self.gone else [old])]
        wanted, kept = set(self.results), list[NodeProto]()
        for node in reversed(made):
            if wanted.intersection(node.output):
                kept.append(node)
                bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
                wanted.update(node.input, *(inner.input for body in bodies for inner in nodes(body)))
        kept = [_copied(node) for node in reversed(kept)]
        tensors = [_copied(tensor) for tensor in self.graph.initializer if tensor.name in wanted]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(kept)
        self.graph.initializer.extend(tensors)
        self.tensors = {tensor.name: tensor for tensor in tensors}

    def kept(self, names: list[str]) -> bool:
        """Whether the constants are still there."""
        return all(name in self.tensors for name in names)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
