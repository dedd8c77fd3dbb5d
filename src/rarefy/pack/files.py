"""Packs on disk."""

from __future__ import annotations

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
