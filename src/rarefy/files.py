"""Files that are whole or not there, and tensors without pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.errors import InputError, ModelError, RunError

if TYPE_CHECKING:
    from torch import Tensor, nn


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary name, sync, rename.

    Raises `InputError` where the place cannot be written (no space, no permission); nothing is left behind then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path} ({len(data):,} bytes): {error.strerror or error}; free space or choose another folder"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that belongs to the state of `model`, each once however many modules share it."""
    kept = set(model.state_dict())
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in kept}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> None:
    """Write tensors (and some JSON) as safetensors."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(_apart(plain), {"state": json.dumps(state or {})}))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote. Raises `RunError` where the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            state = json.loads((file.metadata() or {}).get("state", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); delete it and run again") from None


def restore(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into those of `model`, in place. Raises `ModelError` naming what does not fit."""
    import torch

    own = model_tensors(model)
    problems = [f"missing {n}" for n in own.keys() - tensors.keys()]
    problems += [f"unknown {n}" for n in tensors.keys() - own.keys()]
    problems += [
        f"{n} has shape {tuple(tensors[n].shape)}, the network {tuple(own[n].shape)}"
        for n in own.keys() & tensors.keys()
        if own[n].shape != tensors[n].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ModelError(f"{where} does not fit the network: {shown}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
