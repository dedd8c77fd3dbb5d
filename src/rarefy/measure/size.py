"""Bytes of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rarefy.measure.files import existing

if TYPE_CHECKING:
    from torch import Tensor


def file_bytes(path: str | os.PathLike[str]) -> int:
    """The size of the file on disk."""
    return existing(path).stat().st_size


def safetensors_bytes(state: Mapping[str, Tensor]) -> int:
    """The size of the safetensors file of these tensors, floating ones as float32, others as they are.

    The file is written to the temporary folder, measured and removed. Tensors that are one and the same
    memory (tied weights) are written once, under their first name.
    """
    from safetensors.numpy import save_file

    arrays, seen = {}, set()
    for name, tensor in state.items():
        same = _memory(tensor)
        if same not in seen:
            plain = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
            arrays[name] = plain.cpu().contiguous().numpy()
        seen.add(same)
    with tempfile.TemporaryDirectory(prefix="rarefy-") as folder:
        file = Path(folder, "plain.safetensors")
        save_file(arrays, file)
        return file.stat().st_size


def _memory(tensor: Tensor) -> Hashable:
    """Equal for tensors that are views of the same numbers; an empty tensor is only equal to itself."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tuple(tensor.shape), tensor.stride(), tensor.dtype
