"""The shipped file, `NAME.rfy`: an ONNX model with its tensors entropy-coded and its graph compressed.

Importing this package is light: onnx and the entropy coder load with the first call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rarefy.files import write_whole
from rarefy.pack.contents import Contents, TensorEntry

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_MAX_BYTES", "Contents", "TensorEntry", "contents", "decode", "encode", "read", "write"]

DEFAULT_MAX_BYTES = 4 * 2**30


def encode(model: onnx.ModelProto) -> bytes:
    """The bytes of a `.rfy` file for `model`, which is not changed. Its tensors come back bit for bit."""
    from rarefy.pack import model as models

    return models.encode(model)[0]


def decode(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> onnx.ModelProto:
    """The model in the bytes of a `.rfy` file.

    Raises `PackError` if they are not a whole and sound file, or declare more than `max_bytes` of tensors.
    """
    from rarefy.pack import model as models

    return models.decode(data, max_bytes)[0]


def write(model: onnx.ModelProto, path: str | Path) -> Contents:
    """Write `model` to `path`: the whole file or nothing. Tensors are named as in `model`."""
    from rarefy.pack import model as models

    data, labels = models.encode(model)
    found = models.decode(data, max(DEFAULT_MAX_BYTES, 2 * model.ByteSize()), labels)[1]  # it must be readable
    write_whole(Path(path), data)
    return found


def read(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> onnx.ModelProto:
    """The model in the file `path`; see `decode`."""
    from rarefy.pack import files

    return files.load(Path(path), max_bytes)[0]


def contents(source: bytes | str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Contents:
    """Where the bytes of a file are. Tensors whose names were dropped are called w0, w1, ..."""
    from rarefy.pack import files
    from rarefy.pack import model as models

    if isinstance(source, bytes):
        return models.decode(source, max_bytes)[1]
    return files.load(Path(source), max_bytes)[1]
