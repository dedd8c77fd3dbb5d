"""Packs on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from rarefy.errors import InputError, PackError
from rarefy.pack import model as models
from rarefy.pack.contents import Contents


def load(path: Path, max_bytes: int) -> tuple[onnx.ModelProto, Contents]:
    """The model in the file `path` and where its bytes are; errors name the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return models.decode(data, max_bytes)
    except PackError as error:
        raise PackError(f"{path}: {error}") from None


def replace(path: Path, data: bytes) -> None:
    """Make `data` the file `path`, whole or not at all: written beside it, synced, renamed."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, 0o666 & ~_umask())
            os.fsync(handle)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
