"""A network as standard ONNX, each weight in the form its encoding gives.

The plain network is exported once, with its weights left open; then each weight is written into that skeleton: as it
is, or as what its encoding stores and the standard operators that decode it (`Gather` for codebooks, `Cast` for
16-bit floats). So measuring after every step does not trace the network again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from rarefy import encodings
from rarefy.errors import ExportError, ModelError
from rarefy.export.binary_layers import placed
from rarefy.export.integers import tidied
from rarefy.export.trace import OPSET, line, listed, reason, traced
from rarefy.export.writer import TYPES, ModelWriter
from rarefy.files import model_tensors
from rarefy.graph.weights import by_path, weights
from rarefy.task import forward
from rarefy.train import evaluating


class Exporter:
    """Writes networks that share one graph: those that differ in their weights and encodings only.

    model: any of them. inputs: those of a batch, at least two examples. metadata: goes into every file.
    Raises `ExportError` where torch cannot export the network.
    """

    def __init__(self, model: nn.Module, inputs: Any, metadata: Mapping[str, str] | None = None) -> None:
        self.warnings: list[str] = []
        plain = encodings.decoded(encodings.adopted(copy.deepcopy(model))).cpu().eval()
        self.skeleton, self.open = self._trace(plain, inputs)
        for key, value in (metadata or {}).items():
            self.skeleton.metadata_props.add(key=key, value=value)

    def _trace(self, plain: nn.Module, inputs: Any) -> tuple[onnx.ModelProto, list[str]]:
        try:
            return traced(plain, inputs)
        except Exception as error:  # torch raises many kinds; the second try decides
            try:
                result = traced(plain, _map(inputs, lambda tensor: tensor[:1]), dynamic=False)
            except Exception as fixed:
                raise ExportError(reason(plain, fixed)) from error
            self.warnings.append(
                "exported for a batch of one example: the network does not take a variable number of them "
                f"({line(error)})"
            )
            return result

    def write(self, model: nn.Module) -> Exported:
        """The network as ONNX."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.skeleton)
        return _write(proto, self.open, model)


@dataclass(frozen=True)
class Exported:
    """An ONNX model, and the names of the tensors that each parameter or buffer of the network is stored in."""

    proto: onnx.ModelProto
    parts: dict[str, list[str]]
    runs: bool = True  # False: it holds the tensors, and no network


class TensorExporter:
    """For networks that cannot be exported: a file without inputs whose outputs are all the network's tensors.

    The same container, encodings and coding; `rarefy.load_into(path, model)` puts the tensors back into the class.
    """

    def __init__(self, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        self.warnings = [reason]
        self.metadata = {**(metadata or {}), "holds": "tensors"}

    def write(self, model: nn.Module) -> Exported:
        """All tensors of the network, decoded by standard operators."""
        graph = helper.make_graph([], "tensors", [], [])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        helper.set_model_props(proto, self.metadata)
        tensors = {w.path: w.tensor for w in weights(model)} | _buffers(model)
        exported = _write(proto, list(tensors), model)
        for name, tensor in tensors.items():
            kind = TYPES[tensor.dtype]
            proto.graph.output.append(helper.make_tensor_value_info(f"out:{name}", kind, list(tensor.shape)))
            proto.graph.node.append(helper.make_node("Identity", [name], [f"out:{name}"]))
        return Exported(proto, exported.parts, runs=False)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those of the network itself, and not of the encodings of its weights."""
    buffers = dict(model.named_buffers())
    tensors = model_tensors(model).items()
    return {n: t for n, t in tensors if n in buffers and ".parametrizations." not in f".{n}"}


def _write(proto: onnx.ModelProto, names: list[str], model: nn.Module) -> Exported:
    found, buffers = by_path(model), dict(model.named_buffers(remove_duplicate=False))
    first = {id(buffer): name for name, buffer in model.named_buffers()}
    writer = ModelWriter(proto.graph)
    for name in names:
        if name in found:
            writer.weight(name, found[name])
        else:
            writer.buffer(name, buffers[name], first[id(buffers[name])])
    writer.finish()
    placed(proto, found, writer.parts)
    tidied(proto.graph)
    return Exported(proto, writer.parts)


def example(batches: Any, model: nn.Module) -> Any:
    """Two examples of what the network takes, on which it is run once. Raises `ModelError` naming both shapes."""
    inputs = next(iter(batches))[0]
    few = _map(inputs, lambda t: (t if len(t) > 1 else torch.cat([t, t]))[:2].cpu())
    try:
        with evaluating(model):
            forward(model, few)
    except Exception as error:
        first = next(model.parameters(), torch.empty(0))
        remedy = "" if first.dtype == torch.float32 else f"; its weights are {first.dtype}: give it as model.float()"
        raise ModelError(
            f"{type(model).__name__} does not run on the data: its first weight has shape {tuple(first.shape)}, the "
            f"data give inputs of shape {_shapes(few)} ({line(error)}){remedy}"
        ) from error
    return few


def _map(inputs: Any, change: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(change(tensor) for tensor in inputs)
    return change(inputs)


def _shapes(inputs: Any) -> str:
    tensors = inputs.values() if isinstance(inputs, Mapping) else listed(inputs)
    return ", ".join(str(tuple(t.shape)) for t in tensors)
