"""The rest of the model: what is not needed to run it is dropped, and the tensors are taken out.

A tensor that is taken out keeps its name, type and dimensions in the graph but has no data. Tensors are met
in the order of `tensors_of`, wherever they are: initialisers, sparse initialisers, attributes, subgraphs,
functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from rarefy.errors import PackError
from rarefy.pack.tensors import ELEMENTS, size_in_bytes

DATA_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "raw_data",
    "double_data",
    "uint64_data",
)
KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
SMALL, SMALL_INTEGERS = 16, 128  # bytes up to which a tensor stays in the graph
SHAPE_TYPES = {TensorProto.INT64, TensorProto.INT32}
STRING, MESSAGE = 9, 11  # google.protobuf.descriptor.FieldDescriptor.TYPE_*
DEEPEST = 64


@dataclass(frozen=True)
class Place:
    """A tensor without its data: `count` elements, `size` bytes."""

    proto: TensorProto
    count: int
    size: int


@dataclass(frozen=True)
class Taken(Place):
    """A tensor that was taken out of the graph, and its little-endian bytes."""

    data: bytes


def messages(message: Any, depth: int = 0) -> Iterator[Any]:
    """`message` and everything inside it, depth first, in the order of the field numbers."""
    if depth > DEEPEST:
        raise PackError(f"corrupted: messages nested deeper than {DEEPEST}")
    yield message
    for field, value in message.ListFields():
        if field.type == MESSAGE:
            for item in value if field.is_repeated else [value]:
                yield from messages(item, depth + 1)


def check_text(model: onnx.ModelProto) -> None:
    """Raise `PackError` where a string is not UTF-8: protobuf gives bytes for it, which nothing expects."""
    for message in messages(model):
        for field, value in message.ListFields():
            items = value if field.is_repeated else [value]
            if field.type == STRING and any(isinstance(item, bytes) for item in items):
                raise PackError(f"corrupted: the graph is not ONNX ({field.name} is not UTF-8)")


def tensors_of(model: onnx.ModelProto) -> list[TensorProto]:
    """All tensors of `model`, in the order in which a pack stores them."""
    return [item for item in messages(model) if isinstance(item, TensorProto)]


def strip(model: onnx.ModelProto) -> None:
    """Drop what no run needs: comments, producer, names of nodes, shapes that can be inferred. In place."""
    known = KNOWN_DOMAINS | {function.domain for function in model.functions}
    for item in list(messages(model)):
        fields = item.DESCRIPTOR.fields_by_name
        if "doc_string" in fields:
            item.ClearField("doc_string")
        if "metadata_props" in fields and item is not model:
            item.ClearField("metadata_props")
        if isinstance(item, onnx.NodeProto):
            item.ClearField("name")
    model.graph.ClearField("name")
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    if all(node.domain in known for node in messages(model) if isinstance(node, onnx.NodeProto)):
        for graph in [item for item in messages(model) if isinstance(item, onnx.GraphProto | onnx.FunctionProto)]:
            graph.ClearField("value_info")


def take_tensors(model: onnx.ModelProto) -> list[Taken]:
    """Move the data of all but small tensors out of `model`."""
    taken = []
    for proto in tensors_of(model):
        if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
            raise PackError(f"the data of the tensor {proto.name!r} is in another file: use onnx.load(path)")
        if place(proto) is not None:
            raise PackError(f"the tensor {proto.name!r} of shape {list(proto.dims)} has no data")
        count = prod(proto.dims)
        if proto.data_type not in ELEMENTS or count == 0 or proto.HasField("segment"):
            continue
        size = size_in_bytes(ELEMENTS[proto.data_type], count)
        if size > (SMALL_INTEGERS if proto.data_type in SHAPE_TYPES else SMALL):
            taken.append(Taken(proto, count, size, _take_data(proto, size)))
    return taken


def _take_data(proto: TensorProto, size: int) -> bytes:
    source = proto if proto.HasField("raw_data") else numpy_helper.from_array(numpy_helper.to_array(proto))
    data = source.raw_data
    if len(data) != size:
        raise PackError(f"tensor {proto.name!r} has {len(data)} bytes; shape {list(proto.dims)} and type need {size}")
    for field in DATA_FIELDS:
        proto.ClearField(field)
    return bytes(data)


def place(proto: TensorProto) -> Place | None:
    """What belongs into `proto`, if its data was taken out."""
    if proto.data_type not in ELEMENTS or proto.HasField("segment"):
        return None
    if any(dim < 0 for dim in proto.dims):
        raise PackError(f"corrupted: a tensor of shape {list(proto.dims)[:8]}")
    count = prod(proto.dims)
    if count == 0 or proto.HasField("raw_data") or any(len(getattr(proto, field)) for field in DATA_FIELDS):
        return None
    return Place(proto, count, size_in_bytes(ELEMENTS[proto.data_type], count))


def labels(model: onnx.ModelProto) -> list[str]:
    """A name for every tensor; that of a constant is its node's output."""
    found, near = [], ""
    for item in messages(model):
        if isinstance(item, onnx.NodeProto):
            near = item.output[0] if item.output else ""
        elif isinstance(item, TensorProto):
            found.append(item.name or near)
    return found


def type_name(proto: TensorProto) -> str:
    """ONNX's name of the element type."""
    known: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return known.get(proto.data_type, f"type {proto.data_type}")
