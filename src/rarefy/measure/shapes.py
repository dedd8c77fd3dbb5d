"""Shapes of a graph's tensors for a given batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rarefy.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorShapeProto, ValueInfoProto

_LARGE = 4096  # initialisers with more elements are weights, whose values no shape depends on

Shape = tuple[int, ...]


def infer(model: ModelProto) -> tuple[ModelProto, int]:
    """The graph with the shapes of its tensors for a batch of 1, and the batch that they are really for.

    A file whose batch is fixed keeps it; the caller divides by it. Local functions must be inlined. The
    weights' values are left out. Dimensions other than the batch that the file leaves open stay unknown.
    """
    import onnx

    light = _without_weights(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in light.graph.input if value.name not in weights and _dims(value)]
    _open_to_one(light.graph, inputs)
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        raise InputError(f"the shapes of the graph's tensors cannot be worked out: {error}") from error
    firsts = {_dims(value)[0].dim_value for value in [*inputs, *inferred.graph.output[:1]] if _dims(value)}
    return inferred, max(1, *firsts) if len(firsts) == 1 else 1


def known(graph: GraphProto) -> dict[str, Shape]:
    """The tensors of this graph whose shape is known in full."""
    values = [*graph.input, *graph.value_info, *graph.output]
    found = {value.name: shape for value in values if (shape := _static(value)) is not None}
    found |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return found | {sparse.values.name: tuple(sparse.dims) for sparse in graph.sparse_initializer}


def concrete(
    name: str, declared: Sequence[int | str | None], batch: int, given: Mapping[str, Shape] | None = None
) -> Shape:
    """The shape to feed to the input `name` for `batch` examples.

    declared: the file's own dimensions, the open ones as text or None; the first is the batch.
    given: for each input with other open dimensions, the shape of one example, without the batch.
    """
    if given and name in given:
        return (batch, *given[name])
    if not declared:
        return ()
    first, *rest = declared
    if isinstance(first, int) and first != batch:
        raise InputError(f"input {name!r} has a fixed batch of {first}, not {batch}: measure it with batch {first}")
    sizes = [size for size in rest if isinstance(size, int)]
    if len(sizes) < len(rest):
        words = ", ".join("?" if size is None else str(size) for size in declared)
        raise InputError(
            f"input {name!r} has open dimensions besides the batch ({words}); give its shape, "
            f"e.g. shapes={{{name!r}: (3, 224, 224)}}, or export the file with fixed ones"
        )
    return (batch, *sizes)


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy where each large initialiser is an input of the same type and shape."""
    import onnx

    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)  # from 4 on, an initialiser need not be an input
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    graph.name = model.graph.name
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGE:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _open_to_one(graph: GraphProto, inputs: Sequence[ValueInfoProto]) -> None:
    """Set the open first dimension of the inputs to 1, wherever it occurs."""
    names = {_dims(value)[0].dim_param for value in inputs} - {""}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        for dim in _dims(value):
            if dim.dim_param in names:
                dim.dim_value = 1
    for value in inputs:
        if not _dims(value)[0].HasField("dim_value"):
            _dims(value)[0].dim_value = 1


def _dims(value: ValueInfoProto) -> Sequence[TensorShapeProto.Dimension]:
    dims: Sequence[TensorShapeProto.Dimension] = value.type.tensor_type.shape.dim
    return dims


def _static(value: ValueInfoProto) -> Shape | None:
    """The shape if it is known and every dimension is a number."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)
