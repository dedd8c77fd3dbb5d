"""Opening what is measured: an `.onnx` file, or a `.rfy` pack, decoded to the ONNX graph that it holds."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from rarefy.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

STANDARD = ("", "ai.onnx", "ai.onnx.ml")  # the domains whose operators ONNX itself defines


def read(path: str | os.PathLike[str]) -> ModelProto:
    """The ONNX model in the file at `path`. A missing file, or one that is neither, is an `InputError`."""
    file = existing(path)
    if file.suffix == ".rfy":
        from rarefy.pack import read as decode

        decoded: ModelProto = decode(file)
        return decoded
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(os.fspath(file), format="protobuf")
    except (DecodeError, onnx.checker.ValidationError, FileNotFoundError) as error:
        raise InputError(f"{file} cannot be read as ONNX ({error}); give an .onnx or .rfy file") from error
    if not model.graph.node:
        raise InputError(f"{file} holds no ONNX graph; give an .onnx or .rfy file")
    return model


def existing(path: str | os.PathLike[str]) -> Path:
    """`path`, which must be a file that is there."""
    file = Path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"{file} {found}; give an .onnx or .rfy file")
    return file


def inline(model: ModelProto) -> ModelProto:
    """The model with its local functions replaced by their bodies, so that every operator is seen."""
    if not model.functions:
        return model
    import onnx
    from onnx import inliner

    try:
        plain: ModelProto = inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise InputError(f"the graph's local functions cannot be expanded: {error}") from error
    return plain


def constants(graph: GraphProto, outer: Set[str] = frozenset()) -> tuple[set[str], list[NodeProto]]:
    """Names of all tensors that do not depend on the inputs, and the nodes that compute some of them.

    ONNX Runtime evaluates those nodes once, when it loads the file. outer: names known to be constant around
    a subgraph.
    """
    # an initialiser that is also listed as an input may be overridden by a caller; it is still a weight
    known = {*outer, *(tensor.name for tensor in graph.initializer)}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    folded = []
    for node in graph.node:
        random = node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
        nested = any(attribute.HasField("g") for attribute in node.attribute)
        if not random and not nested and all(name in known for name in node.input if name):
            known.update(node.output)
            folded.append(node)
    return known, folded
