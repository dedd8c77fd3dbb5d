"""A whole model to the bytes of a file and back."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from rarefy.errors import PackError
from rarefy.pack import graph as graphs
from rarefy.pack import names, records, squeeze
from rarefy.pack.bits import Reader, varint
from rarefy.pack.container import sealed, unsealed
from rarefy.pack.contents import Contents, TensorEntry

HIDDEN = 0x80  # added to the squeezing method where the names are hidden


def encode(model: onnx.ModelProto) -> tuple[bytes, list[str]]:
    """The bytes for `model`, which is not changed, and its names of the tensors, in order."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    graphs.strip(work)
    hidden = names.hideable(work)
    if hidden:
        names.sort(work.graph)
    labels = graphs.labels(work)
    taken = graphs.take_tensors(work)
    if hidden:
        names.hide(work.graph)
    plain = work.SerializeToString(deterministic=True)
    method, squeezed = squeeze.squeeze(plain)
    head = bytes([method | HIDDEN * hidden]) + varint(len(plain)) + varint(len(squeezed))
    return sealed(head + squeezed + records.encode(taken)), labels


def decode(
    data: bytes | memoryview, max_bytes: int, labels: list[str] | None = None
) -> tuple[onnx.ModelProto, Contents]:
    """The model of a file and where the bytes are; `labels` are other names for the tensors, in order."""
    try:
        return _decode(Reader(unsealed(data)), len(data), max_bytes, labels)
    except MemoryError:
        raise PackError("the tensors do not fit into memory") from None


def _decode(reader: Reader, total: int, max_bytes: int, labels: list[str] | None) -> tuple[onnx.ModelProto, Contents]:
    model = _graph(reader, max_bytes)
    protos = graphs.tensors_of(model)
    places = [graphs.place(proto) for proto in protos]
    declared = sum(place.size for place in places if place)
    if declared > max_bytes:
        raise PackError(
            f"declares {amount(declared)} of tensors; the limit is {amount(max_bytes)}: pass max_bytes=... "
            "if you trust the file"
        )
    tensors = records.Records(reader, sum(place is not None for place in places))
    entries = []
    for index, (proto, place) in enumerate(zip(protos, places, strict=True)):
        coding, size = "graph", 0
        if place:
            proto.raw_data, coding, size = tensors.next(place)
        name = labels[index] if labels else proto.name or f"tensor {index}"
        count = place.count if place else 0
        entries.append(TensorEntry(name, graphs.type_name(proto), tuple(proto.dims), coding, size, count))
    tensors.finish()
    return model, Contents(total, total - sum(entry.bytes for entry in entries), tuple(entries))


def _graph(reader: Reader, max_bytes: int) -> onnx.ModelProto:
    method, size = reader.byte(), reader.varint()
    if size > max_bytes:
        raise PackError(f"declares a graph of {amount(size)}; the limit is {amount(max_bytes)}")
    plain = squeeze.unsqueeze(method & ~HIDDEN, bytes(reader.take(reader.varint())), size)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(plain)
    except DecodeError as error:
        raise PackError(f"corrupted: the graph is not ONNX ({error})") from None
    graphs.check_text(model)
    if method & HIDDEN:
        names.reveal(model.graph)
    model.graph.name = "graph"  # a valid model must have one
    return model


def amount(size: float) -> str:
    """A number of bytes, in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.{0 if unit == 'bytes' else 1}f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
