"""A network as standard ONNX, each weight in the form its encoding gives.

The plain network is exported once, with its weights left open; then each weight is written into that skeleton: as it
is, or as what its encoding stores and the standard operators that decode it (`Gather` for codebooks, `Cast` for
16-bit floats). So measuring after every step does not trace the network again.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from rarefy import encodings
from rarefy.errors import ExportError, ModelError
from rarefy.files import model_tensors
from rarefy.graph.weights import Weight, by_path
from rarefy.task import forward
from rarefy.train import evaluating

OPSET = 21  # the first with 4-bit integers

_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}


class Exporter:
    """Writes networks that share one graph: those that differ in their weights and encodings only.

    model: any of them. inputs: those of a batch, at least two examples. metadata: goes into every file.
    Raises `ExportError` where torch cannot export the network.
    """

    def __init__(self, model: nn.Module, inputs: Any, metadata: Mapping[str, str] | None = None) -> None:
        self.warnings: list[str] = []
        self.skeleton, self.open = self._trace(model, inputs)
        for key, value in (metadata or {}).items():
            self.skeleton.metadata_props.add(key=key, value=value)

    def _trace(self, model: nn.Module, inputs: Any) -> tuple[onnx.ModelProto, list[str]]:
        plain = encodings.decoded(copy.deepcopy(model)).cpu().eval()
        try:
            program = _export(plain, inputs, dynamic=True)
        except Exception as error:  # torch raises many kinds; the second try decides
            try:
                program = _export(plain, _first(inputs), dynamic=False)
            except Exception as fixed:
                raise ExportError(_reason(plain, fixed)) from error
            self.warnings.append(
                "exported for a batch of one example: the network does not take a variable number of them "
                f"({_line(error)})"
            )
        return _open(program, set(model_tensors(plain)))

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
        names = [*dict.fromkeys(w.path for w in by_path(model).values()), *_buffers(model)]
        exported = _write(proto, names, model)
        shapes = {w.path: w.tensor for w in by_path(model).values()} | model_tensors(model)
        for name in names:
            kind = _TYPES[shapes[name].dtype]
            proto.graph.output.append(helper.make_tensor_value_info(f"out:{name}", kind, list(shapes[name].shape)))
            proto.graph.node.append(helper.make_node("Identity", [name], [f"out:{name}"]))
        return Exported(proto, exported.parts, runs=False)


def _buffers(model: nn.Module) -> list[str]:
    buffers = dict(model.named_buffers())
    return [name for name in model_tensors(model) if name in buffers and ".parametrizations." not in f".{name}"]


def _write(proto: onnx.ModelProto, names: list[str], model: nn.Module) -> Exported:
    found, tensors = by_path(model), model_tensors(model)
    writer = _Writer(proto.graph)
    for name in names:
        if name in found:
            writer.weight(name, found[name])
        else:
            writer.constant(name, tensors[name])
    writer.finish()
    return Exported(proto, writer.parts)


class _Writer:
    """Builds one file; the `Writer` that encodings write themselves to."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.nodes = graph, list[onnx.NodeProto]()
        self.name = ""
        self.written: dict[int, str] = {}  # a shared weight is written once
        self.same: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}

    def weight(self, name: str, weight: Weight) -> None:
        """Write a weight so that `name` is its decoded value."""
        first = self.written.setdefault(id(weight.values), name)
        if first != name:
            self.same[name] = first
            return
        self.name, links = weight.path, encodings.chain(weight)
        start = len(self.nodes)
        result = self.tensor("" if not links else "values", encodings.stored(weight))
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

    def constant(self, name: str, value: Tensor) -> None:
        """Write a buffer."""
        self.name = name
        self.tensor("", value)

    def tensor(self, suffix: str, value: Tensor, dtype: str | None = None) -> str:
        """Store a tensor of the current weight."""
        name = f"{self.name}.{suffix}" if suffix else self.name
        self.graph.initializer.append(tensor_proto(name, value, dtype))
        self.parts.setdefault(self.name, []).append(name)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator of the current weight."""
        if op == "Cast":
            attributes["to"] = getattr(TensorProto, {"float32": "FLOAT", "int32": "INT32"}[attributes["to"]])
        output = f"{self.name}.{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def finish(self) -> None:
        """Put the decoding operators first and join the names of shared weights."""
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *rest])
        for node in self.graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = self.same.get(name, name)


def tensor_proto(name: str, value: Tensor, dtype: str | None = None) -> TensorProto:
    """A torch tensor as ONNX stores it; `dtype` "uint4" packs two values into a byte, the first in the low half."""
    value = value.detach().cpu().contiguous()
    if dtype == "uint4":
        flat = torch.nn.functional.pad(value.flatten(), (0, value.numel() % 2)).view(-1, 2)
        raw, kind = (flat[:, 0] | flat[:, 1] << 4).to(torch.uint8), TensorProto.UINT4
    else:
        raw = value if dtype is None else value.to(getattr(torch, dtype))
        kind = _TYPES[raw.dtype]
    data = raw.flatten().view(torch.uint8).numpy().tobytes() if raw.numel() else b""
    return TensorProto(name=name, data_type=kind, dims=list(value.shape), raw_data=data)


def _export(model: nn.Module, inputs: Any, dynamic: bool) -> Any:
    batch = {0: torch.export.Dim("batch", min=1)} if dynamic else None
    names = _input_names(model, inputs)
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else _listed(inputs)
    shapes: Any = [batch] * len(tensors)
    keywords: dict[str, Any] = {"args": tuple(tensors), "dynamic_shapes": tuple(shapes)}
    if isinstance(inputs, Mapping):
        keywords = {"args": (), "kwargs": dict(inputs), "dynamic_shapes": dict(zip(inputs, shapes, strict=True))}
    if not dynamic:
        del keywords["dynamic_shapes"]
    with _quiet():
        return torch.onnx.export(
            model,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=_output_names(model, inputs),
            **keywords,
        ).model


def _open(program: Any, names: set[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Take the network's own tensors out of the exported graph, then fold constants: no weight is folded away."""
    import onnx_ir
    from onnxscript.optimizer import optimize

    graph = program.graph
    taken = [graph.initializers.pop(n) for n in list(graph.initializers) if n in names]
    for value in taken:
        value.const_value = None
    graph.inputs.extend(taken)
    with _quiet():
        optimize(program)
    proto = onnx_ir.to_proto(program)
    used = {name for node in _nodes(proto.graph) for name in node.input} | {o.name for o in proto.graph.output}
    wanted = [v.name for v in taken if v.name in used]
    inputs = [i for i in proto.graph.input if i.name not in {v.name for v in taken}]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    _strip(proto)
    return proto, wanted


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _strip(proto: onnx.ModelProto) -> None:
    """Leave out what only debugs the exporter: source lines, shapes of every intermediate value."""
    graph = proto.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.producer_name, proto.producer_version, proto.doc_string, graph.doc_string = "rarefy", "", "", ""
    graph.name = "network"
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]
    for node in _nodes(graph):
        del node.metadata_props[:]
        node.doc_string, node.name = "", ""


def _listed(inputs: Any) -> list[Tensor]:
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _first(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: tensor[:1] for name, tensor in inputs.items()}
    return tuple(tensor[:1] for tensor in _listed(inputs))


def _input_names(model: nn.Module, inputs: Any) -> list[str]:
    if isinstance(inputs, Mapping):
        return list(inputs)
    accepted = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    count = len(_listed(inputs))
    return accepted[:count] if len(accepted) >= count else [f"input_{i}" for i in range(count)]


def _output_names(model: nn.Module, inputs: Any) -> list[str] | None:
    with evaluating(model):
        output = forward(model, inputs)
    if isinstance(output, Mapping):
        return list(output)
    return ["output"] if isinstance(output, Tensor) else None


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _reason(model: nn.Module, error: BaseException) -> str:
    return (
        f"{type(model).__name__} cannot be exported to ONNX: {_line(error)}. "
        "Data-dependent control flow is the usual cause; its tensors can still be packed"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own insides and prints its progress."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def example(batches: Any, model: nn.Module) -> Any:
    """Two examples of what the network takes, on which it is run once. Raises `ModelError` naming both shapes."""
    inputs = next(iter(batches))[0]
    few = _map(inputs, lambda t: (t if len(t) > 1 else torch.cat([t, t]))[:2].cpu())
    try:
        with evaluating(model):
            forward(model, few)
    except Exception as error:
        first = next((tuple(p.shape) for p in model.parameters()), ())
        raise ModelError(
            f"{type(model).__name__} does not run on the data: its first weight has shape {first}, the data give "
            f"inputs of shape {_shapes(few)} ({_line(error)})"
        ) from error
    return few


def _map(inputs: Any, change: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(change(tensor) for tensor in inputs)
    return change(inputs)


def _shapes(inputs: Any) -> str:
    tensors = inputs.values() if isinstance(inputs, Mapping) else _listed(inputs)
    return ", ".join(str(tuple(t.shape)) for t in tensors)
