"""The graph of a network as ONNX, with the network's own tensors left open."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from rarefy.errors import ExportError
from rarefy.export.writer import nodes
from rarefy.task import forward
from rarefy.train import evaluating

OPSET = 21  # the first with 4-bit integers


def traced(model: nn.Module, inputs: Any, dynamic: bool = True) -> tuple[onnx.ModelProto, list[str]]:
    """The graph without the network's parameters and buffers, and the names of those that it uses.

    dynamic: the first dimension of every input takes any size. The metadata `form` says how outputs that are more
    than one tensor belong together. Raises `ExportError` where the first dimension stays fixed, and what torch raises.
    """
    with evaluating(model):
        output = forward(model, inputs)
    proto, used = _open(_export(model, inputs, output, dynamic), set(model.state_dict()))
    fixed = [port.name for port in proto.graph.input if port.type.tensor_type.shape.dim[0].HasField("dim_value")]
    if dynamic and fixed:
        raise ExportError(f"the exporter fixed the batch of {', '.join(fixed)}")
    if not isinstance(output, Tensor):
        proto.metadata_props.add(key="form", value="dict" if isinstance(output, Mapping) else "sequence")
    return proto, used


def _export(model: nn.Module, inputs: Any, output: Any, dynamic: bool) -> Any:
    """`torch.export` ties the batches of all inputs by one name."""
    batch = {0: torch.export.Dim("batch", min=1)}
    given: dict[str, Any] = {"args": tuple(listed(inputs)), "dynamic_shapes": tuple(batch for _ in listed(inputs))}
    if isinstance(inputs, Mapping):
        given = {"args": (), "kwargs": dict(inputs), "dynamic_shapes": dict.fromkeys(inputs, batch)}
    if not dynamic:
        del given["dynamic_shapes"]
    names, output_names = _port_names(model, inputs, output)
    with _quiet():
        program: Any = torch.onnx.export(
            model,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=output_names,
            **given,
        )
    return program.model


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
    used = {name for node in nodes(proto.graph) for name in node.input} | {o.name for o in proto.graph.output}
    wanted = [v.name for v in taken if v.name in used]
    inputs = [i for i in proto.graph.input if i.name not in {v.name for v in taken}]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    _strip(proto)
    return proto, wanted


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
    for node in nodes(graph):
        del node.metadata_props[:]
        node.doc_string, node.name = "", ""


def listed(inputs: Any) -> list[Tensor]:
    """The inputs of a batch that is no dict."""
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _port_names(model: nn.Module, inputs: Any, output: Any) -> tuple[list[str], list[str] | None]:
    """The names that the network gives its inputs and outputs, apart from each other and from its tensors."""
    taken = set(model.state_dict())
    outputs = ["output"] if isinstance(output, Tensor) else None
    if isinstance(output, Mapping) and all(isinstance(value, Tensor) for value in output.values()):
        outputs = list(output)
    if outputs:
        outputs = [f"output_{name}" if name in taken else name for name in outputs]
        taken |= set(outputs)
    return [f"input_{name}" if name in taken else name for name in _input_names(model, inputs)], outputs


def _input_names(model: nn.Module, inputs: Any) -> list[str]:
    if isinstance(inputs, Mapping):
        return list(inputs)
    accepted = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    count = len(listed(inputs))
    return accepted[:count] if len(accepted) >= count else [f"input_{i}" for i in range(count)]


def line(error: BaseException) -> str:
    """The first line of what went wrong at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return lines[0] if lines else type(error).__name__


def reason(model: nn.Module, error: BaseException) -> str:
    """Why a network has no ONNX form, in a sentence."""
    return (
        f"{type(model).__name__} cannot be exported to ONNX: {line(error)}. "
        "Data-dependent control flow is the usual cause; its tensors can still be packed"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own insides and prints its progress and the graphs it fails on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
